"""The check of training data: counts of each side, written and removed rows, and refused inputs."""

import gzip
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import contamination
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore

LONG = 'in which year did the discoverer of radium receive her second prize from the academy in stockholm'
TEST = [{'id': 't0', 'question': 'Who discovered radium in Paris?', 'answers': ['Curie']},
        {'id': 't1', 'question': LONG, 'answers': ['1911']},
        {'id': 't2', 'question': 'Who discovered radium, in Paris?', 'answers': ['Curie']}]
TRAIN = [{'question': 'who discovered RADIUM in paris', 'answers': ['x']},
         {'question': 'Where is Warsaw?', 'answers': ['x'], 'passages': [{'text': f'Asked often: {LONG}. Nobody knows.'}]},
         {'question': 'Where is Warsaw', 'answers': ['x']}, {'question': 'What is polonium made of these days?', 'answers': ['x']}]
PASSAGES = [{'id': 'p0', 'text': 'Radium is a metal.'}, {'id': 'p1', 'text': f'They ask {LONG.upper()}!'},
            {'id': 'p2', 'text': 'Who discovered radium in Paris? Curie did.'}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (('test.jsonl', TEST), ('a.jsonl', TRAIN[:2]), ('passages.jsonl', PASSAGES)):
        pathlib.Path(name).write_text('\n'.join(map(json.dumps, rows)) + '\n')
    pathlib.Path('b.jsonl.gz').write_bytes(gzip.compress('\r\n\r\n'.join(map(json.dumps, TRAIN[2:])).encode()))
    return tmp_path


def found(report) -> set[tuple]:
    return {(each.kind, each.place.rpartition('/')[2], each.of_place) for each in report.found}


def test_every_side_is_compared_with_the_others():
    report = contamination.check(['a.jsonl', 'b.jsonl.gz'], 'test.jsonl', 'passages.jsonl')
    assert found(report) == {
        ('test_near_test', 'test.jsonl:3', 'test.jsonl:1'), ('train_near_test', 'a.jsonl:1', 'test.jsonl:1'),
        ('train_near_train', 'b.jsonl.gz:1', 'a.jsonl:2'), ('train_shares_test', 'a.jsonl:2', 'test.jsonl:2'),
        ('train_shares_test', 'a.jsonl:1', 'test.jsonl:1'), ('passages_share_test', 'passages.jsonl:2', 'test.jsonl:2')}
    figures = report.figures()
    assert figures['rows'] == {'train': 4, 'test': 3, 'passages': 3}
    kind = figures['found']['train_shares_test']
    assert (kind['rows'], kind['of'], kind['share'], kind['test_rows'], kind['test_share']) == (2, 4, .5, 2, 2 / 3)
    [example] = figures['found']['passages_share_test']['examples']
    assert (example['id'], example['of_id'], example['measure']) == ('p1', 't1', ' '.join(LONG.split()[:13]))
    lines = report.as_text().splitlines()
    assert lines[3].split()[-5:] == ['1', '4', '25.00%', '1', '(33.33%)']
    assert 'near-duplicates of a test question in training, 1.00:' in lines
    contamination.write(report, pathlib.Path('out'))
    listed = [json.loads(line) for line in pathlib.Path('out/found.jsonl').read_text().splitlines()]
    assert len(listed) == 6 and json.loads(pathlib.Path('out/report.json').read_text())['found'].keys() == contamination.KINDS.keys()


@pytest.mark.parametrize(('sides', 'near', 'kinds'), [
    (('a.jsonl', ()), .8, ['train_near_train']), (((), 'test.jsonl'), .8, ['test_near_test']),
    (((), 'test.jsonl', 'passages.jsonl'), 0, ['passages_share_test']), (('a.jsonl', 'test.jsonl'), 0, ['train_shares_test'])])
def test_sides_may_be_left_out(sides, near, kinds):
    report = contamination.check(*sides, near=near)
    assert report.kinds() == kinds and {each.kind for each in report.found} <= set(kinds)


def test_copies_have_all_other_lines_as_they_were(folder):
    sides = ['a.jsonl', 'b.jsonl.gz'], 'test.jsonl', 'passages.jsonl'
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report = contamination.check(*sides)
    written = contamination.remove(report, folder / 'out', sides[0], sides[2])
    assert {file.name: counts for file, counts in written.items()} == {'a.jsonl': (0, 2), 'b.jsonl': (1, 1), 'passages.jsonl': (2, 1)}
    assert (folder / 'out/b.jsonl').read_text() == json.dumps(TRAIN[3]) + '\n'
    assert (folder / 'out/passages.jsonl').read_text() == f'{json.dumps(PASSAGES[0])}\n{json.dumps(PASSAGES[2])}\n'
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    # The remaining rows are clean; only matches within the test questions stay.
    again = contamination.check('out/b.jsonl', 'test.jsonl', 'out/passages.jsonl')
    assert {each.kind for each in again.found} == {'test_near_test'}


def test_passages_of_a_store(folder):
    store = PassageStore.from_passages([Passage(row['id'], '', '', row['text']) for row in PASSAGES], folder / 'store', progress=False)
    store.append([Passage('p0', '', '', f'Newer: {LONG}')], progress=False)
    report = contamination.check((), 'test.jsonl', 'passages.jsonl', store, near=0)
    # The superseded p0 is not searched.
    assert report.read['passages'] == 3 + 3 and [(each.row, each.id) for each in report.found] == [(1, 'p1'), (4, 'p1'), (6, 'p0')]
    written = contamination.remove(report, folder / 'out', (), 'passages.jsonl', store)
    assert written[folder / 'out' / 'store'] == (1, 2)
    assert [passage.docid for passage in PassageStore.open(folder / 'out' / 'store')] == ['p2']
    assert len(PassageStore.open(folder / 'store')) == 4


@pytest.mark.parametrize(('folder_name', 'sides', 'store', 'message'), [
    ('.', ['a.jsonl'], None, 'a.jsonl: the cleaned copy would replace it; give another --to'),
    ('out', [['a.jsonl', 'more/a.jsonl']], None, 'more/a.jsonl: its copy would have the name of that of a.jsonl'),
    ('out', [()], 'out/store', 'out/store: the cleaned copy would replace it')])
def test_no_input_is_written_over(folder_name, sides, store, message):
    pathlib.Path('more').mkdir()
    pathlib.Path('more/a.jsonl').write_text('{}')
    with pytest.raises(errors.InputFileError, match=message):
        contamination.check_folder(pathlib.Path(folder_name), *sides, store=pathlib.Path(store) if store else None)
    contamination.check_folder(pathlib.Path('out'), 'a.jsonl', (), store=pathlib.Path('store'))


def test_rows_without_a_text_are_named():
    pathlib.Path('wrong.jsonl').write_text('{"text": "t"}\n{"title": "t"}\n')
    with pytest.raises(errors.InputFileError, match=r'wrong\.jsonl:2, field "text": missing, or no text; give files of passages'):
        contamination.check((), 'test.jsonl', 'wrong.jsonl')
    with pytest.raises(errors.InputFileError, match=r'wrong\.jsonl:2, field "question": missing'):
        contamination.check('wrong.jsonl', 'test.jsonl')
