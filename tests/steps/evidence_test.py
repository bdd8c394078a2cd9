"""The evidence for an answer against running it in full: really without a passage, and really without all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.answering import closed_book, prepare
from atlas_jax.corpus.passages import Passage
from atlas_jax.decoding import DecodingConfig
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import evidence, read, retrieve
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny, tiny_run

N = 3


@pytest.fixture(scope='module')
def asked():
    """A model, questions that bring passages of different lengths (one question lacks its last), and their explained answers."""
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh(devices=jax.devices()[:1]))
    texts = ['The thing is red .', 'green', 'what is the pink thing ? The pink thing is 7 .', 'a', 'The blue thing 1 is black .']
    examples = [dataclasses.replace(example, passages=[Passage(f'p{place}', f'thing {place}', '', texts[(number + place) % 5])
                                                       for place in range(N - (number == 1))])
                for number, example in enumerate(tiny_run.examples(atlas, 2))]
    prepared = prepare.prepare_examples(atlas, examples, None, N, 2, use_file_passages=True)
    params = atlas.device_params()
    step = answer_step.make_answer_step(prepared.spec, DecodingConfig(num_beams=2), 'passages')
    [(_, answered)] = prepared.run(step, params, examples, 2)
    return atlas, params, examples, answered


def scored(atlas, params, examples, tokens, n) -> np.ndarray:
    """The log likelihood of tokens [batch, length], eos included, from a full run over the examples' own passages."""
    prepared = prepare.prepare_examples(atlas, examples, None, n, len(examples), use_file_passages=n > 0)
    batch, _ = prepared.batch(examples, len(examples), params)
    weights = evidence.counted(tokens, None, atlas.config.reader.eos_id).astype(np.float32)
    batch = batch.replace(choice_tokens=tokens[:, None], choice_weights=weights[:, None])
    return np.asarray(score_step.make_score_step(prepared.spec)(params, batch, None, None).log_likelihoods)[:, 0]


def test_leaving_a_passage_out_equals_answering_without_it(asked):
    atlas, params, examples, answered = asked
    found, tokens = answered.evidence, answered.tokens[:, 0]
    np.testing.assert_allclose(found.log_likelihood, scored(atlas, params, examples, tokens, N), atol=1e-5)
    assert not np.allclose(found.without, found.log_likelihood[:, None], atol=1e-4)
    for place in range(N):
        fewer = [dataclasses.replace(example, passages=[each for number, each in enumerate(example.passages) if number != place])
                 for example in examples]
        np.testing.assert_allclose(found.without[:, place], scored(atlas, params, fewer, tokens, N - 1), atol=1e-5)


def test_leaving_out_an_empty_slot_changes_nothing(asked):
    *_, answered = asked
    assert answered.evidence.without[1, -1] == pytest.approx(answered.evidence.log_likelihood[1], abs=1e-5)


def test_attention_by_token_adds_up_to_that_by_passage(asked):
    atlas, _, examples, answered = asked
    found = answered.evidence
    np.testing.assert_allclose(found.token_attention.sum(axis=-1), answered.attention, atol=1e-6)
    np.testing.assert_allclose(answered.attention.sum(axis=-1), 1, atol=1e-5)
    assert found.token_attention.shape == found.reader_tokens.shape
    # Padding gets nothing; of the tokens some get more than others.
    assert not found.token_attention[found.reader_tokens == 0].any() and found.token_attention[0].max() > 2 / found.reader_tokens[0].size
    text = atlas.reader_tokenizer.encode(examples[0].passages[0].text)
    assert ' '.join(map(str, text)) in ' '.join(map(str, found.reader_tokens[0, 0]))


def test_closed_book_equals_a_full_run_without_passages(asked):
    atlas, params, examples, answered = asked
    tokens = answered.tokens[:, 0]
    closed = closed_book.ClosedBook(atlas, examples, 2).log_likelihoods(params, examples, tokens)
    np.testing.assert_allclose(closed, scored(atlas, params, examples, tokens, 0), atol=1e-5)
    assert np.abs(closed - answered.evidence.log_likelihood).min() > 1e-3


def test_what_counts_is_after_the_prefix_and_up_to_the_first_eos():
    tokens = np.array([[5, 6, 1, 0, 0], [5, 6, 7, 8, 9], [1, 0, 0, 0, 0], [5, 1, 1, 5, 1]])
    found = evidence.counted(tokens, np.array([1, 2, 0, 0]), 1)
    assert found.astype(int).tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert evidence.counted(tokens, None, 1)[0].astype(int).tolist() == [1, 1, 1, 0, 0]


def test_a_step_is_not_taken_for_one_of_other_evidence(asked):
    atlas, _, examples, _ = asked
    spec = prepare.prepare_examples(atlas, examples, None, N, 2, use_file_passages=True).spec
    plain, explained = (answer_step.step_for(spec, 2, DecodingConfig(), wanted) for wanted in ('nothing', 'passages'))
    assert plain is not explained and answer_step.step_for(spec, 2, DecodingConfig()) is plain
    # One for larger batches would compute on its empty room, and one that is heard calls the host.
    one = prepare.prepare_examples(atlas, examples[:1], None, N, 1, use_file_passages=True).spec
    assert answer_step.step_for(one, 1, DecodingConfig()) is not plain
    assert answer_step.step_for(spec, 2, DecodingConfig(), heard=True) is not plain


def test_short_and_long_answers_of_a_wide_program():
    """A wide program reads short answers narrower; an answer among others that is longer takes all of them the wide way."""
    known = jax.tree.map(jnp.asarray, tiny.knowledge())
    spec = spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, partitioning.make_mesh(devices=jax.devices()[:1]), tiny.lengths(known),
                              batch_size=2)
    params, batch = tiny.params(), jax.tree.map(jnp.asarray, tiny.batch(2))

    @jax.jit
    def scored_at(tokens):
        inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, known, spec)
        passages = read.encode(params['reader'], inputs.reader_tokens, inputs.reader_lengths, spec, spec.read[-1], None)
        return evidence.of_answer(params['reader'], tokens, None, passages, spec, 'passages')

    short = np.array([[11, 12, 1, 0], [13, 1, 0, 0]], np.int32)
    wide = np.pad(short, ((0, 0), (0, 5)))
    long = np.concatenate([wide[:1], np.arange(20, 29, dtype=np.int32)[None]])  # the second never ends
    narrow, of_wide, of_long = scored_at(short), scored_at(wide), scored_at(long)
    assert of_wide[1].tolist() == [3, 2] and of_long[1].tolist() == [3, 9]
    for one, two, three in zip(narrow[::2], of_wide[::2], of_long[::2], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5)
        np.testing.assert_allclose(three[0], one[0], rtol=1e-5)
    assert of_long[0][1] < of_wide[0][1] - 1
