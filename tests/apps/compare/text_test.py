"""Real text as token arrays: the results of the train step's own retrieval, in the layout of token_arrays."""

import json
import types

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import prepare
from atlas_jax.apps.compare import text as compare_text
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.tasks import qa
from tests.testing import tiny, tiny_run


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


def _found(reader_lengths):
    return types.SimpleNamespace(reader_tokens=np.full((2, 3, 9), 7), reader_lengths=np.array(reader_lengths),
                                 retriever_tokens=np.full((2, 3, 6), 8), retriever_lengths=np.full((2, 3), 4))


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """A file of 11 questions; retrieval returns the entries of a list."""
    (tmp_path / 'questions.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in tiny_run.rows()))
    given = []
    atlas = types.SimpleNamespace(task=qa.QATask('{question}', '{target}'), params={'reader': {}, 'retriever': {}})
    monkeypatch.setattr(compare_text.api.ModelSource, 'load', lambda self, kind: atlas)
    monkeypatch.setattr(compare_text.api.Index, 'open', lambda index, store, force: (index, store))
    monkeypatch.setattr(compare_text, 'compile_step', lambda program, spec: (program, spec))

    def prepared(model, examples, index, n_context, batch_size, *, distill):
        assert model is atlas and index == ('index', 'store') and distill.retriever_n_context == n_context == 3

        def run(step, params, examples, size):
            assert step == (compare_text._assemble, 'spec') and set(params) == {'retriever'}
            for start in range(0, len(examples), size):
                yield examples[start:start + size], (tiny.batch(size, seed=start), given[start // size])
        return types.SimpleNamespace(spec='spec', run=run)

    monkeypatch.setattr(prepare, 'prepare_examples', prepared)
    return str(tmp_path / 'questions.jsonl'), given


def test_batches_come_from_training_s_own_preparation(questions):
    path, given = questions
    given += [_found([[9, 4, 1], [2, 3, 5]]), _found([[1, 1, 1], [2, 2, 2]])]
    arrays = compare_text.from_text(path, 'index', 'store', 'reader', 'retriever', None, 3, 2, 2)
    assert arrays['reader_ids'].shape == (2, 2, 3, 9) and arrays['passage_ids'].shape == (2, 2, 3, 6)
    assert arrays['reader_mask'].sum(axis=-1)[1].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_too_few_passages_and_too_few_questions(questions):
    path, given = questions
    given += [_found([[9, 4, 1], [2, 0, 0]])]
    with pytest.raises(errors.ConfigError, match='index: fewer than 3 passages for a question; lower --n_context'):
        compare_text.from_text(path, 'index', 'store', 'reader', 'retriever', None, 3, 2, 1)
    with pytest.raises(errors.ConfigError, match='11 questions, but 4 batches of 3 need 12; take fewer'):
        compare_text.from_text(path, 'index', 'store', 'reader', 'retriever', None, 3, 3, 4)
