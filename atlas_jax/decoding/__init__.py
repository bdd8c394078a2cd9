"""Decoding over a tokens_to_logits callable."""
