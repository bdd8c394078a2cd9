"""Tokenizers of T5 (sentencepiece) and BERT (WordPiece); prompt formats cut into token segments."""
