"""BERT's WordPiece tokenizer, on the `tokenizers` library."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from atlas_jax import errors
from atlas_jax.io import atomic
from atlas_jax.tokenizers import unicode_text

VOCABULARY_FILE = 'vocab.txt'
TOKENIZER_FILE = 'tokenizer.json'
_CONFIG_FILE = 'tokenizer_config.json'
_SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What happens to text before it is cut; `strip_accents` None means where it is lower-cased."""

    lower_case: bool = True
    strip_accents: bool | None = None
    chinese_characters: bool = True


class BertTokenizer:
    """Encodes and decodes; special tokens in a text are their ids, as with Hugging Face's tokenizer. Never truncates.

    pad_id, cls_id, sep_id
    vocab_size   the highest id + 1
    fingerprint  16 hexadecimal digits, other ones for a tokenizer that gives other ids
    """

    def __init__(self, vocabulary: dict[str, int], normalization: Normalization = Normalization()):
        """Raises ModelFolderError: a special token is missing."""
        missing = [token for token in _SPECIAL[:4] if token not in vocabulary]
        if missing:
            raise errors.ModelFolderError(f'the BERT vocabulary lacks {", ".join(missing)}')
        self._vocabulary, self._normalization = vocabulary, normalization
        self._tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]', max_input_chars_per_word=100))
        self._tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=normalization.lower_case, strip_accents=normalization.strip_accents,
            handle_chinese_chars=normalization.chinese_characters)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()
        self._tokenizer.add_special_tokens([token for token in _SPECIAL if token in vocabulary])
        self.vocab_size = max(vocabulary.values()) + 1
        self.pad_id, self.cls_id, self.sep_id = (vocabulary[token] for token in ('[PAD]', '[CLS]', '[SEP]'))
        digest = hashlib.sha256(f'bert {dataclasses.astuple(normalization)}'.encode())
        digest.update(json.dumps(sorted(vocabulary.items(), key=lambda item: item[1])).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'BertTokenizer':
        """Reads vocab.txt, or else the vocabulary of tokenizer.json.

        Lower-casing, accents and Chinese characters are as tokenizer_config.json says, else tokenizer.json, else as in uncased BERT.

        Raises:
          ModelFolderError: the folder holds neither, or a file that is not a WordPiece vocabulary.
        """
        folder = pathlib.Path(folder)
        fast = _read_json(folder / TOKENIZER_FILE)
        if (folder / VOCABULARY_FILE).is_file():
            vocabulary = _read_vocabulary(folder / VOCABULARY_FILE)
        elif fast is not None:
            vocabulary = _vocabulary_of(fast, folder / TOKENIZER_FILE)
        else:
            raise errors.ModelFolderError(f'{folder}: no {VOCABULARY_FILE} and no {TOKENIZER_FILE} in it; copy the BERT tokenizer there')
        try:
            return cls(vocabulary, _normalization(_read_json(folder / _CONFIG_FILE) or {}, fast or {}))
        except errors.ModelFolderError as error:
            raise errors.ModelFolderError(f'{folder}: {error}; copy the BERT tokenizer there again') from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes vocab.txt and tokenizer_config.json into the folder. Raises DiskFullError."""
        folder = pathlib.Path(folder)
        tokens = dict.fromkeys(range(self.vocab_size))
        tokens |= {number: token for token, number in self._vocabulary.items()}
        last = tokens[self.vocab_size - 1]
        with atomic.writing(folder / VOCABULARY_FILE) as file:
            # A number without a token gets the last token's text: of two equal lines the later one counts.
            file.writelines(f'{last if token is None else token}\n' for token in tokens.values())
        rules = self._normalization
        atomic.write_json(folder / _CONFIG_FILE, {
            'tokenizer_class': 'BertTokenizer', 'do_lower_case': rules.lower_case, 'strip_accents': rules.strip_accents,
            'tokenize_chinese_chars': rules.chinese_characters})

    def encode(self, text: str) -> list[int]:
        """Token ids, without [CLS] and [SEP], of any length."""
        return self._tokenizer.encode(unicode_text.valid(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text, without special tokens and without ids that are no token."""
        return self._tokenizer.decode([int(token) for token in ids if 0 <= token < self.vocab_size], skip_special_tokens=True)


def _read_vocabulary(path: pathlib.Path) -> dict[str, int]:
    """One token a line, by number; of two equal lines the later one counts, as with Hugging Face."""
    try:
        lines = path.read_text(encoding='utf-8').split('\n')
    except UnicodeDecodeError as error:
        raise errors.ModelFolderError(f'{path}: not UTF-8 text ({error.reason}); copy the BERT tokenizer there again') from error
    return {token.rstrip('\r'): number for number, token in enumerate(lines[:-1] if lines[-1] == '' else lines)}


def _vocabulary_of(fast: dict[str, Any], path: pathlib.Path) -> dict[str, int]:
    model = fast.get('model')
    if not isinstance(model, dict) or model.get('type', 'WordPiece') != 'WordPiece' \
            or not isinstance(model.get('vocab'), dict) or not all(isinstance(number, int) for number in model['vocab'].values()):
        raise errors.ModelFolderError(f'{path}: not a WordPiece tokenizer; the retriever is a BERT')
    return model['vocab']


def _normalization(settings: dict[str, Any], fast: dict[str, Any]) -> Normalization:
    step = fast.get('normalizer')
    step = step if isinstance(step, dict) and step.get('type') == 'BertNormalizer' else {}
    accents = settings.get('strip_accents', step.get('strip_accents'))
    return Normalization(
        lower_case=bool(settings.get('do_lower_case', step.get('lowercase', True))),
        strip_accents=None if accents is None else bool(accents),
        chinese_characters=bool(settings.get('tokenize_chinese_chars', step.get('handle_chinese_chars', True))))


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise errors.ModelFolderError(f'{path}: broken JSON: {error}') from error
    if not isinstance(values, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object')
    return values
