"""Leaks: equal to a slow search of all runs of words; borders of parts, short questions, and hash collisions."""

import random

import numpy as np
import pytest

from atlas_jax.apps.datasets import leaks

VOCABULARY = [f'w{number}' for number in range(9)]


def slowly(questions, text) -> dict[int, set[str]]:
    """Returns the questions that share a run with the text, and the words, by comparing all runs."""
    found: dict[int, set[str]] = {}
    for number, question in enumerate(questions):
        size = min(13, len(question))
        for part in text:
            if question and len(question) < 13 and question == part:
                found.setdefault(number, set()).add(' '.join(part))
            runs = {tuple(question[start:start + size]) for start in range(len(question) - size + 1)} if size >= 8 else set()
            for start in range(len(part) - size + 1):
                if tuple(part[start:start + size]) in runs:
                    found.setdefault(number, set()).add(' '.join(part[start:start + size]))
    return found


def cases(seed: int):
    generator = random.Random(seed)
    questions = [generator.choices(VOCABULARY, k=generator.choice((0, 1, 3, 7, 8, 12, 13, 14, 30))) for _ in range(40)]
    texts = []
    for _ in range(60):
        parts = [generator.choices(VOCABULARY, k=generator.randint(0, 20)) for _ in range(generator.randint(0, 3))]
        if parts and generator.random() < .7:
            asked = generator.choice(questions)
            start = generator.randint(0, 4)
            place = generator.randrange(len(parts))
            parts[place] = parts[place][:start] + asked[generator.randint(0, 2):] + parts[place][start:]
        if generator.random() < .2:
            parts.append(list(generator.choice(questions)))
        texts.append(parts)
    return questions, texts


@pytest.mark.parametrize('hashes', ['good', 'colliding'])
@pytest.mark.parametrize('seed', [1, 2])
def test_the_same_as_a_slow_search(monkeypatch, seed, hashes):
    if hashes == 'colliding':
        monkeypatch.setattr(leaks, '_codes', lambda words: np.ones(len(words), np.uint64))
    questions, texts = cases(seed)
    found = leaks.TestRuns(questions).find(texts)
    wanted = [slowly(questions, text) for text in texts]
    assert [set(each) for each in found] == [set(each) for each in wanted] and sum(map(bool, wanted)) > 15
    assert all(words in wanted[number][question] for number, each in enumerate(found) for question, words in each.items())


def test_borders_and_short_questions():
    asked = [list('abcdefghijklmn'), list('opqrstuv'), ['why'], []]
    runs = leaks.TestRuns(asked)
    assert runs.find([[asked[0][1:]]]) == [{0: 'b c d e f g h i j k l m n'}]
    assert runs.find([[asked[0][2:]], [asked[0][:7], asked[0][7:]], []]) == [{}, {}, {}], 'twelve words, two parts, no part'
    assert runs.find([[['x', *asked[1], 'y']], [['x', *asked[1][1:]]]]) == [{1: 'o p q r s t u v'}, {}]
    assert runs.find([[['why']], [['why', 'not']], [[]]]) == [{2: 'why'}, {}, {}], 'a text must be a short question, not hold it'
    assert runs.find([[list('abcdefghij')]]) == [{}], 'fewer words than a run has'
    assert leaks.TestRuns([]).find([[['why']]]) == [{}] and runs.find([]) == []
