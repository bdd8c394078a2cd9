"""Which sequences stand in a passage as whole words, and that they go first."""

import jax
import numpy as np
import pytest

from atlas_jax import types
from atlas_jax.decoding import decoders
from atlas_jax.steps import quotes
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer
from tests.testing import tiny_tokenizers


@pytest.fixture(scope='module')
def t5(tmp_path_factory):
    return T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path_factory.mktemp('t5')))


def rows(t5, texts, width):
    ids = [t5.encode(text) for text in texts]
    return np.array([each + [0] * (width - len(each)) for each in ids], np.int32), np.array([len(each) for each in ids], np.int32)


def ordered(t5, sequences, passages, question=''):
    """The sequences of one example, as they are put in order."""
    tokens, lengths = rows(t5, passages, 20)
    asked, asked_length = rows(t5, [question], 12)
    written = np.array([(t5.encode(text) + [t5.eos_id] + [0] * 8)[:8] for text in sequences], np.int32)
    inputs = types.ReaderInputs(reader_tokens=tokens[None], reader_lengths=lengths[None], retrieved=None)
    batch = types.Batch(**dict.fromkeys(('retriever_query_tokens', 'retriever_query_lengths', 'decoder_target_tokens',
                                         'decoder_loss_weights', 'example_ids')),
                        reader_query_tokens=asked, reader_query_lengths=asked_length)
    scores = np.arange(len(sequences), dtype=np.float32)[None]
    decoded = decoders.Decoded(written[None], scores, {'attention': scores[..., None]})
    found = jax.jit(lambda decoded, inputs, batch: quotes.first(
        decoded, inputs.reader_tokens, quotes.quotable(inputs, batch), t5.word_starts, t5.eos_id))(decoded, inputs, batch)
    places = np.asarray(found.scores)[0].astype(int).tolist()
    # Everything of a sequence moves with it.
    assert np.asarray(found.records['attention'])[0, :, 0].tolist() == places
    np.testing.assert_array_equal(found.tokens[0], written[places])
    return places


@pytest.mark.parametrize(('sequences', 'passages', 'places'), [
    (['the sun', 'is sun'], ['the the', 'the is sun'], [1, 0]),
    (['sun', 'the'], ['is the sun', 'is'], [0, 1]),  # both: their order stays
    (['sun', 'the'], ['is the', 'is sun'], [1, 0]),  # the first passage is the best
    (['e', 'sun', 'the'], ['is the', 'is sun'], [2, 1, 0]),
    (['sun', 'the'], ['is'], [0, 1]),  # neither
    (['', 'sun'], ['the sun'], [1, 0]),  # nothing stands nowhere
    (['sun the', 'sun'], ['the sun'], [1, 0]),  # not beyond the end
    (['sun', 'suns'], ['the suns'], [1, 0]),  # a piece of a word is no word
    (['suns', 'sun'], ['the sun: is'], [1, 0]),  # a colon ends a word
    (['s', 'is'], ['suns is'], [1, 0]),  # the end of a word is no word
])
def test_a_sequence_that_stands_in_a_passage_goes_first(t5, sequences, passages, places):
    assert ordered(t5, sequences, passages) == places


def test_the_question_is_no_passage(t5):
    assert ordered(t5, ['is sun', 'the'], ['the the is sun'], 'is sun') == [1, 0]
    assert ordered(t5, ['is sun', 'the'], ['the the is sun']) == [0, 1]


def test_words_start_at_a_space_or_a_sign(t5):
    bits = np.unpackbits(np.frombuffer(t5.word_starts, np.uint8)).astype(bool)
    assert bits[:12].tolist() == [True, True, True, True, True, True, False, False, False, False, True, True] and bits[-1]
