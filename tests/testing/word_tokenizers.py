"""Real tokenizers with tiny vocabularies, made on the spot: letters, digits and a few words."""

import string

from sentencepiece import sentencepiece_model_pb2

from atlas_jax.tokenizers import bert_tokenizer as bert_lib
from atlas_jax.tokenizers import t5_tokenizer as t5_lib

_WORDS = ['the', 'The', 'thing', 'is', 'what', 'red', 'green', 'blue', 'white', 'black', 'grey', 'pink', 'title:', 'context:']


def t5() -> t5_lib.T5Tokenizer:
    """A unigram model: characters, and some words that begin with a space."""
    proto = sentencepiece_model_pb2.ModelProto()
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    for piece, type_ in (('<pad>', kind.CONTROL), ('</s>', kind.CONTROL), ('<unk>', kind.UNKNOWN)):
        proto.pieces.add(piece=piece, score=0.0, type=type_)
    for piece in ['\u2581', *string.ascii_letters, *string.digits, '.', '?', ':']:
        proto.pieces.add(piece=piece, score=-8.0, type=kind.NORMAL)
    for word in _WORDS:
        proto.pieces.add(piece='\u2581' + word, score=-2.0, type=kind.NORMAL)
    trainer = proto.trainer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    trainer.vocab_size = len(proto.pieces)
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, 2, -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = '<pad>', '</s>', '<unk>'
    normalizer = proto.normalizer_spec
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return t5_lib.T5Tokenizer(proto.SerializeToString())


def bert() -> bert_lib.BertTokenizer:
    """A WordPiece vocabulary: characters, their continuations, and some words."""
    characters = [*string.ascii_lowercase, *string.digits]
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', ':', *characters, *(f'##{c}' for c in characters),
              *dict.fromkeys(word.lower().rstrip(':') for word in _WORDS)]
    return bert_lib.BertTokenizer({token: number for number, token in enumerate(tokens)})
