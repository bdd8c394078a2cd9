"""Files of records: ids are unique in an output, and records that are left out are counted."""

from tests.testing import published


def test_ids_are_compared_over_the_files_of_an_output(tmp_path):
    first, second = (published.lines(tmp_path / f'{name}_dev.jsonl', {'id': 5, 'claim': name}) for name in 'ab')
    rows, bad = published.read('fever', first, second)
    assert rows == {'dev': [{'id': '5', 'claim': 'a'}]} and len(bad) == 1 and 'b_dev.jsonl:1, field "id": "5" was the id of' in bad[0]


def test_what_is_left_out_is_counted(capsys):
    published.read('nq', 'nq/v1.0-simplified_simplified-nq-train.jsonl.gz')
    said = 'v1.0-simplified_simplified-nq-train.jsonl.gz: 2 of 4 questions left out: no short answer within the limit\n'
    assert capsys.readouterr().err == said
