import json

import pytest

from tests.testing import published

NQ = ['nq_open/NQ-open.train.jsonl', 'nq_open/NQ-open.dev.jsonl']
TRIVIA = ['triviaqa/unfiltered-web-train.json', 'triviaqa/unfiltered-web-dev.json']


def questions(rows: dict[str, list[dict]]) -> dict[str, list[str]]:
    """Returns the questions of each output."""
    return {output: [row['question'] for row in examples] for output, examples in rows.items()}


def test_positions_choose_in_the_order_of_the_list():
    rows, bad = published.read('nq_open', *NQ, *(f'nq_open/NQ.{split}.idx.json' for split in ('train', 'dev', 'test')))
    assert not bad and questions(rows) == {
        'train': ['what is the capital of norway', 'who discovered radium'], 'dev': ['where is the eiffel tower'],
        'test': ['how many moons has mars', 'who painted guernica\0']}
    rows, bad = published.read('triviaqa', *TRIVIA, *(f'triviaqa/TQA.{split}.idx.json' for split in ('train', 'dev', 'test')))
    assert not bad and questions(rows) == {
        'train': ['How many moons has Mars?', 'Which chemist discovered radium?'], 'dev': ['What is the capital of Norway?'],
        'test': ['Who painted Guernica?']}


def test_ids_choose_as_positions_do(tmp_path):
    (tmp_path / 'dev.ids.json').write_text('["tc_3", "tc_2"]')
    rows, bad = published.read('triviaqa', *TRIVIA, tmp_path / 'dev.ids.json')
    assert not bad and questions(rows) == {'dev': ['How many moons has Mars?', 'What is the capital of Norway?']}


def test_entries_without_an_example_are_bad(tmp_path):
    (tmp_path / 'dev.json').write_text('[1, 4, 90000]')
    rows, bad = published.read('nq_open', *NQ, tmp_path / 'dev.json')
    assert questions(rows) == {'dev': ['where is the eiffel tower']}
    assert [message.split(': ')[1].split(';')[0] for message in bad] == [
        f'{entry} is not in NQ-open.train.jsonl, which has 4 examples' for entry in (4, 90000)]


def test_bad_records_count_where_they_are_listed(tmp_path):
    path = published.lines(tmp_path / 'a.train.jsonl', {'question': 'a', 'answer': ['x']}, {'question': 'b', 'answer': []}, '{"question')
    for listed, expected in (([0], []), ([1, 0], ['a.train.jsonl:2']), ([2], ['a.train.jsonl:3'])):
        (tmp_path / 'train.idx.json').write_text(json.dumps(listed))
        rows, bad = published.read('nq_open', path, tmp_path / 'train.idx.json')
        assert rows.get('train', []) == [{'question': 'a', 'answers': ['x']}] * (0 in listed)
        assert [message.split('/')[-1][:len('a.train.jsonl:2')] for message in bad] == expected


@pytest.mark.parametrize(('text', 'said'), [
    ('[1, 1]', '1 is listed twice'), ('[1, "a"]', 'not a list of a split'), ('[1, true]', 'not a list of a split'),
    ('[1', 'not a list of a split')])
def test_broken_lists_are_refused(tmp_path, text, said):
    (tmp_path / 'train.idx.json').write_text(text)
    with pytest.raises(Exception, match=said):
        published.read('nq_open', *NQ, tmp_path / 'train.idx.json')


def test_a_list_needs_its_file(tmp_path):
    assert "needs the publisher's dev file beside it, found 0" in published.refusal('nq_open', NQ[0], 'nq_open/NQ.test.idx.json')
    assert 'given twice' in published.refusal('nq_open', NQ[0], *['nq_open/NQ.dev.idx.json'] * 2)
    (tmp_path / 'list.json').write_text('[1]')
    assert 'needs a name with train, dev or test in it' in published.refusal('nq_open', NQ[0], tmp_path / 'list.json')
