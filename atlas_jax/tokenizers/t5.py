"""T5's tokenizer: a sentencepiece model plus 100 sentinels, id for id as Hugging Face's."""

import base64
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from atlas_jax import errors
from atlas_jax.io import atomic

SPIECE_FILE = 'spiece.model'
TOKENIZER_FILE = 'tokenizer.json'
_EXTRA_IDS = 100


class T5Tokenizer:
    """Encodes and decodes with a serialised sentencepiece model.

    `<extra_id_i>` has the id vocab_size - 1 - i, above the pieces of the model; `</s>`, `<pad>` and `<unk>` in a text are their ids too.
    """

    pad_id = 0
    eos_id = 1

    def __init__(self, model: bytes, extra_ids: int = _EXTRA_IDS):
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._pieces = self._processor.get_piece_size()
        self.vocab_size = self._pieces + extra_ids
        self.fingerprint = hashlib.sha256(b't5' + str(extra_ids).encode() + model).hexdigest()[:16]
        self._special = {f'<extra_id_{i}>': self.vocab_size - 1 - i for i in range(extra_ids)}
        self._special |= {'</s>': self.eos_id, '<pad>': self.pad_id, '<unk>': self._processor.unk_id()}
        self._names = {token: text for text, token in self._special.items()}
        self._split = re.compile('(' + '|'.join(re.escape(text) for text in self._special) + ')')

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> 'T5Tokenizer':
        """Reads spiece.model, or else rebuilds it from tokenizer.json (whose truncation and padding settings do not matter here).

        Raises:
          ModelFolderError: the folder holds neither, or a file that is not a unigram model.
        """
        folder = pathlib.Path(folder)
        spiece, fast = folder / SPIECE_FILE, folder / TOKENIZER_FILE
        if spiece.is_file():
            model = spiece.read_bytes()
        elif fast.is_file():
            model = _model_from_fast_tokenizer(fast)
        else:
            raise errors.ModelFolderError(f'{folder}: no {SPIECE_FILE} and no {TOKENIZER_FILE} in it; copy the T5 tokenizer of the model there')
        try:
            return cls(model)
        except RuntimeError as error:
            raise errors.ModelFolderError(f'{spiece if spiece.is_file() else fast}: not a sentencepiece model ({error})') from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes spiece.model into the folder."""
        with atomic.writing(pathlib.Path(folder) / SPIECE_FILE, 'wb') as file:
            file.write(self._model)

    def encode(self, text: str) -> list[int]:
        """Token ids, without eos. Runs of white space count as one space; special tokens split the text."""
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids.extend(self._processor.encode(part))
        return ids

    def decode(self, ids: Iterable[int], keep_sentinels: bool = False) -> str:
        """The text up to the first eos; padding is skipped, sentinels too unless they are to be kept as text."""
        parts: list[str] = []
        run: list[int] = []
        for token in (int(token) for token in ids):
            if token == self.eos_id:
                break
            if token == self.pad_id:
                continue
            if token < self._pieces:
                run.append(token)
                continue
            parts.append(self._processor.decode(run))
            run = []
            if keep_sentinels and token in self._names:
                parts.append(self._names[token])
        parts.append(self._processor.decode(run))
        return ' '.join(part for part in parts if part).strip()


def _model_from_fast_tokenizer(path: pathlib.Path) -> bytes:
    """A sentencepiece model with the pieces, scores and normalisation of a Hugging Face tokenizer.json."""
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
        model = values['model']
        vocabulary, unknown = model['vocab'], model['unk_id']
        if model.get('type', 'Unigram') != 'Unigram':
            raise errors.ModelFolderError(f'{path}: a {model["type"]} tokenizer; T5 has a Unigram one')
    except (ValueError, KeyError, TypeError) as error:
        raise errors.ModelFolderError(f'{path}: not a T5 tokenizer file ({type(error).__name__}: {error})') from error
    proto = sentencepiece_model_pb2.ModelProto()
    piece_type = sentencepiece_model_pb2.ModelProto.SentencePiece
    for token, (piece, score) in enumerate(vocabulary):
        if piece.startswith('<extra_id_'):
            continue
        kind = piece_type.UNKNOWN if token == unknown else piece_type.CONTROL if piece in ('<pad>', '</s>') else piece_type.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    trainer.vocab_size = len(proto.pieces)
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, unknown, -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = '<pad>', '</s>', '<unk>'
    normalizer.name, normalizer.precompiled_charsmap = 'nmt_nfkc', _charsmap(values.get('normalizer'))
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return proto.SerializeToString()


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
    steps = [] if normalizer is None else normalizer['normalizers'] if normalizer['type'] == 'Sequence' else [normalizer]
    for step in steps:
        if step['type'] == 'Precompiled':
            return base64.b64decode(step['precompiled_charsmap'])
    return b''
