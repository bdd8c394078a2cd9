"""A sentencepiece model rebuilt from the tokenizer.json of a Hugging Face T5."""

import base64
import json
import pathlib
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from atlas_jax import errors

EXTRA_IDS = 100
_SENTINEL = '<extra_id_'


def from_tokenizer_json(path: pathlib.Path) -> tuple[bytes, int]:
    """A sentencepiece model with the pieces, scores and normalisation of the file, and the number of sentinels above the pieces.

    Raises ModelFolderError, without the file's name: not JSON, not a Unigram model, or sentinels that are not the last ids.
    """
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
        model = values['model']
        if model.get('type', 'Unigram') != 'Unigram':
            raise errors.ModelFolderError(f'a {model["type"]} tokenizer, where T5 has a Unigram one')
        listed = [piece for piece, _ in model['vocab']]
        numbered = [*enumerate(listed), *((token['id'], token['content']) for token in values.get('added_tokens', ()))]
        sentinels = {(piece, token) for token, piece in numbered if piece.startswith(_SENTINEL)}
        pieces = [(piece, score) for piece, score in model['vocab'] if not piece.startswith(_SENTINEL)]
        proto = _build(pieces, model['unk_id'], _charsmap(values.get('normalizer')))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise errors.ModelFolderError(f'not a T5 tokenizer file ({type(error).__name__}: {error})') from error
    last = len(pieces) + len(sentinels) - 1
    if sentinels != {(f'{_SENTINEL}{i}>', last - i) for i in range(len(sentinels))}:
        raise errors.ModelFolderError(f'its sentinels {_SENTINEL}i> are not the last ids, in falling order, as in T5')
    return proto, len(sentinels)


def _build(pieces: list[tuple[str, float]], unknown: int, charsmap: bytes) -> bytes:
    proto = sentencepiece_model_pb2.ModelProto()
    piece_type = sentencepiece_model_pb2.ModelProto.SentencePiece
    for token, (piece, score) in enumerate(pieces):
        kind = piece_type.UNKNOWN if token == unknown else piece_type.CONTROL if piece in ('<pad>', '</s>') else piece_type.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    trainer.vocab_size = len(pieces)
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, unknown, -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = '<pad>', '</s>', pieces[unknown][0]
    normalizer.name, normalizer.precompiled_charsmap = 'nmt_nfkc' if charsmap else 'identity', charsmap
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return proto.SerializeToString()


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
    """The table of normalisations, in whatever sequence of steps it stands; empty where there is none."""
    steps = [] if normalizer is None else normalizer['normalizers'] if normalizer['type'] == 'Sequence' else [normalizer]
    for step in steps:
        if step['type'] == 'Precompiled':
            return base64.b64decode(step['precompiled_charsmap'], validate=True)
    return b''
