"""Questions with passages: both kinds of files, negatives that equal a positive, and rows that depend on seed and number only."""

import json

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.input import question_passages, text_inputs
from tests.testing import word_tokenizers

TOKENIZER = word_tokenizers.bert()
RED, BLUE, GREY = ({'title': f'thing {i}', 'text': f'the thing {i} is {colour} .'} for i, colour in enumerate(('red', 'blue', 'grey')))
ROWS = [{'question': 'what is thing 0 ?', 'positive_passages': [RED, 'thing 0 : red'], 'negative_passages': [BLUE, RED, GREY]},
        {'question': 'what is thing 1 ?', 'positive_passages': [BLUE], 'answers': ['blue']}]


def _format(template, limit):
    return text_inputs.FormatEncoder(template, TOKENIZER.encode, limit, (TOKENIZER.cls_id,), (TOKENIZER.sep_id,))


def _pairs(path, hard_negatives=2, limit=32):
    return question_passages.QuestionPairs(str(path), _format('{query}', 16), _format('{title} {text}', limit), hard_negatives)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'questions.jsonl'
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in ROWS))
    return path


def test_rows_hold_a_positive_and_hard_negatives(file, capsys):
    pairs = _pairs(file)
    out = capsys.readouterr().out
    assert '1 negatives equal a positive of their question and were left out' in out
    assert '1 of 2 questions have fewer than 2 negatives; their places stay empty' in out
    assert pairs.draw(0, np.random.default_rng(0)).positives.tolist() == [0, 1]  # whichever of them is drawn
    positives = set()
    for seed in range(20):
        row = pairs.draw(0, np.random.default_rng(seed))
        positives.add(int(row.identities[0]))
        assert sorted(row.identities[1:]) == [2, 3] and np.all(row.passage_lengths > 0)
        first = row.passage_tokens[1, 1:row.passage_lengths[1] - 1].tolist()
        assert first in [TOKENIZER.encode(f'{each["title"]} {each["text"]}') for each in (BLUE, GREY)]
    assert positives == {0, 1}  # each of them in its turn
    row = pairs.draw(1, np.random.default_rng(0))
    assert row.identities.tolist() == [2, -1, -1] and row.positives.tolist() == [2, -1] and row.passage_lengths[1:].tolist() == [0, 0]
    assert row.query_tokens[1:row.query_lengths - 1].tolist() == TOKENIZER.encode('what is thing 1 ?')
    twice = [pairs.draw(0, np.random.default_rng(7)).passage_tokens for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert pairs.passages_each == 3 and pairs.digest.startswith('2 questions, sha256 ')


def test_passages_that_are_equal_behind_the_limit_are_one(file, capsys):
    pairs = _pairs(file, limit=5)  # the colours are cut off
    assert all(np.all(pairs.draw(number, np.random.default_rng(0)).passage_lengths <= 5) for number in (0, 1))
    assert pairs.digest != _pairs(file).digest
    assert f'{file}: 5 passages were cut at 5 tokens' in capsys.readouterr().out


def test_files_of_dpr_are_read(tmp_path):
    path = tmp_path / 'biencoder.json'
    path.write_text(json.dumps([{'dataset': 'nq', 'question': row['question'], 'answers': [], 'positive_ctxs': [RED],
                                 'negative_ctxs': [], 'hard_negative_ctxs': [{**GREY, 'score': 7.5, 'passage_id': '3'}]} for row in ROWS]))
    found = list(question_passages.read(str(path)))
    assert [each.text for each in found] == [row['question'] for row in ROWS]
    assert found[0].positives[0].text == RED['text'] and found[0].negatives[0].title == 'thing 2'


@pytest.mark.parametrize(('row', 'message'), [
    ({'positive_passages': [RED]}, ':3, field "question": empty or missing'),
    ({'question': 'q', 'positive_passages': []}, 'positive_passages": empty'),
    ({'question': 'q', 'positive_passages': 'x'}, 'must be a list'),
    ({'question': 'q', 'positive_passages': [3]}, r'"positive_passages\[0\]": is int'),
    ({'question': 'q', 'positive_passages': [RED, {'title': 't'}]}, r'"positive_passages\[1\].text": empty or missing')])
def test_rows_that_lack_something_are_named(file, row, message):
    file.write_text(file.read_text() + json.dumps(row))
    with pytest.raises(errors.InputFileError, match=message):
        list(question_passages.read(str(file)))
