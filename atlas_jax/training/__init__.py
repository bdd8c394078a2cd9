"""The joint train step, the answer step, and what they are made of."""
