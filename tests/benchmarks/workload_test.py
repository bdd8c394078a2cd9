"""The workload of the benchmarks against PyTorch, and the table they end in."""

import importlib

import numpy as np

workload = importlib.import_module('workload')
WORKLOAD = workload.Workload('r', 'q', reader_vocab=101, retriever_vocab=97)


def test_lengths_are_those_of_the_corpus():
    arrays = workload.step_arrays(WORKLOAD, 20, 10, 5)
    lengths = arrays['reader_mask'].sum(axis=-1)
    assert lengths.shape == (5, 20, 10) and lengths.max() == workload.LIMIT
    assert abs(lengths.mean() - 164) < 5 and abs(lengths.std() - 38) < 5  # 162 +- 35 in docs/design.md's prototype
    assert arrays['target_ids'].shape[-1] == workload.TARGET_WIDTH and arrays['reader_ids'].max() < 101
    assert np.array_equal(arrays['decoder_input_ids'][..., 1:], arrays['target_ids'][..., :-1])


def test_scale_and_limit():
    arrays = workload.step_arrays(WORKLOAD, 3, 5, 2, passage_scale=2.0, limit=400)
    assert 200 < arrays['reader_mask'].sum(axis=-1).max() <= 400
    assert workload.step_arrays(WORKLOAD, 3, 5, 2, passage_scale=0.01)['reader_mask'].sum(axis=-1).max() < 40


def test_inputs_are_ones_that_compare_takes():
    from atlas_jax.apps.compare import token_arrays as compare_inputs
    arrays = workload.step_arrays(WORKLOAD, 2, 3, 2)
    checked = compare_inputs.check(arrays, 'x.npz', needs_retriever=True, needs_targets=True)
    assert all(np.array_equal(checked[name], arrays[name]) for name in arrays)


def test_answers_and_embedding_have_their_arrays():
    arrays = workload.answer_arrays(WORKLOAD, 7, batch=2, batches=3, passages=11)
    assert arrays['index_embeddings'].shape == (11, 7) and arrays['reader_query_lengths'].shape == (3, 2)
    passages = workload.embed_arrays(WORKLOAD, 13)
    assert passages['embed_ids'].shape[0] == 13 and passages['embed_lengths'].max() <= workload.LIMIT


def test_table_has_a_row_of_every_benchmark_and_size():
    table = importlib.import_module('all').table
    results = {(name, size): {'ratio_tuned': 2.5, 'ratio_greedy_tuned': 3.5, 'machine': {'processor': 'P', 'cores': 2}}
               for name in ('train_step', 'embed', 'answer', 'memory') for size in ('small', 'base')}
    lines = table(results, ['small', 'base']).splitlines()
    assert len(lines) == 2 + 2 * 5 + 2 and lines[2].startswith('| joint train step, small |') and '2.50 ×' in lines[2]
    assert lines[0].count('|') == lines[1].count('|') == lines[2].count('|') and '3.50 ×' in lines[4]
