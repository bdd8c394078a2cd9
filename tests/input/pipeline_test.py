"""Batches are deterministic and resume at any position; fillers complete the last one; long texts are cut."""

import json
import threading

import jax
import numpy as np
import pytest

from atlas_jax import errors, types
from atlas_jax.input import encode, pipeline
from atlas_jax.tasks import qa
from tests.testing import word_tokenizers

TASK = qa.QATask('{question}', '{target}')
EXAMPLES = [TASK.example({'question': f'what is thing {"1" * (i % 5)} ?', 'answers': ['red' if i % 2 else 'the grey thing is 7']}, i)
            for i in range(13)]


def _encoder(query_width=11, target_width=5):
    return encode.ExampleEncoder(word_tokenizers.t5(), word_tokenizers.bert(), query_width, target_width)


def _ids(batches, count):
    return [next(batches).example_ids.tolist() for _ in range(count)]


def test_every_epoch_has_every_example_once_in_another_order():
    batches = pipeline.training_batches(EXAMPLES, _encoder(), 1, seed=3)
    epochs = [sum(_ids(batches, 13), []) for _ in range(3)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_seed_decides_the_order():
    first, again, other = (_ids(pipeline.training_batches(EXAMPLES, _encoder(), 4, seed), 5) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize('ahead', [0, 2])
@pytest.mark.parametrize('position', [0, 1, 3, 7])
def test_the_position_restores_the_very_same_batches(position, ahead):
    batches = pipeline.training_batches(EXAMPLES, _encoder(), 4, seed=3, ahead=ahead)
    for _ in range(position):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(5)]
    for other in (0, 1, 2):  # the number of batches made ahead may change within a run
        restored = pipeline.training_batches(EXAMPLES, _encoder(), 4, seed=3, ahead=other)
        next(restored)  # and others were made ahead already
        restored.set_state(state)
        for batch in expected:
            jax.tree.map(np.testing.assert_array_equal, next(restored), batch)


@pytest.mark.parametrize(('make', 'kind'), [(pipeline.training_batches, types.Batch), (pipeline.training_examples, list)])
def test_batches_are_finished_ahead_in_a_thread_of_their_own(make, kind):
    finished, threads, go_on = [], set(), threading.Semaphore(0)

    def finish(batch):
        assert isinstance(batch, kind)
        threads.add(threading.current_thread())
        finished.append(len(finished))
        go_on.release()
        return finished[-1]

    batches = make(EXAMPLES, _encoder(), 4, seed=3, ahead=2, finish=finish)
    assert next(batches) == 0
    for _ in range(3):  # the batch taken, and two made ahead
        assert go_on.acquire(timeout=30)
    assert finished == [0, 1, 2] and len(threads) == 1 and threading.current_thread() not in threads
    assert batches.get_state() == {'next_index': 1}


def test_an_error_in_the_thread_is_raised_when_its_batch_is_taken():
    def finish(batch):
        if 7 in batch.example_ids:
            raise errors.ConfigError('seven')
        return batch

    batches = pipeline.training_batches(EXAMPLES, _encoder(), 1, seed=3, ahead=2, finish=finish)
    with pytest.raises(errors.ConfigError, match='seven'):
        for _ in range(13):
            next(batches)


def test_no_examples():
    with pytest.raises(errors.ConfigError, match='no training examples'):
        pipeline.training_batches([], _encoder(), 4, seed=0)


@pytest.mark.parametrize('count, batch_size', [(13, 4), (12, 4), (1, 5), (0, 3)])
def test_fillers_complete_the_last_batch(count, batch_size):
    encoder = _encoder()
    parts = [EXAMPLES[start:min(start + batch_size, count)] for start in range(0, count, batch_size)]
    batches = [encode.stack([*map(encoder.encode, part)] + [encoder.filler()] * (batch_size - len(part))) for part in parts]
    ids = sum((batch.example_ids.tolist() for batch in batches), [])
    assert ids[:count] == list(range(count)) and set(ids[count:]) <= {-1}
    assert len(ids) == -(-count // batch_size) * batch_size
    assert all(batch.decoder_loss_weights[batch.example_ids < 0].sum() == 0 for batch in batches)


def test_rows_hold_query_and_target_with_their_special_tokens():
    row, tokenizer = _encoder(16, 9).encode(EXAMPLES[1]), word_tokenizers.bert()
    target = [*word_tokenizers.t5().encode('red'), 1]
    assert row.decoder_target_tokens[:len(target)].tolist() == target and row.decoder_loss_weights.sum() == len(target)
    length = int(row.retriever_query_lengths)
    assert row.retriever_query_tokens[0] == tokenizer.cls_id and row.retriever_query_tokens[length - 1] == tokenizer.sep_id
    assert not row.retriever_query_tokens[length:].any() and not row.reader_query_tokens[int(row.reader_query_lengths):].any()


def test_long_queries_and_targets_are_cut():
    encoder = _encoder(query_width=4, target_width=3)
    rows = [encoder.encode(example) for example in EXAMPLES]
    assert encoder.count_clipped_targets(EXAMPLES) == 7
    assert all(row.reader_query_lengths == 4 == row.retriever_query_lengths for row in rows)
    sep = encoder.retriever_tokenizer.sep_id
    assert all(int(row.retriever_query_lengths) == 4 and row.retriever_query_tokens[3] == sep for row in rows)


def test_queries_get_no_wider_than_they_are():
    encoder = _encoder(query_width=64)
    lengths = encoder.fit_queries(EXAMPLES)
    assert len(lengths) == 13 and encoder.query_width == 16 >= lengths.max()
    assert encoder.encode(EXAMPLES[4]).reader_query_lengths == lengths.max()
