"""The embedder against the encoder run on each passage alone; packing: every passage once, nothing overflows, few shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import errors, types
from atlas_jax.index import embed
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.models import contriever
from atlas_jax.nn import token_stream
from atlas_jax.tokenizers.formats import Segment
from tests.testing import tiny

CONFIG = contriever.ContrieverConfig(vocab_size=97, emb_dim=22, num_heads=2, num_layers=2, mlp_dim=29, max_positions=90)
SEGMENTS = (Segment('literal', (2,)), Segment('title'), Segment('literal', (5, 6)), Segment('text'), Segment('literal', (3,)))
LIMIT = 83


@pytest.fixture(scope='module')
def params():
    return tiny.init(contriever.init_params, CONFIG)


@pytest.fixture(scope='module')
def table():
    """41 passages; one empty, one of a title alone, one over the limit, one with a title over the limit."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 60, 41).astype(np.int32)
    titles = np.minimum(generator.integers(0, 5, 41), lengths).astype(np.int32)
    lengths[[4, 9, 23, 31]], titles[[4, 9, 23, 31]] = (0, 3, 97, 101), (0, 3, 7, 95)
    tokens = np.where(np.arange(128) < lengths[:, None], generator.integers(9, 97, (41, 128)), 0).astype(np.uint16)
    return types.TokenTable(tokens=tokens, title_lengths=titles, lengths=lengths)


@jax.jit
def encode_alone(params, tokens, length):
    """One passage in a stream and a row of its own, [LIMIT] int32 and its length."""
    stream = token_stream.pack(tokens[None, None], length[None, None], stream_tokens=LIMIT, longest=LIMIT)
    return contriever.Contriever(CONFIG).apply({'params': params}, stream)[0, 0]


def alone(params, table, row):
    """The embedding of one passage, assembled in plain Python."""
    title = table.tokens[row, :table.title_lengths[row]].tolist()
    text = table.tokens[row, table.title_lengths[row]:table.lengths[row]].tolist()
    title = title[:LIMIT - 4]
    tokens = [2, *title, 5, 6, *text[:LIMIT - 4 - len(title)], 3]
    return np.asarray(encode_alone(params, np.pad(np.array(tokens, np.int32), (0, LIMIT - len(tokens))), np.int32(len(tokens))))


def test_equals_each_passage_alone(params, table):
    with jax.default_matmul_precision('highest'):
        embedder = PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT, tokens_per_batch=211)
        rows = np.random.default_rng(1).permutation(41)
        found = embedder.embed(table, rows)
        expected = np.stack([alone(params, table, row) for row in rows])
    assert found.shape == (41, embedder.dim) == (41, 22) and found.dtype == np.float32
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-5


def test_some_rows_twice_or_none(params, table):
    embedder = PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT, tokens_per_batch=211)
    found = embedder.embed(table, np.array([7, 4, 7]))
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    assert embedder.embed(table, np.zeros(0, np.int64)).shape == (0, 22)


def test_counts_what_is_longer_than_the_limit(params, table):
    embedder = PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT)
    whole = 4 + table.lengths
    assert embedder.truncated(table.title_lengths, table.lengths) == (whole > LIMIT).sum() == 2
    text_only = PassageEmbedder(CONFIG, params, (Segment('literal', (2,)), Segment('text')), LIMIT)
    assert text_only.truncated(table.title_lengths, table.lengths) == 1
    assert embedder.truncated(table.title_lengths[:0], table.lengths[:0]) == 0


def test_progress_counts_passages(params, table):
    class Bar:
        total = 0

        def update(self, passages):
            self.total += passages

    bar = Bar()
    PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT, tokens_per_batch=211).embed(table, np.arange(41), bar)
    assert bar.total == 41


def test_fingerprint_changes_with_all_that_changes_embeddings(params):
    def fingerprint(config=CONFIG, params=params, segments=SEGMENTS, limit=LIMIT, **options):
        return PassageEmbedder(config, params, segments, limit, **options).fingerprint

    first = fingerprint()
    changed = jax.tree.map(lambda leaf: leaf, params)
    path, leaf = jax.tree_util.tree_leaves_with_path(changed)[3]
    changed = jax.tree_util.tree_map_with_path(lambda p, x: x + 1e-6 if p == path else x, changed)
    others = [fingerprint(params=changed), fingerprint(segments=SEGMENTS[:-1]), fingerprint(limit=LIMIT - 1),
              fingerprint(dataclasses.replace(CONFIG, pooling='cls')), fingerprint(dataclasses.replace(CONFIG, normalize=True))]
    assert leaf.size and len({first, *others}) == 6
    assert first == fingerprint(dataclasses.replace(CONFIG, dropout_rate=0.3), tokens_per_batch=503)
    assert first == fingerprint(params=jax.tree.map(np.asarray, params))


def test_what_cannot_be_embedded_is_refused(params, table):
    with pytest.raises(errors.ConfigError, match='90 positions'):
        PassageEmbedder(CONFIG, params, SEGMENTS, 91)
    with pytest.raises(errors.ConfigError, match='tokens_per_batch 50'):
        PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT, tokens_per_batch=50)
    with pytest.raises(errors.ConfigError, match='query'):
        PassageEmbedder(CONFIG, params, (*SEGMENTS, Segment('query')), LIMIT)
    foreign = table.replace(tokens=np.where(table.tokens == 0, 0, table.tokens + np.uint16(20)))
    with pytest.raises(errors.StoreError, match='tokenizer'):
        PassageEmbedder(CONFIG, params, SEGMENTS, LIMIT).embed(foreign, np.arange(41))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 97), max_size=60), streams=st.sampled_from([1, 2, 3, 8]), room=st.integers(0, 300))
def test_every_passage_is_in_one_stream_that_holds_it(lengths, streams, room):
    lengths, stream_tokens = np.array(lengths, np.int64), 97 + room
    packs = list(embed.pack_passages(lengths, streams, stream_tokens, max_tokens=97))
    members = np.concatenate([pack.members.ravel() for pack in packs]) if packs else np.zeros(0, np.int64)
    assert sorted(members[members >= 0]) == list(range(len(lengths)))
    for pack in packs:
        real = pack.members >= 0
        sizes = np.where(real, lengths[pack.members], 0)
        assert pack.members.shape[0] == streams and real[0, 0]
        assert sizes.sum(axis=1).max() <= stream_tokens and sizes.max() <= pack.longest
    assert len({(pack.longest, pack.members.shape) for pack in packs}) == len({pack.longest for pack in packs})


@pytest.mark.parametrize('max_tokens, expected', [(200, {64, 128, 160, 200}), (50, {50}), (128, {64, 128})])
def test_widths_stop_at_the_limit(max_tokens, expected):
    packs = embed.pack_passages(np.arange(1, max_tokens + 1), 1, 1024, max_tokens)
    assert {pack.longest for pack in packs} == expected


def test_streams_are_nearly_full():
    lengths = np.clip(np.random.default_rng(0).normal(150, 40, 2222), 15, 200).astype(np.int64)
    packs = list(embed.pack_passages(lengths, 1, 4096, 200))
    assert lengths.sum() / (4096 * len(packs)) > 0.985
