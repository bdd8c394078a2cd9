"""The paper's figures and ours, from handmade results files."""

import json
import types

import pytest

from atlas_jax.apps.reproduce import paper_table
from atlas_jax.apps.reproduce.recipes import RECIPES
from atlas_jax.apps.reproduce.run_steps import ReproductionSettings
from atlas_jax.evaluation import results


def plan_of(run, tmp_path, **changes):
    return types.SimpleNamespace(settings=ReproductionSettings(run, (), tmp_path, {}, {}, **changes), recipe=RECIPES[run], found={},
                                 split='test', results=tmp_path / 'results')


def rows(*values, metric='exact_match', **more):
    return [{'example_id': number, 'question': f'q{number}', 'answers': ['a'], metric: value, 'f1': value, **more}
            for number, value in enumerate(values)]


def test_paper_and_ours_with_an_interval(tmp_path):
    plan = plan_of('nq_64_shot', tmp_path, size='xl', questions=4)
    results.finish(plan.results / 'test.jsonl', rows(1.0, 1.0, 0.0, 1.0))
    lines, page = paper_table.write(plan)
    assert [line.figure for line in lines] == ['exact_match', 'f1'] and lines[0].ours == 75.0 and lines[0].questions == 4
    assert 0 <= lines[0].interval[0] < 75 < lines[0].interval[1] <= 100
    text = paper_table.as_text(plan, lines)
    assert 'exact_match  xl 41.3  75.0' in text and 'f1           -' in text and 'Only the first 4 questions of each file.' in text
    assert 'Without NQ.*.idx.json' in text and 'xxl has 42.4' in text
    report = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))
    assert report['figures'][0]['paper'] == {'base': 27.0, 'large': 35.4, 'xl': 41.3, 'xxl': 45.1}
    assert report['results'] == {'test.jsonl': 4}
    assert 'xl 41.3' in page.read_text(encoding='utf-8') and (plan.results / 'evaluation.html').is_file()


def test_all_sizes_where_none_is_said(tmp_path):
    [line, _] = paper_table.lines_of(plan_of('nq_full', tmp_path), {'test.jsonl': rows(0.0, 1.0)})
    assert line.cells(None)[1] == 'base 54.1, large 60.8, xl 63.4, xxl 64.0' and line.cells('base')[1] == 'base 54.1'
    plan = plan_of('fever_full', tmp_path, size='base', split='dev')
    lines = paper_table.lines_of(plan, {'test.jsonl': rows(1.0, metric='accuracy')})
    assert 'The paper has no figure for base, only for xxl.' in paper_table.remarks(plan, lines)
    assert 'The paper\'s figures use the test questions, ours the dev questions.' in paper_table.remarks(plan, lines)


def test_subjects_are_one_evaluation(tmp_path):
    files = {f'{subject}.jsonl': rows(*values, metric='accuracy', debiased_accuracy=0.0) for subject, values in
             {'anatomy': (1.0, 1.0), 'virology': (0.0, 0.0, 1.0)}.items()}
    lines = {line.figure: line for line in paper_table.lines_of(plan_of('mmlu_5_shot', tmp_path), files)}
    assert lines['accuracy'].ours == pytest.approx(60) and lines['accuracy'].questions == 5
    assert lines['debiased_accuracy'].ours == 0 and lines['debiased_accuracy'].paper == {'xxl': 47.9}


def test_years_and_indexes_are_picked(tmp_path):
    def asked(index, year, *values):
        return rows(*values, index_name=index, labels={'year': year}) if index else rows(*values, labels={'year': year})

    files = {'trained_2020.jsonl': asked('2020', 2020, 1.0, 1.0) + asked('2020', 2017, 0.0) + asked('2017', 2020, 0.0, 0.0),
             'trained_2017.jsonl': asked('2020', 2020, 1.0, 0.0) + asked('2017', 2017, 1.0), 'closed_book.jsonl': asked('', 2020, 0.0, 0.0)}
    lines = paper_table.lines_of(plan_of('templama', tmp_path), files)
    assert [(line.paper, line.ours, line.questions) for line in lines[:3]] == [
        ({'': 57.7}, 100.0, 2), ({'': 53.1}, 50.0, 2), ({'': 1.5}, 0.0, 2)]
    assert lines[0].cells('xxl')[1] == '57.7' and lines[0].figure.endswith('trained on 2020')


def test_a_figure_that_no_question_has_is_left_open(tmp_path):
    [line, *_] = paper_table.lines_of(plan_of('mmlu_zero_shot', tmp_path), {'test.jsonl': rows(1.0, metric='accuracy')})
    assert line.ours is None and line.cells('xxl') == ['debiased_accuracy', 'xxl 47.1', '-', '', '1']
