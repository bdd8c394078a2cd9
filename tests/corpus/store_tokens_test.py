"""Token ids of a segment: written, cut, padded, copied."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus import store_tokens
from atlas_jax.corpus.passages import Passage
from atlas_jax.io.folder import Folder
from tests.testing.fake_tokenizer import FakeTokenizer

TOKENIZER = FakeTokenizer('reader', 101)
PASSAGES = [Passage(f'd{i}', 'T ' * (i % 3), '', 'word ' * (1 + 7 * i % 11)) for i in range(7)]
IDS = [TOKENIZER.encode(each.full_title) + TOKENIZER.encode(each.text) for each in PASSAGES]


class Text:
    """Passages as store_text.TextReader gives them."""

    def __init__(self, passages):
        self._passages, self.rows = passages, len(passages)

    def passage(self, row: int) -> Passage:
        return self._passages[row]


@pytest.fixture
def readers(tmp_path, monkeypatch):
    """Two segments, of 5 and 2 passages, read three rows at a time."""
    monkeypatch.setattr(store_tokens, '_TABLE_ROWS', 3)
    made = []
    for name, passages in (('a', PASSAGES[:5]), ('b', PASSAGES[5:])):
        store_tokens.write(Folder(tmp_path / name), Text(passages), TOKENIZER)
        made.append(store_tokens.TokenReader(Folder(tmp_path / name), len(passages)))
    return made


def rows_of(table):
    return [row[:length].tolist() for row, length in zip(table.tokens, table.lengths, strict=True)]


def test_tables_hold_all_segments(readers):
    table = store_tokens.table(readers, None, None)
    assert rows_of(table) == IDS and table.tokens.shape == (7, 128) and table.tokens.dtype == np.uint16
    assert table.title_lengths.tolist() == [i % 3 for i in range(7)] and table.lengths.dtype == np.int32


@pytest.mark.parametrize('rows', [(0, 7), (2, 6), (4, 5), (5, 7), (3, 3), (6, 11), (8, 13)])
def test_rows_of_a_table(readers, rows):
    table = store_tokens.table(readers, 256, None, rows)
    assert rows_of(table) == [*IDS[slice(*rows)], *[[]] * (rows[1] - max(rows[0], 7))] and table.tokens.shape[1] == 256


def test_long_passages_are_cut(readers):
    table = store_tokens.table(readers, None, 3)
    assert rows_of(table) == [ids[:3] for ids in IDS] and not table.tokens[:, 3:].any()


@pytest.mark.parametrize('width, max_tokens, message', [
    (100, None, 'width is 100; it must be a multiple of 128 and hold 11 tokens'), (0, None, 'width is 0'),
    (None, 0, 'max_tokens is 0; it must be at least 1')])
def test_wrong_widths(readers, width, max_tokens, message):
    with pytest.raises(errors.ConfigError, match=message):
        store_tokens.table(readers, width, max_tokens)


@pytest.mark.parametrize('kept', [[0, 1, 2, 3, 4, 5, 6], [1, 4, 6], [5], []])
def test_copies_of_some_rows(readers, tmp_path, kept):
    keep = np.isin(np.arange(7), kept)
    store_tokens.copy(readers, keep, Folder(tmp_path / 'copy'))
    copied = store_tokens.TokenReader(Folder(tmp_path / 'copy'), len(kept))
    assert copied.dtype == np.uint16 and copied.title_lengths.tolist() == [row % 3 for row in kept]
    if kept:
        assert rows_of(store_tokens.table([copied], None, None)) == [IDS[row] for row in kept]


def test_large_vocabularies_take_wider_ids(tmp_path):
    wide = FakeTokenizer('wide', (1 << 16) + 1)
    store_tokens.write(Folder(tmp_path / 'a'), Text(PASSAGES[:2]), wide)
    assert store_tokens.TokenReader(Folder(tmp_path / 'a'), 2).dtype == np.uint32


def test_ids_outside_the_vocabulary_and_damaged_parts(tmp_path):
    class Wrong(FakeTokenizer):
        def encode(self, text):
            return [101] if text else []

    with pytest.raises(errors.StoreError, match='the tokenizer gave id 101, its vocabulary has 101; correct the tokenizer'):
        store_tokens.write(Folder(tmp_path / 'a'), Text(PASSAGES[:1]), Wrong())
    store_tokens.write(Folder(tmp_path / 'b'), Text(PASSAGES[:2]), TOKENIZER)
    with pytest.raises(errors.StoreError, match='its parts do not fit together'):
        store_tokens.TokenReader(Folder(tmp_path / 'b'), 3)
