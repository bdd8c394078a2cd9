"""`atlas-jax data negatives` by words: what it writes and says, and what it refuses before anything is opened."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import data_negatives as cli_negatives
from atlas_jax.apps.cli import file_checks
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.evaluation import negative_mining
from atlas_jax.input import question_passages
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    tiny_run.index(tiny_run.atlas(dropout_rate=0.0), folder)
    (folder / 'questions.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in tiny_run.rows(3)))
    return folder


def _run(folder, *arguments):
    options = cli.parse(['data', 'negatives', '--index', str(folder / 'index'), '--questions', str(folder / 'questions.jsonl'),
                         '--to', str(folder / 'mined.jsonl'), *arguments])
    options.run(options)


def test_it_writes_what_the_fine_tuning_reads(folder, capsys):
    pytest.importorskip('bm25s')
    _run(folder, '--negatives', '4', '--top_k', '20')
    found = list(question_passages.read(str(folder / 'mined.jsonl')))
    assert [each.positives[0].docid for each in found] == ['d0', 'd1', 'd2']
    # Things of the same colour hold the answer.
    assert all(tiny_run.COLOURS[number] not in each.text for number, question in enumerate(found) for each in question.negatives)
    assert all(len(question.negatives) == 4 for question in found)
    assert '3 questions, 12 negatives; left out: ' in capsys.readouterr().out


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--searcher', 'exact'], 'give either --model, or both'), (['--model', 'run'], '--searcher bm25 needs no model'),
    (['--top_k', '3'], '--negatives is 10; it must be 1 to --top_k 3'), (['--to', 'nowhere/mined.jsonl'], 'there is no folder')])
def test_mistakes_are_told_in_one_line(folder, arguments, message):
    with pytest.raises(errors.UserError, match=message):
        _run(folder, *arguments)


@pytest.mark.parametrize('arguments', [[], ['--searcher', 'exact', '--model', 'run']])
def test_a_mistake_in_the_last_line_is_told_before_the_long_work(folder, tmp_path, monkeypatch, arguments):
    begun = []
    for place, name in ((negative_mining, 'search_by_words'), (negative_mining, 'search_by_model'), (cli_options, 'load_model')):
        monkeypatch.setattr(place, name, lambda *_, name=name: begun.append(name))
    monkeypatch.setattr(file_checks, 'check_model', lambda options: None)
    questions = tmp_path / 'questions.jsonl'
    questions.write_text((folder / 'questions.jsonl').read_text() + json.dumps({'question': 'q', 'answers': 'red'}))
    with pytest.raises(errors.InputFileError, match=':4, field "answers": must be a list of texts'):
        _run(folder, '--questions', str(questions), *arguments)
    assert begun == []


def test_the_command_names_the_filters_that_there_are():
    # Named twice, since the command line says its options before jax is imported.
    assert cli_negatives._FILTERS == negative_mining.FILTERS
