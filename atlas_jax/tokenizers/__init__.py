"""Text to token ids and back: T5 (sentencepiece), BERT (WordPiece), and prompt formats cut into token segments."""
