"""Section generation: a passage's text from its title and section."""

import pytest

from atlas_jax import errors
from atlas_jax.tasks import section

ROW = {'id': 17, 'title': 'Radium', 'section': 'Uses', 'text': 'Paint and <extra_id_0> medicine.'}


def test_title_and_section_ask_for_the_text():
    example = section.SectionTask().example(ROW, 3)
    assert (example.query, example.target, example.own_docid) == ('Radium, Uses', ROW['text'], '17')
    assert example.answers == ['Paint and medicine.'] and example.question == example.query


@pytest.mark.parametrize('change', [{'section': ''}, {'section': ' '}, {'text': ''}, {'text': ' \n'}])
def test_rows_without_section_or_words_are_left_out(change):
    assert section.SectionTask().example(ROW | change, 0) is None


def test_short_texts_are_left_out():
    assert section.SectionTask(min_words=4).example(ROW, 0) is not None
    assert section.SectionTask(min_words=5).example(ROW, 0) is None


def test_wrong_rows():
    with pytest.raises(errors.ConfigError, match='field "section": expected a string, found 3'):
        section.SectionTask().example(ROW | {'section': 3}, 0)
    with pytest.raises(errors.ConfigError, match='field "id": expected a string or a number'):
        section.SectionTask().example(ROW | {'id': None}, 0)
