"""Tokenizers of T5 (sentencepiece) and BERT (WordPiece), and prompt formats cut into token segments."""
