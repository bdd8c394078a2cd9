"""Few-shot choice: by a seed, by lists, and lists that do not fit."""

import gzip
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import few_shot

LABELS = ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO')
CLAIMS = [{'claim': f'Claim {number}.', 'label': LABELS[number % 3]} for number in range(31)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(name: str, rows) -> str:
    content = '\n'.join(map(json.dumps, rows)).encode()
    pathlib.Path(name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
    return name


def fields(lines) -> list[dict]:
    return [line.fields for line in lines]


def test_a_draw_depends_on_the_seed_and_the_rows_alone():
    whole = written('all.jsonl', CLAIMS)
    parts = [written('z.jsonl.gz', CLAIMS[20:]), written('a.jsonl', CLAIMS[:20])]
    drawn = fields(few_shot.by_seed(whole, 7, seed=3))
    assert drawn == fields(few_shot.by_seed(parts, 7, seed=3)) != fields(few_shot.by_seed(whole, 7, seed=4))
    assert drawn[:4] == fields(few_shot.by_seed(whole, 4, seed=3)), 'a smaller choice is the beginning of a larger one'
    assert len({row['claim'] for row in drawn}) == 7 and drawn != CLAIMS[:7]
    # Equal rows count once: reading the files twice gives the same choice.
    assert drawn == fields(few_shot.by_seed([whole, written('again.jsonl', CLAIMS)], 7, seed=3))


def test_every_row_is_as_likely_as_another():
    file = written('all.jsonl', CLAIMS[:9])
    counts = dict.fromkeys((row['claim'] for row in CLAIMS[:9]), 0)
    for seed in range(180):
        for row in fields(few_shot.by_seed(file, 3, seed)):
            counts[row['claim']] += 1
    assert all(35 < count < 90 for count in counts.values()), counts  # 60 expected, with a standard deviation of 6


def test_as_many_of_each_value():
    drawn = fields(few_shot.by_seed(written('all.jsonl', CLAIMS), 5, 0, per='label'))
    labels = [row['label'] for row in drawn]
    assert len(drawn) == 15 and all(labels.count(label) == 5 for label in LABELS)
    assert len(set(labels[:5])) > 1, 'the classes are mixed'
    assert len(few_shot.by_seed(written('flags.jsonl', [{'claim': str(n), 'year': n % 2} for n in range(9)]), 3, 0, per='year')) == 6


@pytest.mark.parametrize(('options', 'message'), [
    ({'count': 32}, '31 different rows, 32 were asked for; give a smaller --n'),
    ({'count': 11, 'per': 'label'}, '10 different rows with "label" "NOT ENOUGH INFO", 11 were asked for'),
    ({'count': 1, 'per': 'lable'}, r'all\.jsonl:1, field "lable": missing; fields found: claim, label'),
    ({'count': 1, 'per': 'tags'}, r'tagged\.jsonl:1, field "tags": expected a text or a number, found list')])
def test_what_cannot_be_drawn(options, message):
    paths = [written('tagged.jsonl', [{'claim': 'c', 'tags': []}])] if options.get('per') == 'tags' else [written('all.jsonl', CLAIMS)]
    with pytest.raises(errors.InputFileError, match=message):
        few_shot.by_seed(paths, options['count'], 0, options.get('per', ''))


@pytest.mark.parametrize('with_ids', [False, True])
def test_a_choice_can_be_made_again_from_its_list(with_ids):
    claims = [{'id': f'c{number}', **row} if with_ids else row for number, row in enumerate(CLAIMS)]
    files = [written('a.jsonl', claims[:20]), written('b.jsonl', claims[20:])]
    drawn = few_shot.by_seed(files, 6, 1)
    assert few_shot.write(drawn, files, pathlib.Path('few.jsonl')) == {pathlib.Path('few.jsonl'): 6}
    listed = [json.loads(line) for line in pathlib.Path('few.ids').read_text().splitlines()]
    assert listed[0] == {'id': drawn[0].docid, 'row': drawn[0].row, 'asked': drawn[0].fields['claim']}
    assert (listed[0]['id'] is not None) == with_ids
    for paths in (files, files[::-1], written('all.jsonl', claims)):
        assert fields(few_shot.by_list(paths, pathlib.Path('few.ids'))) == fields(drawn)
        # The examples themselves are also a list; the original publishes such lists.
        assert fields(few_shot.by_list(paths, pathlib.Path('few.jsonl'))) == fields(drawn)


def test_rows_with_one_text_are_told_apart_by_their_number():
    rows = [{'question': 'Who?', 'answers': [name]} for name in 'abc']
    file = written('all.jsonl', rows)
    written('few.ids', [{'id': None, 'row': 2, 'asked': 'who'}, {'id': None, 'row': 0, 'asked': 'who'}])
    assert fields(few_shot.by_list(file, pathlib.Path('few.ids'))) == [rows[2], rows[0]]
    sums = [{'question': f'1 {sign} 2?', 'answers': [sign]} for sign in '+-*']
    assert fields(few_shot.by_list(written('sums.jsonl', sums), pathlib.Path(written('two.jsonl', sums[:0:-1])))) == sums[:0:-1]
    # Without row numbers, equal rows are taken in order, as often as they are listed.
    assert fields(few_shot.by_list(file, pathlib.Path(written('two.jsonl', rows[1:])))) == rows[:2]


@pytest.mark.parametrize(('content', 'name', 'rows'), [
    ('[17, 4, 30]', '', [17, 4, 30]), ('{"0": [17, 4]}', '', [17, 4]), ('{"train": [3], "dev": [5, 1]}', 'dev', [5, 1]),
    ('{"a": 3, "b": 1}', '', [3, 1]), ('["c4", "c0"]', '', [4, 0]), ('{"claim": "claim 9"}', '', [9]), ('[{"claim": "CLAIM 9!"}]', '', [9]),
    ('\ufeff[2]', '', [2])])
def test_lists_of_others(content, name, rows):
    file = written('all.jsonl', [{'id': f'c{number}', **row} for number, row in enumerate(CLAIMS)])
    pathlib.Path('list.json').write_text(content)
    assert [line.row for line in few_shot.by_list(file, pathlib.Path('list.json'), name)] == rows


@pytest.mark.parametrize(('content', 'message'), [
    ('["c1", "c99", "x"]', r"^list\.json: 2 of 3 entries are not in all\.jsonl: id 'c99' \(entry 2\), id 'x' \(entry 3\); give the"),
    ('[31]', r'1 of 1 entries are not in all\.jsonl: row 31 \(entry 1\)'), ('[3, 3]', r'row 3 \(entry 2\) is listed before \(entry 1\)'),
    ('[-1]', 'entry 1 is -1; entries are'), ('[true]', 'entry 1 is True'), ('[]', 'an empty list'), ('{}', 'no list ""; lists found: none'),
    ('{"a": [1], "b": [2]}', '2 lists; choose one by --list: a, b'), ('{"claim": "nothing"}', "entries are not in all.jsonl: 'nothing'"),
    ('{"id": "c1", "row": 1, "asked": "claim 2"}', r'id \'c1\' \(line 1\) reads \'Claim 1.\' in all\.jsonl:2, and \'claim 2\' in the list'),
    ('{"id": 3, "row": 1, "asked": "x"}', r'list\.json:1: expected "id" as text or null'),
    ('{"id": null, "row": -1, "asked": "x"}', r'list\.json:1: expected'), ('{"claim": "claim 1"}\n{"claim"', r'list\.json:2: broken JSON'),
    ('[1', r'list\.json:1: broken JSON'), ('3', r'list\.json:1: expected a JSON object'), ('', 'the file is empty')])
def test_lists_that_do_not_fit(content, message):
    file = written('all.jsonl', [{'id': f'c{number}', **row} for number, row in enumerate(CLAIMS)])
    pathlib.Path('list.json').write_text(content)
    with pytest.raises(errors.InputFileError, match=message):
        few_shot.by_list(file, pathlib.Path('list.json'))


def test_lists_by_name_and_ids_that_are_not_unique():
    file = written('all.jsonl', [{'id': 'same', **row} for row in CLAIMS])
    pathlib.Path('list.json').write_text('{"a": ["same"], "b": [1]}')
    with pytest.raises(errors.InputFileError, match=r'no list "c"; lists found: a, b'):
        few_shot.by_list(file, pathlib.Path('list.json'), 'c')
    with pytest.raises(errors.InputFileError, match=r'all\.jsonl:2, field "id": "same" was the id of an earlier row \(all\.jsonl:1\)'):
        few_shot.by_list(file, pathlib.Path('list.json'), 'a')


def test_a_file_for_each_subject():
    rows = [{'question': f'q{n}', 'subject': ('anatomy', 'world history')[n % 2], 'group': 'g/h'} for n in range(8)]
    file = written('all.jsonl', rows)
    drawn = few_shot.by_seed(file, 3, 0, per='subject')
    assert few_shot.write(drawn, file, pathlib.Path('shots'), split='subject') == {
        pathlib.Path('shots/anatomy.jsonl'): 3, pathlib.Path('shots/world history.jsonl'): 3}
    assert {json.loads(line)['subject'] for line in pathlib.Path('shots/anatomy.jsonl').read_text().splitlines()} == {'anatomy'}
    with pytest.raises(errors.InputFileError, match=r'field "group": cannot name a file: the name .* has a slash; give another field'):
        few_shot.write(drawn, file, pathlib.Path('groups'), split='group')
    assert not pathlib.Path('groups').exists()


def test_nothing_that_is_read_is_written_over():
    file = written('all.jsonl', CLAIMS)
    drawn = few_shot.by_seed(file, 3, 0)
    with pytest.raises(errors.InputFileError, match='^all.jsonl: is read, and would be written over; give another --to'):
        few_shot.write(drawn, file, pathlib.Path('all.jsonl'))
    pathlib.Path('shots').mkdir()
    with pytest.raises(errors.InputFileError, match='shots: a folder; give a file to write, or --split FIELD'):
        few_shot.check_output(file, pathlib.Path('shots'))
    for name in ('few.jsonl.gz', 'few.ids', 'few'):
        with pytest.raises(errors.InputFileError, match='not the name of a JSON-lines file; let it end in .jsonl'):
            few_shot.check_output(file, pathlib.Path(name))
    with pytest.raises(errors.InputFileError, match='^few.ids: is read, and would be'):
        few_shot.check_output(file, pathlib.Path('few.jsonl'), ids_file=pathlib.Path('few.ids'))
    assert len(pathlib.Path('all.jsonl').read_text().splitlines()) == 31
