import pathlib

import pytest

from atlas_jax.apps.datasets import known_datasets
from atlas_jax.apps.datasets.examples import releases
from tests.testing import published


def test_every_file_is_told_from_those_of_other_publishers():
    # Folders have the names of commands. Files without records have their own tests.
    found = {}
    for path in sorted(published.FOLDER.rglob('*')):
        command = path.relative_to(published.FOLDER).parts[0]
        if path.is_file() and command != 'mmlu' and '.idx.' not in path.name:
            found[path] = (command, releases.release_of(path, *{release.command for release in releases.RELEASES}).command)
    assert len(found) > 25 and not [item for item in found.items() if len(set(item[1])) > 1]


@pytest.mark.parametrize(('command', 'file', 'said'), [
    ('nq_open', 'boolq/dev.jsonl', 'it seems to be BoolQ (train.jsonl); convert it by `atlas-jax data boolq`'),
    ('nq_open', 'nq/v1.0-simplified_simplified-nq-train.jsonl.gz', 'it seems to be Natural Questions, simplified'),
    ('nq', 'nq_open/NQ-open.train.jsonl', 'it seems to be Natural Questions open'),
    ('squad', 'triviaqa/unfiltered-web-train.json', 'convert it by `atlas-jax data triviaqa`'),
    ('triviaqa', 'squad/train-v1.1.json', 'convert it by `atlas-jax data squad`'),
    ('fever', 'kilt/fever-dev-kilt.jsonl', 'convert it by `atlas-jax data kilt`'),
    ('fid', 'dpr_retriever/biencoder-nq-dev.json', 'convert it by `atlas-jax data dpr_retriever`'),
    ('dpr_retriever', 'fid/train.json', 'convert it by `atlas-jax data fid`'),
    ('sciq', 'hotpotqa/hotpot_dev_distractor_v1.json', 'convert it by `atlas-jax data hotpotqa`'),
    ('sciq', 'nq_open/NQ.train.idx.json', 'the fields of its first record are none'),
    ('nq_open', 'none.jsonl', 'no such file; expected Natural Questions open (NQ-open.train.jsonl)'),
    ('templama', '../../costs.json', 'not TempLAMA (train.json)')])
def test_another_release_is_refused_with_what_to_do(command, file, said):
    message = published.refusal(command, file)
    assert message.startswith(f'{file}: ') and said in message and '\n' not in message


def test_what_needs_no_conversion_is_said(tmp_path):
    path = published.lines(tmp_path / 'x.jsonl', {'question': 'q', 'answers': ['a']})
    assert 'it seems to be examples as our tasks read them; it needs no conversion' in published.refusal('nq_open', path)
    path = published.lines(tmp_path / 'x.jsonl', {'id': '1', 'title': 't', 'text': 'w'})
    assert 'it seems to be passages, one a line; convert it by `atlas-jax data atlas`' in published.refusal('nq_open', path)


def test_a_file_given_twice_is_refused():
    file = 'nq_open/NQ-open.dev.jsonl'
    assert 'given twice' in published.refusal('nq_open', file, f'nq_open/../{file}')


@pytest.mark.parametrize(('name', 'split'), [
    ('NQ-open.train.jsonl', 'train'), ('v1.0-simplified_simplified-nq-train.jsonl.gz', 'train'), ('unfiltered-web-dev.json', 'dev'),
    ('shared_task_dev.jsonl', 'dev'), ('val.json', 'dev'), ('valid.json', 'dev'), ('wikipedia-test-without-answers.json', 'test'),
    ('train-v1.1.json', 'train'), ('webquestions.examples.test.json.bz2', 'test'), ('NQ-open.efficientqa.dev.1.1.jsonl', 'dev'),
    ('my questions.jsonl', 'my_questions'), ('latest.jsonl.gz', 'latest'), ('trainees.json', 'trainees')])
def test_the_split_stands_in_the_name(name, split):
    assert releases.split_of(pathlib.Path('test', name)) == split


def test_every_release_has_a_command():
    assert {release.command for release in releases.RELEASES} - {''} <= set(known_datasets.SOURCES)
