"""Miniature versions of the paper's published files: questions about the things in tests/testing/tiny_run.py."""

import csv
import dataclasses
import json
import pathlib
import types

import pytest

from atlas_jax.answering import api
from atlas_jax.apps.datasets import convert_dataset
from atlas_jax.apps.reproduce import recipes
from atlas_jax.corpus import documents as documents_lib
from tests.testing import tiny_run

SUBJECTS = ('anatomy', 'virology')
_KILT = ('aidayago2', 'fever', 'hotpotqa', 'nq', 'trex', 'wow', 'structured_zeroshot')
_LABELS = ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO')


def colour(number: int) -> str:
    """Returns the colour of a thing."""
    return tiny_run.COLOURS[number % 7]


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converts in one process, and holds back few enough auxiliary questions for these small files."""
    monkeypatch.setattr(convert_dataset, 'os', types.SimpleNamespace(**{**vars(convert_dataset.os), 'cpu_count': lambda: 1}))
    full = dataclasses.replace(recipes.RECIPES['mmlu_full'], options={'held_back': '2'})
    monkeypatch.setattr(recipes, 'RECIPES', {**recipes.RECIPES, 'mmlu_full': full})


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes a folder of downloads for each source, enough for 64 examples; returns `folder`."""
    natural = [{'question': f'what is thing {i} ?', 'answer': [colour(i)]} for i in range(70)]
    _lines(folder / 'nq_open' / 'NQ-open.train.jsonl', natural)
    _lines(folder / 'nq_open' / 'NQ-open.dev.jsonl', natural[:4])
    for split, positions in (('train', range(66)), ('dev', range(66, 70)), ('test', range(4))):
        _json(folder / 'nq_open' / f'NQ.{split}.idx.json', list(positions))
    for split, numbers in (('train', range(70)), ('dev', range(70, 74))):
        _json(folder / 'triviaqa' / f'unfiltered-web-{split}.json', {'Data': [
            {'Question': f'what is thing {i} ?', 'QuestionId': f'tc_{i}', 'Answer': {'Value': colour(i), 'Aliases': [colour(i)]}}
            for i in numbers]})
    for split, numbers in (('train', range(66)), ('dev', range(66, 70)), ('test', range(70, 74))):
        _json(folder / 'triviaqa' / f'TQA.{split}.idx.json', [f'tc_{i}' for i in numbers])
    for name, numbers in (('train', range(66)), ('paper_dev', range(66, 69)), ('paper_test', range(69, 72))):
        _lines(folder / 'fever' / f'{name}.jsonl', [
            {'id': i, 'claim': f'The thing {i} is {colour(i)} .', 'label': _LABELS[i % 3], 'evidence': [[[1, 2, f'd{i}', 0]]]}
            for i in numbers])
    _kilt(folder / 'kilt')
    _mmlu(folder / 'mmlu')
    for split, things in (('train', range(5)), ('val', range(5, 7)), ('test', range(7, 10))):
        _lines(folder / 'templama' / f'{split}.json', [
            {'query': f'The thing {i} is _X_.', 'answer': [{'name': colour(i + year)}], 'date': str(year), 'id': f'{i}_{year}',
             'relation': 'P1'} for i in things for year in (2017, 2020)])
    return folder


def index(model: api.Atlas, folder: pathlib.Path) -> api.Index:
    """Returns the index of tiny_run with sections in its passages, which one pre-training task needs."""
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', 'colour', f'The thing {i} is {colour(i)} .') for i in range(23)]
    api.PassageStore.build(documents, folder / 'store', progress=False)
    return api.Index.build(api.PassageStore.open(folder / 'store'), model, folder / 'index', show_progress=False)


def _kilt(folder: pathlib.Path) -> None:
    for task in _KILT:
        for split, numbers in (('train', range(6)), ('dev', range(6, 9))):
            answers = {i: ('SUPPORTS', 'REFUTES')[i % 2] if task == 'fever' else colour(i) for i in numbers}
            _lines(folder / f'{task}-{split}-kilt.jsonl', [
                {'id': f'{task}{i}', 'input': f'what is thing {i} ?', 'output': [
                    {'answer': answers[i], 'provenance': [{'wikipedia_id': f'd{i}', 'title': f'thing {i}'}]}]} for i in numbers])
    for split, numbers in (('train', range(6)), ('dev', range(6, 9))):
        # TriviaQA's questions are in its own files.
        _lines(folder / f'triviaqa-{split}_id-kilt.jsonl', [
            {'id': f'tc_{i}', 'input': '', 'output': [{'answer': colour(i), 'provenance': [{'wikipedia_id': f'd{i}'}]}]} for i in numbers])
        _json(folder / f'wikipedia-{split}.json', {'Data': [
            {'Question': f'what is thing {i} ?', 'QuestionId': f'tc_{i}'} for i in numbers]})


def _mmlu(folder: pathlib.Path) -> None:
    for subject in SUBJECTS:
        for split, count in (('dev', 5), ('val', 2), ('test', 3)):
            _csv(folder / split / f'{subject}_{split}.csv', subject, count)
    _csv(folder / 'auxiliary_train' / 'race.csv', 'race', 7)


def _csv(path: pathlib.Path, what: str, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([f'what is thing {i} ? {what}', *(colour(i + j) for j in range(4)), 'ABCD'[i % 4]] for i in range(count))


def _lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')


def _json(path: pathlib.Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding='utf-8')
