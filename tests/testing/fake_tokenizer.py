"""A tokenizer of any vocabulary size that needs no files, for tests of what stores and reads token ids."""

import zlib


class FakeTokenizer:
    """One id for each word, from 1 on; the same word always has the same id."""

    def __init__(self, name: str = 'fake', vocab_size: int = 101):
        self.fingerprint, self.vocab_size = f'{name}-{vocab_size}', vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of the words of a text."""
        return [1 + zlib.crc32(word.encode()) % (self.vocab_size - 1) for word in text.split()]
