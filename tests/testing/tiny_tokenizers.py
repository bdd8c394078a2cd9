"""Tokenizers of a few pieces, made in memory: a T5's tokenizer.json and a BERT's vocabulary."""

import json
import pathlib
from collections.abc import Sequence

PIECES = (('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -2.0), ('▁the', -3.0), ('▁sun', -4.5), ('s', -5.0), ('un', -5.5),
          ('e', -6.0), ('th', -6.5), (':', -3.5), ('▁is', -4.0))
SENTINELS = 5
VOCABULARY = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'sun', '##s', 'cafe', 'café', 'Sun', ':', '日', '本', '日本')


def t5_json(pieces: Sequence[tuple[str, float]] = PIECES, sentinels: int = SENTINELS) -> dict:
    """What a tokenizer.json of a T5 says, truncation and padding switched on as in some packages."""
    vocab = [list(piece) for piece in pieces] + [[f'<extra_id_{i}>', 0.0] for i in reversed(range(sentinels))]
    added = [{'id': number, 'content': piece, 'special': True} for number, (piece, _) in enumerate(vocab) if piece.startswith('<')]
    return {'truncation': {'max_length': 3}, 'padding': {'strategy': {'Fixed': 7}}, 'added_tokens': added, 'normalizer': None,
            'model': {'type': 'Unigram', 'unk_id': 2, 'vocab': vocab}}


def write_t5(folder: pathlib.Path, values: dict | None = None) -> pathlib.Path:
    """A folder with that tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'tokenizer.json').write_text(json.dumps(t5_json() if values is None else values), encoding='utf-8')
    return folder


def write_bert(folder: pathlib.Path, vocabulary: Sequence[str] = VOCABULARY, **settings) -> pathlib.Path:
    """A folder with vocab.txt and, if there are settings, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in vocabulary), encoding='utf-8')
    if settings:
        (folder / 'tokenizer_config.json').write_text(json.dumps(settings), encoding='utf-8')
    return folder
