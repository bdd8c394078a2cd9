"""Lengths of a planned contrastive step equal those that its run draws or reads; a plan puts unknown lengths at their limit and says so."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import partitioning, train
from atlas_jax.apps.planning import pair_lengths, plan_table, planned_steps
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.input import crops
from atlas_jax.input.passage_tokens import PassageTokens
from atlas_jax.model import RetrieverSource
from atlas_jax.steps.spec import StepConfig
from atlas_jax.training import contrastive
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from tests.apps.planning.plan_table_test import made_up_plan
from tests.testing import tiny, word_tokenizers

SEGMENTS = tiny.SEGMENTS.retriever
MOCO = contrastive.ContrastiveConfig(0.2, 0.4, chunk_tokens=40, queue_size=24, augmentation='none')
IN_BATCH = contrastive.ContrastiveConfig(method='inbatch', hard_negatives=2)


def _workload(options, retriever=tiny.RETRIEVER, inputs=tiny.INPUTS, **data):
    run = {'run': train.RunConfig('run', batch_size=4), 'model': RetrieverSource('bert', inputs), 'data': RetrieverData(**data),
           'optimizer': OptimizerConfig(total_steps=6), 'contrastive': options, 'step': StepConfig()}
    return workload_lib.of_contrastive(retriever, run)


def test_a_retriever_of_its_own_formats_takes_passages_up_to_its_last_position():
    # InputConfig.text_max_tokens limits a reader's inputs: 64 is the retriever's limit.
    inputs = dataclasses.replace(tiny.INPUTS, text_max_tokens=20, retriever_max_tokens=None)
    lengths = pair_lengths.pair_lengths(_workload(IN_BATCH, inputs=inputs, questions_file='q'), SEGMENTS)
    assert lengths.widths == (11, 64) and lengths.passages.tolist() == [64] and lengths.passages_each == 3
    long = dataclasses.replace(tiny.INPUTS, text_max_tokens=200, query_max_tokens=100)
    assert pair_lengths.pair_lengths(_workload(IN_BATCH, inputs=long, questions_file='q'), SEGMENTS).widths == (64, 37)


def test_passages_of_a_store_have_its_lengths():
    workload = dataclasses.replace(_workload(IN_BATCH, questions_file='q'), passage_lengths=((3, 50), (7, 19, 31)))
    lengths = pair_lengths.pair_lengths(workload, SEGMENTS)
    assert lengths.passages.tolist() == [9, 21, 33] and lengths.widths == (11, 33) and lengths.queries.tolist() == [11]
    shown = pair_lengths.line(workload, SEGMENTS)
    assert 'questions of 11 tokens, their limit, and passages of 21 tokens on average, 33 at most; passages a question: 3' in shown


def test_hard_negatives_count_among_the_real_tokens():
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    options = {n: dataclasses.replace(IN_BATCH, hard_negatives=n) for n in (0, 1, 3)}
    of_each = {n: planned_steps.model_flops(_workload(each, questions_file='q'), mesh) for n, each in options.items()}
    assert of_each[3] - of_each[1] == pytest.approx(2 * (of_each[1] - of_each[0]), rel=1e-5) and of_each[1] > 1.5 * of_each[0]


@pytest.mark.parametrize('augmentation', ['delete', 'mask'])
def test_crops_are_as_long_as_a_run_draws_them(augmentation):
    options = dataclasses.replace(MOCO, augmentation=augmentation, augmentation_probability=0.3)
    lengths = pair_lengths.pair_lengths(_workload(options, train_file='p'), SEGMENTS)
    tokens = np.arange(9 * 60).astype(np.uint16) % 50
    passages = PassageTokens(tokens, np.arange(0, 9 * 60 + 1, 60), lambda number: f'passage {number}')
    run = crops.Crops(passages, options, word_tokenizers.bert(), ((2,), (3,)), ((2,), (3,)), 64)
    drawn = np.concatenate([crop for _ in range(9) for crop in run.sampled_lengths()])
    assert lengths.widths == run.widths == (18, 18) and lengths.passages_each == run.passages_each
    assert lengths.passages.mean() == pytest.approx(drawn.mean(), rel=0.04)
    assert lengths.passages.min() >= 3


@pytest.mark.parametrize('options, data, words', [
    (IN_BATCH, {'questions_file': 'q'}, 'questions of 11 tokens, their limit, and passages of 37, their limit; passages a question: 3, '
                                        'with all hard negatives. The file of questions is not read'),
    (MOCO, {'train_file': 'p'}, 'crops of 14 tokens on average, 18 at most, if all passages have 40 tokens and more. They are not read')])
def test_a_plan_says_what_it_does_not_know(options, data, words):
    workload = _workload(options, **data)
    assert any(line.startswith('lengths   ') and words in line for line in plan_table.lines(made_up_plan('contrastive'), workload))
    known = '\n'.join(plan_table.lines(made_up_plan('contrastive'), dataclasses.replace(workload, passage_tokens=(20, 0))))
    assert 'lengths   ' in known and words not in known
