import pytest

from tests.testing import published


def gaps(rows: dict[str, list[dict]]) -> dict[str, list[tuple[str, list[str]]]]:
    """Returns the first word of each question and its answers, by output."""
    return {output: [(row['question'].split()[0], row['answers']) for row in examples] for output, examples in rows.items()}


def test_questions_whose_answer_has_changed(tmp_path):
    rows, bad = published.read('templama', 'templama/test.json')
    # Janet Yellen is an answer in both years, and the club's coach is known in only one.
    assert not bad and gaps(rows) == {
        'test.2017': [('Valentino', ['Yamaha Motor Racing', 'Yamaha'])], 'test.2020': [('Valentino', ['Petronas'])]}
    made = published.asked('templama', tmp_path, 'templama/test.json')['test.2020'][0]
    assert made.question == 'Valentino Rossi plays for <extra_id_0>.' and made.target == '<extra_id_0> Petronas'


def test_years_and_unchanged_questions_are_options():
    rows, _ = published.read('templama', 'templama/test.json', years='', keep_unchanged=True)
    assert {output: len(examples) for output, examples in rows.items()} == {'test.2016': 1, 'test.2017': 2, 'test.2020': 3}
    rows, _ = published.read('templama', 'templama/test.json', years='2016 2020')
    assert gaps(rows) == {'test.2016': [('Valentino', ['Yamaha Motor Racing'])], 'test.2020': [('Valentino', ['Petronas'])]}
    assert '--years has "20"' in published.refusal('templama', 'templama/test.json', years='2017,20')


@pytest.mark.parametrize(('change', 'said'), [
    ({'query': 'no gap'}, 'field "query": expected a sentence with one _X_'), ({'query': '_X_ and _X_'}, 'one _X_'),
    ({'date': '17'}, 'field "date": expected a year, found \'17\''), ({'answer': []}, 'field "answer": no answer'),
    ({'answer': [{'wikidata_id': 'Q1'}]}, 'field "answer[0].name": missing'), ({'id': 'a'}, '"a" was the id of an earlier')])
def test_bad_lines_are_told(tmp_path, change, said):
    good = {'query': 'X is _X_.', 'answer': [{'name': 'y'}], 'date': '2017', 'id': 'a', 'relation': 'P1'}
    path = published.lines(tmp_path / 'val.json', good, {**good, 'id': 'b', **change})
    rows, bad = published.read('templama', path, keep_unchanged=True)
    assert rows == {'dev.2017': [{'id': 'a', 'question': 'X is <extra_id_0>.', 'answers': ['y'], 'year': 2017}]}
    assert len(bad) == 1 and said in bad[0] and 'val.json:2' in bad[0]
