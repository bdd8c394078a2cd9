"""T5's tokenizer: a sentencepiece model plus its sentinels, with the same ids as Hugging Face's.

Text is split at special tokens, then at white space, and each word is encoded alone. T5's pieces
never cross a space, so this equals encoding the whole text. A prompt put together from parts
therefore has the ids of the joined text.
"""

import base64
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from atlas_jax import errors
from atlas_jax.io import contents, untrusted
from atlas_jax.io.folder import Folder, Place
from atlas_jax.tokenizers import formats

SPIECE_FILE = 'spiece.model'
TOKENIZER_FILE = 'tokenizer.json'
_EXTRA_IDS = 100  # number of sentinels of the released models
_SENTINEL = '<extra_id_'
_CACHED_WORDS = 1 << 17
_MAX_MODEL_BYTES = 1 << 26  # mT5's model has 4 MB
_WHITE_SPACE = re.compile('[ \\t\\n\\r]+')  # every T5 normalises these to a space


class T5Tokenizer:
    """Tokenizer of a serialised sentencepiece model; it never truncates.

    `<extra_id_i>` has the id vocab_size - 1 - i, above the pieces of the model. In an mT5's
    vocabulary it has the id of its piece. `</s>`, `<pad>` and `<unk>` in a text become their ids.

    vocab_size   number of pieces and sentinels (32,100 in the released models, whose embeddings
                 have 32,128 rows)
    fingerprint  16 hexadecimal digits; tokenizers that give different ids have different
                 fingerprints
    """

    pad_id = 0
    eos_id = 1

    def __init__(self, model: bytes, extra_ids: int = _EXTRA_IDS):
        """Loads the model.

        Raises ModelFolderError: not a sentencepiece model, or pad and eos are not 0 and 1.
        """
        self._processor = _load(model)
        self._pieces, self._unknown = self._processor.get_piece_size(), self._processor.unk_id()
        own = self._own_sentinels()
        # An mT5's vocabulary already contains its sentinels.
        extra_ids = 0 if own else extra_ids
        self._model, self._extra_ids = model, extra_ids
        self.vocab_size = self._pieces + extra_ids
        # The number of sentinels decides their ids.
        self.fingerprint = hashlib.sha256(b't5' + str(extra_ids).encode() + model).hexdigest()[:16]
        self._sentinels = own or {
            self.vocab_size - 1 - i: f'<extra_id_{i}>' for i in range(extra_ids)}
        self._special = {'</s>': self.eos_id, '<pad>': self.pad_id, '<unk>': self._unknown}
        self._special |= {text: token for token, text in self._sentinels.items()}
        # The parentheses make `split` return the special tokens too.
        self._split = re.compile('(' + '|'.join(re.escape(text) for text in self._special) + ')')
        # Words repeat. The cache belongs to this tokenizer and is freed with it.
        self._encode_word = functools.lru_cache(_CACHED_WORDS)(self._processor.encode)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'T5Tokenizer':
        """Reads spiece.model, or else rebuilds it from tokenizer.json, ignoring truncation and
        padding settings.

        Raises:
          ModelFolderError: the folder has neither file, or the file is not a T5 tokenizer.
        """
        folder = pathlib.Path(folder)
        # spiece.model first: tokenizer.json is a conversion of it.
        for file in (folder / SPIECE_FILE, folder / TOKENIZER_FILE):
            if file.is_file():
                contents.check_file(file)
                try:
                    return cls.from_file(file) if file.name == SPIECE_FILE else cls(
                        *model_from_tokenizer_json(file))
                except errors.ModelFolderError as error:
                    raise errors.ModelFolderError(f'{file}: {error}; copy the file of the T5 '
                                                  'model there again') from error
        raise errors.ModelFolderError(f'{folder}: no {SPIECE_FILE} and no {TOKENIZER_FILE} in it; '
                                      'copy the T5 tokenizer of the model there')

    @classmethod
    def from_file(cls, file: pathlib.Path) -> 'T5Tokenizer':
        """Reads a spiece.model.

        Raises ModelFolderError: see T5Tokenizer; or the file is a pipe, a device or too large.
        """
        try:
            return cls(untrusted.read_bytes(file, _MAX_MODEL_BYTES))
        except ValueError as error:
            raise errors.ModelFolderError(str(error)) from error

    def save(self, folder: Place) -> None:
        """Writes spiece.model into the folder. Raises DiskFullError, StorageError."""
        Folder(folder).write(SPIECE_FILE, self._model)

    def encode(self, text: str) -> list[int]:
        """Returns token ids, without eos.

        A run of white space counts as one space; special tokens split the text.
        """
        ids: list[int] = []
        for part in self._split.split(formats.without_lone_surrogates(text)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                for word in _WHITE_SPACE.split(part):
                    ids.extend(self._encode_word(word))
        return ids

    def decode(self, ids: Iterable[int], keep_sentinels: bool = False) -> str:
        """Returns the text up to the first eos.

        Args:
          ids: token ids. Pad, unk and ids beyond the pieces are left out; the embedding has more
            rows than there are pieces.
          keep_sentinels: keeps sentinels, as text between spaces.
        """
        parts: list[str] = []
        run: list[int] = []
        for token in (int(token) for token in ids):  # ids may be numpy or jax numbers
            if token == self.eos_id:
                break
            if keep_sentinels and token in self._sentinels:
                parts += [self._processor.decode(run), self._sentinels[token]]
                run = []
            elif 0 <= token < self._pieces and token not in self._sentinels and token not in (
                    self.pad_id, self._unknown):
                run.append(token)
        parts.append(self._processor.decode(run))
        return ' '.join(part for part in parts if part)

    @functools.cached_property
    def word_starts(self) -> bytes:
        """One bit for each token id, packed in bytes: set for special tokens and for pieces that
        begin a word or have no letter or digit.
        """
        pieces = (self._processor.id_to_piece(token) for token in range(self._pieces))
        bits = [
            piece.startswith('\u2581') or not any(map(str.isalnum, piece))
            or token in (self.pad_id, self.eos_id, self._unknown)
            for token, piece in enumerate(pieces)]
        # Sentinels come after the pieces, and the embedding has more rows: ids beyond the end read
        # the last bit.
        return np.packbits([*bits, *[True] * (8 - len(bits) % 8)]).tobytes()

    def _own_sentinels(self) -> dict[int, str]:
        """Returns the sentinels among the pieces of the model, by id."""
        found: dict[int, str] = {}
        while (token :=
               self._processor.piece_to_id(f'\u2581{_SENTINEL}{len(found)}>')) != self._unknown:
            found[token] = f'{_SENTINEL}{len(found)}>'
        return found

    def __reduce__(self):
        """Pickles only the model; worker processes load it again."""
        return T5Tokenizer, (self._model, self._extra_ids)


def _load(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Opens a serialised model. Raises ModelFolderError: see T5Tokenizer."""
    try:
        if not model:
            raise errors.ModelFolderError('an empty sentencepiece model')
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise errors.ModelFolderError('not a sentencepiece model') from error
    if (found :=
        (processor.pad_id(), processor.eos_id())) != (T5Tokenizer.pad_id, T5Tokenizer.eos_id):
        raise errors.ModelFolderError('expected the pad id 0 and the eos id 1 of T5, found '
                                      f'{found[0]} and {found[1]}')
    return processor


def model_from_tokenizer_json(path: pathlib.Path) -> tuple[bytes, int]:
    """Rebuilds the sentencepiece model of a Hugging Face T5 from its tokenizer.json.

    Returns:
      A serialised model with the pieces, scores and normalisation of the file, and the number of
      sentinels above the pieces.

    Raises:
      ModelFolderError: the file is not JSON or not a Unigram model, or its sentinels are not the
        last ids. The message does not name the file.
    """
    try:
        values = untrusted.read_json(path)
        model = values['model']
        if model.get('type', 'Unigram') != 'Unigram':
            raise errors.ModelFolderError(f'a {model["type"]} tokenizer, expected a Unigram '
                                          'tokenizer as T5 has')
        listed = [piece for piece, _ in model['vocab']]
        numbered = [
            *enumerate(listed),
            *((token['id'], token['content']) for token in values.get('added_tokens', ()))]
        sentinels = {(piece, token) for token, piece in numbered if piece.startswith(_SENTINEL)}
        pieces = [
            (piece, score) for piece, score in model['vocab'] if not piece.startswith(_SENTINEL)]
        proto = _build(pieces, model['unk_id'], _charsmap(values.get('normalizer')))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise errors.ModelFolderError(
            f'not a T5 tokenizer file ({type(error).__name__}: {error})') from error
    # `<extra_id_0>` has the highest id; T5Tokenizer computes the others from it.
    last = len(pieces) + len(sentinels) - 1
    if sentinels != {(f'{_SENTINEL}{i}>', last - i) for i in range(len(sentinels))}:
        raise errors.ModelFolderError(f'its sentinels {_SENTINEL}i> are not the last ids in '
                                      'descending order, as in T5')
    return proto, len(sentinels)


def _build(pieces: list[tuple[str, float]], unknown: int, charsmap: bytes) -> bytes:
    """Serialises a sentencepiece model with these pieces (text and score), pad 0 and eos 1."""
    proto = sentencepiece_model_pb2.ModelProto()
    piece_type = sentencepiece_model_pb2.ModelProto.SentencePiece
    for token, (piece, score) in enumerate(pieces):
        if token == unknown:
            kind = piece_type.UNKNOWN
        elif piece in ('<pad>', '</s>'):
            kind = piece_type.CONTROL
        else:
            kind = piece_type.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    trainer.vocab_size = len(pieces)
    # T5 has no start token: its decoder starts with pad.
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, unknown, -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = '<pad>', '</s>', pieces[unknown][0]
    normalizer.name = 'nmt_nfkc' if charsmap else 'identity'
    normalizer.precompiled_charsmap = charsmap
    # T5 was trained with a space before the first word, runs of spaces as one, and spaces written
    # as U+2581.
    normalizer.add_dummy_prefix = True
    normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return proto.SerializeToString()


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
    """Returns the normalisation table of the normaliser or of one of its steps; empty if there is
    no table.
    """
    if normalizer is None:
        return b''
    steps = normalizer['normalizers'] if normalizer['type'] == 'Sequence' else [normalizer]
    for step in steps:
        if step['type'] == 'Precompiled':
            return base64.b64decode(step['precompiled_charsmap'], validate=True)
    return b''
