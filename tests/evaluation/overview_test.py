"""The page and the JSON of all results of a folder."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.evaluation import overview, results


def rows(*scores, **changes) -> list[dict]:
    return [{'example_id': number, 'question': f'<q{number}>', 'answers': ['a'], 'prediction': 'b', 'exact_match': float(score),
             'retrieved': 1, 'labels': {'year': 2017 + number % 2},
             'passages': [{'docid': 'd', 'title': 't', 'text': 'some text', 'score': 1.0, 'attention': 0.5},
                          {'text': 'x', 'score': 'high'}, 3]}
            | changes for number, score in enumerate(scores)]


@pytest.fixture
def folder(tmp_path):
    """Two runs over the same questions, one with two indexes, and other files."""
    (tmp_path / 'deep').mkdir()
    results.finish(tmp_path / 'before.jsonl', rows(0, 0, 1, 0))
    results.finish(tmp_path / 'deep' / 'after.jsonl', rows(1, 0, 1, 1))
    results.finish(tmp_path / 'indexes.jsonl', rows(0, 0, 1, 0, index_name='2017') + rows(1, 1, 1, 1, index_name='2020'))
    (tmp_path / 'train.jsonl').write_text('{"question": "q", "answers": ["a"]}\n')
    (tmp_path / 'x.jsonl.partial').write_text('{"evaluation": {}}\n')
    return tmp_path


def test_all_results_of_a_folder(folder):
    files = overview.read_folder(folder)
    assert list(files) == ['before.jsonl', 'deep/after.jsonl', 'indexes.jsonl']
    found = json.loads(json.dumps(overview.figures_of_files(files)))
    assert found['results']['deep/after.jsonl']['exact_match'] == .75
    [pair] = found['comparisons']
    assert (pair['before'], pair['after'], pair['metrics']['exact_match']['difference']) == ('before.jsonl', 'deep/after.jsonl', .5)
    page = overview.write(folder, files, found).read_text()
    for part in ('0.750 (0.250 to 1.000)', 'before: before.jsonl; after: deep/after.jsonl', 'exact_match by year', 'indexes.jsonl 2020',
                 'before: index 2017; after: index 2020', '&lt;q1&gt;', 'some text'):
        assert part in page, part
    assert '<q1>' not in page and 'http' not in page.replace('http://www.w3.org', '')


def test_files_of_one_evaluation_are_pooled():
    pooled = overview.pooled({'a': rows(1, 0), 'b': rows(1)})
    assert [row['example_id'] for row in pooled] == ['a:0', 'a:1', 'b:0']
    assert overview.figures_of_files({'all': pooled})['results']['all']['exact_match'] == pytest.approx(2 / 3)
    with pytest.raises(errors.ConfigError, match='different metrics'):
        overview.pooled({'a': rows(1), 'b': [{'example_id': 0, 'question': 'q', 'f1': 1.0}]})


def test_tables():
    indexes = overview.figures_of_files({'x': rows(1, 0, index_name='old') + rows(1, 1, index_name='new')})['results']['x']['indexes']
    assert overview.exchange_table(indexes, 'year') == (['exact_match by year', 'old', 'new'], [
        ['2017', '1.000', '1.000'], ['2018', '0.000', '1.000'],  # one question each
        ['all', '0.500 (0.000 to 1.000)', '1.000 (1.000 to 1.000)']])
    header, lines = overview.label_table(indexes['old']['by'], 'year')
    assert header == ['year', 'questions', 'exact_match'] and lines[0] == ['2017', 1, '1.000'] and lines[-1][:2] == ['mean of these', 2]
    header, [line] = overview.comparison_table({'f1': {'before': 0.0, 'after': 1, 'difference': 1, 'interval': [0, 1], 'p_value': .5}})
    assert line == ['f1', 0.0, 1.0, 1.0, '+0.000 to +1.000', '0.5000'] and len(header) == len(line)


def test_folders_without_results(tmp_path):
    (tmp_path / 'train.jsonl').write_text('{"question": "q"}\n')
    with pytest.raises(errors.InputFileError, match='no results in it'):
        overview.read_folder(tmp_path)
    with pytest.raises(errors.InputFileError, match='no such folder'):
        overview.read_folder(tmp_path / 'x')
    results.finish(tmp_path / 'broken.jsonl', rows(1) + rows(2))
    with pytest.raises(errors.InputFileError, match='broken.jsonl:2, field "exact_match"'):
        overview.read_folder(tmp_path)


def test_a_page_shows_the_curves_of_a_confidence(tmp_path):
    files = {'a.jsonl': [row | {'confidence': 0.2 + 0.6 * row['exact_match']} for row in rows(1, 0, 1)]}
    page = overview.write(tmp_path, files, overview.figures_of_files(files)).read_text()
    assert 'Wrong answers where only the most confident are given' in page and 'coverage_at_95' in page
    assert 'Right answers by confidence' in page and 'Best answers' in page
