"""KILT's file format: answers and gold pages in `output`."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.tasks import kilt

ROW = {'input': 'who?', 'output': [{'answer': 'a'}, {'provenance': [{'wikipedia_id': '12'}]}, {'answer': 'b'}, {'answer': 'a'},
                                   {'answer': ' '}]}


def test_different_answers_count_and_the_first_is_the_target():
    example = kilt.KiltTask().example(ROW, 0)
    assert (example.query, example.target) == ('question: who? answer: <extra_id_0>', '<extra_id_0> a')
    assert (example.answers, example.gold_docids, example.row) == (['a', 'b'], ['12'], None)


def test_each_output_with_provenance_is_an_evidence_set():
    assert kilt.KiltTask().example(ROW, 0).evidence == (('12',),)
    output = [{'answer': 'a', 'provenance': None}, {'provenance': []}, {'provenance': [{'wikipedia_id': 7}, {'title': 't'}, 'x']}]
    assert kilt.KiltTask().example({'input': 'q', 'output': output}, 0).evidence == ((), ('7', ''))


def test_a_drawn_target_is_one_of_them():
    task = kilt.KiltTask(draw_target=True)
    drawn = {task.example(ROW, 0, np.random.default_rng(seed)).target for seed in range(20)}
    assert drawn == {'<extra_id_0> a', '<extra_id_0> b'} and task.draws and not kilt.KiltTask().draws
    assert task.example(ROW, 3) == task.example(ROW, 3) and task.example(ROW, 3).row is ROW


@pytest.mark.parametrize('name, answers', [('fever-dev.jsonl', ['false', 'x']), ('FEVER', ['false', 'x']), ('nq.jsonl', ['REFUTES', 'x'])])
def test_fevers_labels_become_words(name, answers):
    row = {'input': 'c', 'output': [{'answer': 'REFUTES'}, {'answer': 'x'}], 'filename': name}
    assert kilt.KiltTask().example(row, 0).answers == answers


def test_answers_have_no_blanks_around_them():
    row = {'input': 'q', 'output': [{'answer': ' a\n'}, {'answer': '\t'}, {'answer': 'a'}, {'answer': 'b c '}]}
    example = kilt.KiltTask().example(row, 0)
    assert example.answers == ['a', 'b c'] and example.target == '<extra_id_0> a'
    row = {'input': 'q', 'output': [{'answer': ' SUPPORTS '}], 'filename': 'fever.jsonl'}
    assert kilt.KiltTask().example(row, 0).answers == ['true']


def test_no_output_no_answers():
    example = kilt.KiltTask().example({'input': 'i'}, 0)
    assert (example.answers, example.target, example.gold_docids) == ([], '', [])
    with pytest.raises(errors.ConfigError, match='field "output": has no "answer"'):
        kilt.KiltTask().example({'input': 'i', 'output': []}, 0)
    with pytest.raises(errors.FormatError, match='qa_prompt_format'):
        kilt.KiltTask(qa_prompt_format='{input}')
