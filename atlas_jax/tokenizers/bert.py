"""BERT's WordPiece tokenizer, on the `tokenizers` library."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from atlas_jax import errors
from atlas_jax.io import atomic

VOCABULARY_FILE = 'vocab.txt'
TOKENIZER_FILE = 'tokenizer.json'
_CONFIG_FILE = 'tokenizer_config.json'
_SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class BertTokenizer:
    """Encodes and decodes; special tokens in a text are their ids, as with Hugging Face's tokenizer."""

    def __init__(self, vocabulary: dict[str, int], lower_case: bool = True):
        missing = [token for token in _SPECIAL[:4] if token not in vocabulary]
        if missing:
            raise errors.ModelFolderError(f'the BERT vocabulary lacks {", ".join(missing)}')
        self._vocabulary, self._lower_case = vocabulary, lower_case
        self._tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]', max_input_chars_per_word=100))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()
        self._tokenizer.add_special_tokens([token for token in _SPECIAL if token in vocabulary])
        self.vocab_size = len(vocabulary)
        self.pad_id, self.cls_id, self.sep_id = (vocabulary[token] for token in ('[PAD]', '[CLS]', '[SEP]'))
        digest = hashlib.sha256(f'bert{lower_case}'.encode())
        digest.update(json.dumps(sorted(vocabulary.items(), key=lambda item: item[1])).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'BertTokenizer':
        """Reads vocab.txt, or else the vocabulary of tokenizer.json; lower-casing from tokenizer_config.json (default: uncased).

        Raises:
          ModelFolderError: the folder holds neither, or a file that is not a WordPiece vocabulary.
        """
        folder = pathlib.Path(folder)
        fast = _read_json(folder / TOKENIZER_FILE)
        if (folder / VOCABULARY_FILE).is_file():
            lines = (folder / VOCABULARY_FILE).read_text(encoding='utf-8').split('\n')
            vocabulary = {token.rstrip('\r'): i for i, token in enumerate(lines[:-1] if lines[-1] == '' else lines)}
        elif fast is not None:
            if fast.get('model', {}).get('type', 'WordPiece') != 'WordPiece' or 'vocab' not in fast.get('model', {}):
                raise errors.ModelFolderError(f'{folder / TOKENIZER_FILE}: not a WordPiece tokenizer; the retriever is a BERT')
            vocabulary = fast['model']['vocab']
        else:
            raise errors.ModelFolderError(f'{folder}: no {VOCABULARY_FILE} and no {TOKENIZER_FILE} in it; copy the BERT tokenizer there')
        settings = _read_json(folder / _CONFIG_FILE) or {}
        in_fast = ((fast or {}).get('normalizer') or {}).get('lowercase', True)
        try:
            return cls(vocabulary, bool(settings.get('do_lower_case', in_fast)))
        except errors.ModelFolderError as error:
            raise errors.ModelFolderError(f'{folder}: {error}') from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes vocab.txt and tokenizer_config.json into the folder."""
        folder = pathlib.Path(folder)
        with atomic.writing(folder / VOCABULARY_FILE) as file:
            file.writelines(f'{token}\n' for token, _ in sorted(self._vocabulary.items(), key=lambda item: item[1]))
        atomic.write_json(folder / _CONFIG_FILE, {'do_lower_case': self._lower_case, 'tokenizer_class': 'BertTokenizer'})

    def encode(self, text: str) -> list[int]:
        """Token ids, without [CLS] and [SEP], of any length."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text, without special tokens."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)


def _read_json(path: pathlib.Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise errors.ModelFolderError(f'{path}: broken JSON: {error}') from error
    if not isinstance(values, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object')
    return values
