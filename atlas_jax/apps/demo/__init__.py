"""The demo: a small Atlas on the World Factbook, whose models and texts come from pip packages."""
