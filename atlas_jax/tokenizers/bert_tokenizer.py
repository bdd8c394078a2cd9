"""BERT's WordPiece tokenizer, on the `tokenizers` library."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from atlas_jax import errors
from atlas_jax.io import contents, untrusted
from atlas_jax.io.folder import Folder, Place
from atlas_jax.tokenizers import formats

VOCABULARY_FILE = 'vocab.txt'
TOKENIZER_FILE = 'tokenizer.json'
_CONFIG_FILE = 'tokenizer_config.json'
_MOST_GAPS = 1000
_MAX_VOCABULARY_BYTES = 1 << 26  # the largest known vocabularies have 7 MB
# In the order of Hugging Face's vocabularies.
_SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How text is normalised before it is split into tokens.

    lower_case: lower-cases the text.
    strip_accents: removes accents; None does so if the text is lower-cased.
    chinese_characters: makes every Chinese character a word.
    """

    lower_case: bool = True
    strip_accents: bool | None = None
    chinese_characters: bool = True


class BertTokenizer:
    """WordPiece tokenizer. It never truncates. Special tokens in a text become their ids, as with
    Hugging Face's tokenizer.

    pad_id, cls_id, sep_id  ids of [PAD], [CLS] and [SEP]
    mask_id                 id of [MASK]; None in a vocabulary without it
    ordinary_ids            [n] int64, ids of all but the special tokens, ascending
    vocab_size              the highest id + 1
    fingerprint             16 hexadecimal digits; tokenizers that give different ids have different
                            fingerprints
    """

    def __init__(self, vocabulary: dict[str, int], normalization: Normalization = Normalization()):
        """Makes a tokenizer from a vocabulary, token -> id.

        Raises ModelFolderError: a special token is missing.
        """
        # [MASK] may be missing: no input of the retriever has it.
        missing = [token for token in _SPECIAL[:4] if token not in vocabulary]
        if missing:
            raise errors.ModelFolderError(f'the BERT vocabulary lacks {", ".join(missing)}')
        self._vocabulary, self._normalization = vocabulary, normalization
        # Words of more than 100 letters are [UNK], as in Hugging Face's BERT.
        self._tokenizer = tokenizers.Tokenizer(
            models.WordPiece(vocabulary, unk_token='[UNK]', max_input_chars_per_word=100))
        self._tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=normalization.lower_case, strip_accents=normalization.strip_accents,
            handle_chinese_chars=normalization.chinese_characters)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()
        # Special tokens are matched before the text is split.
        self._tokenizer.add_special_tokens([token for token in _SPECIAL if token in vocabulary])
        self.vocab_size = max(vocabulary.values()) + 1
        self.pad_id, self.cls_id, self.sep_id = (vocabulary[token]
                                                 for token in ('[PAD]', '[CLS]', '[SEP]'))
        # Only crops for the retriever's training use [MASK].
        self.mask_id = vocabulary.get('[MASK]')
        self.ordinary_ids = np.setdiff1d(np.fromiter(vocabulary.values(), np.int64),
                                         [vocabulary.get(token, -1) for token in _SPECIAL])
        # Hashes the ids and the normalisation, not files: vocab.txt and tokenizer.json of the same
        # tokenizer have the same fingerprint.
        digest = hashlib.sha256(f'bert {dataclasses.astuple(normalization)}'.encode())
        digest.update(json.dumps(sorted(vocabulary.items(), key=lambda item: item[1])).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'BertTokenizer':
        """Reads vocab.txt, or else the vocabulary of tokenizer.json.

        The normalisation comes from tokenizer_config.json, else from tokenizer.json. Without either
        it is that of uncased BERT.

        Raises:
          ModelFolderError: the folder has no vocabulary, or the file is not a WordPiece vocabulary.
        """
        folder = pathlib.Path(folder)
        for file in (VOCABULARY_FILE, TOKENIZER_FILE, _CONFIG_FILE):
            contents.check_file(folder / file)
        fast = _read_json(folder / TOKENIZER_FILE)
        if (folder / VOCABULARY_FILE).is_file():
            vocabulary = _read_vocabulary(folder / VOCABULARY_FILE)
        elif fast is not None:
            vocabulary = _vocabulary_of(fast, folder / TOKENIZER_FILE)
        else:
            raise errors.ModelFolderError(f'{folder}: no {VOCABULARY_FILE} and no '
                                          f'{TOKENIZER_FILE} in it; copy the BERT tokenizer there')
        try:
            return cls(vocabulary,
                       _normalization(_read_json(folder / _CONFIG_FILE) or {}, fast or {}))
        except errors.ModelFolderError as error:
            raise errors.ModelFolderError(
                f'{folder}: {error}; copy the BERT tokenizer there again') from error

    def save(self, folder: Place) -> None:
        """Writes vocab.txt and tokenizer_config.json into the folder.

        Raises DiskFullError, StorageError.
        """
        folder = Folder(folder)
        tokens = {number: token for token, number in self._vocabulary.items()}
        last = tokens[self.vocab_size - 1]
        # An id without a token gets the last token's text: of two equal lines the later one counts.
        folder.write(
            VOCABULARY_FILE,
            ''.join(f'{tokens.get(number, last)}\n' for number in range(self.vocab_size)).encode())
        rules = self._normalization
        folder.write_json(
            _CONFIG_FILE, {
                'tokenizer_class': 'BertTokenizer', 'do_lower_case': rules.lower_case,
                'strip_accents': rules.strip_accents,
                'tokenize_chinese_chars': rules.chinese_characters})

    def encode(self, text: str) -> list[int]:
        """Returns all token ids of a text, without [CLS] and [SEP]."""
        # The segments of the format hold [CLS] and [SEP].
        return self._tokenizer.encode(formats.without_lone_surrogates(text),
                                      add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, leaving out special tokens and ids outside the vocabulary."""
        return self._tokenizer.decode([int(token) for token in ids if 0 <= token < self.vocab_size],
                                      skip_special_tokens=True)


def _read_vocabulary(path: pathlib.Path) -> dict[str, int]:
    """Reads one token a line; of two equal lines the later one counts, as with Hugging Face.

    Raises ModelFolderError: the file is not UTF-8.
    """
    try:
        # Not splitlines: a token may be a separator such as U+2028.
        lines = untrusted.read_bytes(path, _MAX_VOCABULARY_BYTES).decode().replace('\r\n',
                                                                                   '\n').split('\n')
    except UnicodeDecodeError as error:
        raise errors.ModelFolderError(f'{path}: not UTF-8 text ({error.reason}); copy the BERT '
                                      'tokenizer there again') from error
    except ValueError as error:
        raise errors.ModelFolderError(
            f'{path}: {error}; copy the BERT tokenizer there again') from error
    if lines[-1] == '':  # after the file's last newline
        lines = lines[:-1]
    return {token.rstrip('\r'): number for number, token in enumerate(lines)}


def _vocabulary_of(fast: dict[str, Any], path: pathlib.Path) -> dict[str, int]:
    """Returns the vocabulary in a tokenizer.json.

    Raises ModelFolderError: it is not a WordPiece tokenizer.
    """
    model = fast.get('model')
    if isinstance(model, dict) and model.get('type', 'WordPiece') == 'WordPiece':
        vocabulary = model.get('vocab')
        if isinstance(vocabulary, dict) and all(
                isinstance(number, int) for number in vocabulary.values()):
            # Ids count from 0 with few gaps. An id of 2**27 in a file of ten tokens would cost
            # gigabytes in every table with a row for each id.
            most = 2 * len(vocabulary) + _MOST_GAPS
            for token, number in vocabulary.items():
                if type(number) is not int or not 0 <= number < most:
                    raise errors.ModelFolderError(f'{path}: the id of {untrusted.shown(token)} is '
                                                  f'{untrusted.shown(number)}, expected a '
                                                  f'whole number from 0 to {most - 1}; copy the '
                                                  'BERT tokenizer there again')
                if not token.isascii() and formats.without_lone_surrogates(token) != token:
                    raise errors.ModelFolderError(f'{path}: the token of id {number} is half a '
                                                  'surrogate pair; copy the BERT tokenizer '
                                                  'there again')
            return vocabulary
    raise errors.ModelFolderError(f'{path}: not a WordPiece tokenizer, but the retriever is a '
                                  'BERT; copy its tokenizer there')


def _normalization(settings: dict[str, Any], fast: dict[str, Any]) -> Normalization:
    """Reads the normalisation from the values of tokenizer_config.json, else of tokenizer.json."""
    step = fast.get('normalizer')
    # Other normalisers, or a sequence of several, have no settings that BERT's rules know.
    step = step if isinstance(step, dict) and step.get('type') == 'BertNormalizer' else {}
    accents = settings.get('strip_accents', step.get('strip_accents'))
    return Normalization(
        lower_case=bool(settings.get('do_lower_case', step.get('lowercase', True))),
        strip_accents=None if accents is None else bool(accents), chinese_characters=bool(
            settings.get('tokenize_chinese_chars', step.get('handle_chinese_chars', True))))


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads a JSON object; returns None if there is no such file.

    Raises ModelFolderError: broken JSON, or another value than an object.
    """
    if not path.is_file():
        return None
    try:
        values = untrusted.read_json(path)
    except ValueError as error:
        raise errors.ModelFolderError(f'{path}: broken JSON: {error}; copy the BERT tokenizer '
                                      'there again') from error
    if not isinstance(values, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object, found '
                                      f'{type(values).__name__}; copy the BERT tokenizer there '
                                      'again')
    return values
