"""Results files come back as written and resume; damaged ones are refused with file, line and field."""

import json
import math

import pytest

from atlas_jax import errors
from atlas_jax.evaluation import results

ROW = {'example_id': 0, 'question': 'q', 'answers': ['a'], 'prediction': 'a', 'exact_match': 1.0, 'retrieved': 3, 'answer_rank': None,
       'gold_docids': ['d'], 'gold_ranks': [0], 'labels': {'year': 2017}, 'correlations': {'probssum': None}, 'nll': 2.0, 'passages': ['p']}


def test_read_as_written(tmp_path):
    rows = [ROW, ROW | {'example_id': 1, 'question': 'ü'}, ROW | {'index_name': 'new'}]
    results.partial_of(tmp_path / 'r.jsonl').write_text('x')
    results.finish(tmp_path / 'r.jsonl', rows)
    assert results.read(tmp_path / 'r.jsonl') == rows and results.is_results(tmp_path / 'r.jsonl')
    assert not results.partial_of(tmp_path / 'r.jsonl').exists()
    results.finish(tmp_path / 'r.jsonl', rows, write_passages=False)
    assert all('passages' not in row for row in results.read(tmp_path / 'r.jsonl'))


@pytest.mark.parametrize(('field', 'value'), [
    ('example_id', None), ('example_id', True), ('question', 3), ('exact_match', 1.5), ('exact_match', '1'), ('exact_match', True),
    ('exact_match', float('nan')), ('nll', 'x'), ('nll', 1e300), ('answer_rank', -1), ('answer_rank', 0.5), ('gold_ranks', 0),
    ('gold_ranks', [None]), ('gold_docids', 'd'), ('retrieved', -1), ('labels', []), ('labels', {'year': []}), ('correlations', {'x': '1'}),
    ('index_name', 3), ('confidence', 1.5), ('confidence', 'x'), ('abstained', 1)])
def test_wrong_fields_are_named_with_their_line(tmp_path, field, value):
    (tmp_path / 'r.jsonl').write_text(f'{json.dumps(ROW)}\n\n{json.dumps(ROW | {"example_id": 1, field: value})}\n')
    with pytest.raises(errors.InputFileError) as caught:
        results.read(tmp_path / 'r.jsonl')
    assert str(caught.value).startswith(f'{tmp_path / "r.jsonl"}:3, field "{field}": expected ') and '\n' not in str(caught.value)


def test_a_question_comes_once(tmp_path):
    (tmp_path / 'r.jsonl').write_text(f'{json.dumps(ROW)}\n{json.dumps(ROW)}\n')
    with pytest.raises(errors.InputFileError, match=r':2, field "example_id": question 0 was there before'):
        results.read(tmp_path / 'r.jsonl')


@pytest.mark.parametrize('text', ['', 'x', '{"question": "q", "answers": ["a"]}', '[]'])
def test_other_files_are_no_results(tmp_path, text):
    (tmp_path / 'r.jsonl').write_text(text)
    assert not results.is_results(tmp_path / 'r.jsonl')


def log(tmp_path, *rows, description=None) -> results.Log:
    made = results.Log(file=tmp_path / 'new' / 'r.jsonl.partial', without=frozenset(['passages']))
    with made.kept(description or {'options': [1, 2]}):
        for row in rows:
            made.add(row)
    return made


def test_rows_are_on_the_disk_as_they_come_and_grow(tmp_path):
    log(tmp_path, {'example_id': 0, 'question': 'q', 'retrieved': 0, 'passages': []})
    other = {'example_id': 0, 'index_name': 'new', 'question': 'q'}
    found = log(tmp_path, {'example_id': 0, 'nll': 1.0}, other, description={'options': (1, 2)})
    assert found.rows == {('', '0'): {'example_id': 0, 'question': 'q', 'retrieved': 0, 'nll': 1.0},
                          ('new', '0'): {'example_id': 0, 'index_name': 'new', 'question': 'q'}}
    assert found.has(('', '0'), 'nll') and not found.has(('new', '0'), 'nll') and not found.has(('', '1'), 'nll')
    assert len(found.file.read_text().splitlines()) == 4


def test_rows_of_another_evaluation_are_kept_and_refused(tmp_path):
    before = log(tmp_path, {'example_id': 0, 'question': 'q'}).file.read_text()
    with pytest.raises(errors.ConfigError, match='with other model, options; run it again as it was, or remove the file'):
        log(tmp_path, description={'options': [1], 'model': 'x'})
    assert (tmp_path / 'new' / 'r.jsonl.partial').read_text() == before
    (tmp_path / 'new' / 'r.jsonl.partial').write_text('{"example_id": 0}\n')
    with pytest.raises(errors.ConfigError, match='with other contents'):
        log(tmp_path)


def test_a_torn_line_is_cut_off_and_a_broken_one_is_not(tmp_path):
    file = log(tmp_path, {'example_id': 0, 'question': 'q'}).file
    with open(file, 'ab') as open_file:
        open_file.write(b'x' * (results._BLOCK + 5))  # longer than a block
    assert len(log(tmp_path, {'example_id': 1, 'question': 'q'}).rows) == 2
    with open(file, 'ab') as open_file:
        open_file.write(b'{"example_id": null}\n')
    with pytest.raises(errors.InputFileError, match=r'partial:4, field "example_id"'):
        log(tmp_path)


def test_one_evaluation_at_a_time_and_nothing_is_left_of_one_without_rows(tmp_path):
    first = results.Log(file=tmp_path / 'r.partial')
    with first.kept({}), pytest.raises(errors.ConfigError, match='another evaluation is writing it'), results.Log(file=first.file).kept({}):
        pass
    assert not first.file.exists()
    with results.Log().kept({}):
        pass
    assert not list(tmp_path.iterdir())


def test_passages_that_cannot_be_shown_are_passed_over():
    whole = {'text': 'a', 'score': 1.5, 'attention': .5}
    passages = [whole, {'text': 'b'}, {'text': 3}, {'title': 'c'}, {'text': '', 'score': True}, {'text': '', 'attention': math.nan}, 7]
    assert results.passages_of({'passages': passages}) == [whole, {'text': 'b'}]
    assert results.passages_of({}) == results.passages_of({'passages': 'x'}) == []
