"""Networks in Flax Linen: BERT, Contriever, T5, Fusion-in-Decoder."""
