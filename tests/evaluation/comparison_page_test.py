"""The page of two results: significance, and the answers that differ most."""

import pytest

from atlas_jax.evaluation import comparison_page, figures
from tests.testing import records

BEFORE, AFTER = [0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 1, 1]


def page_of(tmp_path, before, after) -> str:
    comparison_page.write(tmp_path / 'page.html', ('a.jsonl', 'b.jsonl'), before, after, figures.compared(before, after))
    return (tmp_path / 'page.html').read_text()


def test_differences_and_answers(tmp_path):
    before, after = records.results(BEFORE), records.results(AFTER)
    text = page_of(tmp_path, before, after[::-1])  # in another order
    row = text.partition('<td>exact_match</td>')[2].partition('</tr>')[0]
    assert row.count('<td') == 5 and all(f'>{value}<' in row for value in ('0.250', '0.875', '0.625'))
    assert '<td>gold_recall_at_1</td>' in text and 'Recall: a gold passage' in text and 'Rank correlation' in text
    better, worse = text.partition('Better after, by exact match')[2].split('Worse after, by exact match')
    assert better.count('<article>') == 5 and worse.count('<article>') == 1  # at most 5 cards; question 3
    card = worse.partition('in 1903,')[2]
    assert card.index('before · exact match 1.00') < card.index('person 3') < card.index('after · exact match 0.00') < card.index('nobody')
    assert 'confidence' not in text and 'a.jsonl' in text


@pytest.mark.parametrize('changed', [{}, {'confident': True}])
def test_nothing_differs(tmp_path, changed):
    rows = records.results([0, 1], ranked=False, read=False, **changed)
    text = page_of(tmp_path, rows, rows)
    assert 'Better' not in text and 'Worse' not in text and 'Recall' not in text and 'Rank' not in text
    assert ('Right answers by confidence' in text) == bool(changed)
