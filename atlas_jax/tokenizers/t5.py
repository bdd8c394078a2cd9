"""T5's tokenizer: a sentencepiece model plus its sentinels, id for id as Hugging Face's.

Text is cut at special tokens, then at white space, and each word is encoded alone. T5's pieces never cross a space, so this equals
encoding the whole text; and the ids of a prompt put together from parts cannot differ from those of the joined text by rounding.
"""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable

import sentencepiece

from atlas_jax import errors
from atlas_jax.io import atomic
from atlas_jax.tokenizers import spiece, unicode_text

SPIECE_FILE = 'spiece.model'
TOKENIZER_FILE = 'tokenizer.json'
_CACHED_WORDS = 1 << 17
_WHITE_SPACE = re.compile('[ \\t\\n\\r]+')  # what every normalisation of T5 takes for a space


class T5Tokenizer:
    """Encodes and decodes with a serialised sentencepiece model; never truncates.

    `<extra_id_i>` has the id vocab_size - 1 - i, above the pieces of the model; `</s>`, `<pad>` and `<unk>` in a text are their ids too.

    vocab_size   pieces and sentinels (32,100 in the released models, whose embeddings have 32,128 rows)
    fingerprint  16 hexadecimal digits, other ones for a tokenizer that gives other ids
    """

    pad_id = 0
    eos_id = 1

    def __init__(self, model: bytes, extra_ids: int = spiece.EXTRA_IDS):
        """Raises ModelFolderError: the bytes are no sentencepiece model, or one whose pad and eos are not 0 and 1."""
        self._processor = _load(model)
        self._model, self._extra_ids = model, extra_ids
        self._pieces, self._unknown = self._processor.get_piece_size(), self._processor.unk_id()
        self.vocab_size = self._pieces + extra_ids
        self.fingerprint = hashlib.sha256(b't5' + str(extra_ids).encode() + model).hexdigest()[:16]
        self._sentinels = {self.vocab_size - 1 - i: f'<extra_id_{i}>' for i in range(extra_ids)}
        self._special = {'</s>': self.eos_id, '<pad>': self.pad_id, '<unk>': self._unknown}
        self._special |= {text: token for token, text in self._sentinels.items()}
        self._split = re.compile('(' + '|'.join(re.escape(text) for text in self._special) + ')')
        self._encode_word = functools.lru_cache(_CACHED_WORDS)(self._processor.encode)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'T5Tokenizer':
        """Reads spiece.model, or else rebuilds it from tokenizer.json (whose truncation and padding settings do not matter here).

        Raises:
          ModelFolderError: the folder holds neither, or a file that is not a T5's.
        """
        folder = pathlib.Path(folder)
        for file in (folder / SPIECE_FILE, folder / TOKENIZER_FILE):
            if file.is_file():
                try:
                    return cls(file.read_bytes()) if file.name == SPIECE_FILE else cls(*spiece.from_tokenizer_json(file))
                except errors.ModelFolderError as error:
                    raise errors.ModelFolderError(f'{file}: {error}; copy the file of the T5 model there again') from error
        raise errors.ModelFolderError(f'{folder}: no {SPIECE_FILE} and no {TOKENIZER_FILE} in it; copy the T5 tokenizer of the model there')

    def save(self, folder: str | os.PathLike) -> None:
        """Writes spiece.model into the folder. Raises DiskFullError."""
        with atomic.writing(pathlib.Path(folder) / SPIECE_FILE, 'wb') as file:
            file.write(self._model)

    def encode(self, text: str) -> list[int]:
        """Token ids, without eos. Runs of white space count as one space; special tokens split the text."""
        ids: list[int] = []
        for part in self._split.split(unicode_text.valid(text)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                for word in _WHITE_SPACE.split(part):
                    ids.extend(self._encode_word(word))
        return ids

    def decode(self, ids: Iterable[int], keep_sentinels: bool = False) -> str:
        """The text up to the first eos.

        Args:
          ids: pad, unk and ids that are no piece (the embedding has rows to spare) are left out.
          keep_sentinels: whether sentinels stay, as text between spaces.
        """
        parts: list[str] = []
        run: list[int] = []
        for token in (int(token) for token in ids):
            if token == self.eos_id:
                break
            if keep_sentinels and token in self._sentinels:
                parts += [self._processor.decode(run), self._sentinels[token]]
                run = []
            elif 0 <= token < self._pieces and token not in (self.pad_id, self._unknown):
                run.append(token)
        parts.append(self._processor.decode(run))
        return ' '.join(part for part in parts if part)

    def __reduce__(self):
        """To worker processes travels the model alone."""
        return T5Tokenizer, (self._model, self._extra_ids)


def _load(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        if not model:
            raise errors.ModelFolderError('an empty sentencepiece model')
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise errors.ModelFolderError('not a sentencepiece model') from error
    if (found := (processor.pad_id(), processor.eos_id())) != (T5Tokenizer.pad_id, T5Tokenizer.eos_id):
        raise errors.ModelFolderError(f'expected the pad id 0 and the eos id 1 of T5, found {found[0]} and {found[1]}')
    return processor
