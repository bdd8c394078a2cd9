"""FEVER: claims and their labels."""

import pytest

from atlas_jax import errors
from atlas_jax.tasks import fever


@pytest.mark.parametrize('label, word', [('SUPPORTS', 'true'), ('REFUTES', 'false'), ('NOT ENOUGH INFO', 'maybe'), ('supports', '')])
def test_labels_become_words(label, word):
    example = fever.FeverTask().example({'claim': 'Radium glows.', 'label': label, 'gold_docids': ['d']}, 5)
    assert example.query == 'question: Radium glows. answer: <extra_id_0>' and example.question == 'Radium glows.'
    assert (example.target, example.answers, example.gold_docids) == (f'<extra_id_0> {word}', [word], ['d'])


def test_a_label_may_have_blanks_around_it():
    assert fever.FeverTask().example({'claim': 'c', 'label': ' REFUTES\n'}, 0).answers == ['false']


def test_a_claim_without_label_has_no_answers():
    example = fever.FeverTask(qa_prompt_format='Is it so? {question}').example({'claim': 'c'}, 0)
    assert (example.query, example.answers) == ('Is it so? c', [])


def test_wrong_formats_and_rows():
    with pytest.raises(errors.FormatError, match='qa_prompt_format "{claim}"'):
        fever.FeverTask(qa_prompt_format='{claim}')
    with pytest.raises(errors.ConfigError, match='example 2, field "claim": missing, found no field; each row needs a "claim"'):
        fever.FeverTask().example({}, 2)
    assert fever.FeverTask().answer_text('<extra_id_0> true') == 'true'
