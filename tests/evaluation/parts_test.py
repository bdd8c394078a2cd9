"""Each part shows its data, and is empty without."""

import pytest

from atlas_jax.evaluation import figures, parts
from atlas_jax.report import html
from tests.testing import records

RUNS = {'before': records.results([0, 1, 0, 1, 0, 0], confident=True), 'after': records.results([1, 1, 0, 1, 1, 0], confident=True)}
FOUND = {name: figures.complete(rows, ()) for name, rows in RUNS.items()}
PLAIN = {name: figures.complete(records.results([0, 1], ranked=False, read=False), ()) for name in RUNS}


def page_of(part, *arguments, **options) -> str:
    """Returns the section of a part."""
    return html.section('Heading', part(*arguments, **options))


@pytest.mark.parametrize(('part', 'with_data', 'without', 'says'), [
    (parts.curves, {'': records.history(30)}, {'': []}, [
        'Loss of the reader', 'Loss of the retriever', 'Scores while training', '>exact match<', 'Recall while training', 'Learning rates',
        'Age of the index', 'Norm of the']),
    (parts.recall, FOUND, PLAIN, ['a gold passage is among the first k', 'a passage with an answer', '>before<', '>after<']),
    (parts.agreement, FOUND, PLAIN, ['Rank correlation', '<td>before</td>', '(']),
    (parts.calibration, FOUND, PLAIN, ['Right answers by confidence', 'as it should be', 'only the most confident', 'AURC', 'ECE']),
    (parts.examples, parts.extremes(RUNS['after']), ([], []), ['Worst answers', 'Best answers', 'confidence', records.TITLE]),
    (parts.means, FOUND['after'], {}, ['exact_match', 'rank_correlation', 'ece']),
    (parts.steps, records.history(30), [{'step': 1}], ['0.520 s', '20.0 s', '1,516']),
    (parts.resources, {'index': 3.25, 'training': 10}, {}, ['<td>together</td><td class="number">13.2', '<td>index</td>'])])
def test_a_part_is_there_with_its_data_and_not_without(part, with_data, without, says):
    found = page_of(part, with_data)
    assert found.startswith('<h2>Heading</h2>') and all(text in found for text in says), found
    assert page_of(part, without) == ''


def test_curves_of_what_was_measured_alone():
    closed_book, joint = (records.history(5, evaluates=False, joint=joint) for joint in (False, True))
    found = page_of(parts.curves, {'closed book': closed_book, 'joint': joint})
    assert '>closed book reader loss<' in found and '>joint retriever loss<' in found and '>closed book retriever loss<' not in found
    assert 'while training' not in found


def test_long_runs_are_drawn_as_means_of_neighbours():
    xs, ys = parts._thinned([(step, float(step % 2)) for step in range(1, 901)])
    assert len(xs) == 300 and xs[-1] == 900 and ys[:2] == pytest.approx([2 / 3, 1 / 3])
    assert parts._thinned([(1, 2.), (2, 4.)]) == ([1, 2], [2., 4.]) and parts._thinned([]) == ([], [])


def test_one_cut_of_recall_is_bars():
    found = page_of(parts.recall, {'before': {'gold_recall_at_1': .25}, 'after': {'gold_recall_at_1': .75}})
    assert 'a gold passage is the first' in found and found.count('<rect') == 4  # wide and narrow


def test_the_worst_are_wrong_and_sure_the_best_right_and_sure():
    rows = [row | {'f1': row['exact_match'], 'confidence': sure} for row, sure in
            zip(records.results([0, 1, 0, 1, 0]), (.1, .2, .9, .8, .5), strict=True)]
    found = page_of(parts.examples, parts.extremes(rows, 2), level=3)
    worst, best = found.split('<h3>Best answers</h3>')
    questions = [[number for number in range(5) if f'in 19{number:02},' in half] for half in (worst, best)]
    assert questions == [[2, 4], [1, 3]] and '✗ expected' not in best and '✓ right' not in worst
    assert worst.index('1902') < worst.index('1904') and 'exact match 0.00 · f1 0.00 · confidence 0.90' in worst
    assert parts.extremes(records.results([1, 1]))[0] == [] and parts.extremes(rows[:1]) == (rows[:1], [])
    assert parts.extremes([]) == ([], [])


def test_equal_answers_are_spread_over_the_file():
    rows = [row | {'f1': 1.} for row in records.results([1] * 100, ranked=False)]
    chosen = [row['example_id'] for row in parts.extremes(rows)[1]]
    assert max(chosen) - min(chosen) > 20 and chosen == [row['example_id'] for row in parts.extremes(rows[::-1])[1]]


def test_a_card_of_hostile_passages(tmp_path):
    row = records.results([0])[0] | {'passages': [{'text': 'whole', 'score': 1.0}, {'text': 'x', 'score': 'high'}, 3, {'title': 'no text'},
                                                  {'text': 'y', 'attention': float('inf')}], 'answers': 7}
    found = page_of(parts.card, {'': row})
    assert 'whole' in found and found.count('<details>') == 1 and '&lt;i&gt;' in found


def test_a_run_of_a_retriever_alone_shows_its_loss():
    # It has no reader loss: its page would only have accuracy and learning rate.
    history = [{'step': step, 'loss': 5.0 - step, 'accuracy': 0.1} for step in (1, 2, 3)]
    assert 'Loss, all parts together' in page_of(parts.curves, {'': history})
