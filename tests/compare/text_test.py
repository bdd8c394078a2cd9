"""Real text as token arrays: what the train step's own retrieval gives, in the layout of compare_inputs."""

import types

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.compare import text as compare_text
from tests.testing import tiny


def test_a_batch_and_what_was_found_become_arrays():
    batch = tiny.batch(2)
    found = types.SimpleNamespace(
        reader_tokens=np.full((2, 3, 9), 7), reader_lengths=np.array([[9, 4, 1], [2, 3, 5]]),
        retriever_tokens=np.full((2, 3, 6), 8), retriever_lengths=np.array([[6, 1, 2], [3, 3, 3]]))
    arrays = {name: values[None] for name, values in compare_text._arrays(batch, found).items()}
    checked = compare_inputs.check(arrays, 'text', needs_retriever=True, needs_targets=True)
    assert checked['reader_mask'].sum(axis=-1).tolist() == [[[9, 4, 1], [2, 3, 5]]]
    assert checked['passage_mask'].sum(axis=-1).tolist() == [[[6, 1, 2], [3, 3, 3]]]
    assert checked['query_mask'].sum(axis=-1).tolist() == [batch.retriever_query_lengths.tolist()]
    assert checked['query_mask_reader'].sum(axis=-1).tolist() == [batch.reader_query_lengths.tolist()]
    assert np.array_equal(checked['target_ids'][0], batch.decoder_target_tokens)
    assert (checked['reader_ids'] == 7 * checked['reader_mask']).all()


def test_models_must_be_named():
    with pytest.raises(errors.ConfigError):
        compare_text.from_text('d.jsonl', 'index', None, 'reader', None, None, 3, 2, 1)
