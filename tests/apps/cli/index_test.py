"""`atlas-jax index`: a life of an index on a tiny model, and refusals."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from atlas_jax.answering import api
from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import hf
from tests.testing import saved_index, tiny, tiny_checkpoints, tiny_run, word_tokenizers


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A saved model and a store of 23 passages."""
    path = tmp_path_factory.mktemp('index-command')
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_life_of_an_index(folder, capsys, tmp_path):
    index, model, store = tmp_path / 'built', ('--model', folder / 'model'), shutil.copytree(folder / 'store', tmp_path / 'store')
    code, out, _ = run(capsys, 'index', 'build', '--store', store, '--out', index, '--dtype', 'int8', *model)
    figures = json.loads(out)
    assert code == 0 and figures['rows'] == 23 and figures['dtype'] == 'int8' and figures['truncated'] == 0
    code, out, _ = run(capsys, 'index', 'search', 'thing 3', '--index', index, *model, '--top_k', '2')
    assert code == 0 and out.startswith('1. ') and out.count('\n   ') == 2
    (tmp_path / 'new.jsonl').write_text(json.dumps({'id': 'new', 'title': 'thing 77', 'text': 'The thing 77 is red .'}))
    assert 'added 1 passages, 24 now' in run(capsys, 'index', 'add', tmp_path / 'new.jsonl', '--index', index, *model)[1]
    assert 'deleted 1 passages, 23 left' in run(capsys, 'index', 'delete', '--index', index, '--docid', 'd3')[1]
    # A passage that was deleted and one that never was get the same answer, and nothing changes.
    for docid in ('d3', 'unknown'):
        code, _, err = run(capsys, 'index', 'delete', '--index', index, '--docid', 'd4', docid)
        assert code == 2 and f'no passage "{docid}" in this' in err and 'check the docid' in err and err.count('\n') == 1
    assert json.loads(run(capsys, 'index', 'info', '--index', index)[1])['deleted'] == 1
    assert '23 passages, none deleted' in run(capsys, 'index', 'compact', '--index', index)[1]
    assert 'nothing to compact' in run(capsys, 'index', 'compact', '--index', index)[1]
    assert 'every file is as it was written' in run(capsys, 'index', 'verify', '--index', index, *model)[1]


def test_a_saved_index_of_the_original_is_imported(folder, capsys, tmp_path):
    built = api.Index.open(folder / 'index')
    passages = [{'id': passage.docid, 'title': passage.title, 'text': passage.text} for passage in built.store]
    saved = saved_index.write(tmp_path / 'saved', built.index.embeddings(np.arange(23)), passages, [9])
    command = 'index', 'import', '--from', saved, '--store', tmp_path / 'store', '--out', tmp_path / 'index', '--model', folder / 'model'
    code, out, _ = run(capsys, *command)
    assert code == 0 and '23 passages; this model embeds a sample of them with a median difference of 0.0' in out
    (saved / 'passages.1.pt').unlink()
    code, _, err = run(capsys, *command)
    assert code == 2 and 'no passages.1.pt; copy all shards' in err and err.count('\n') == 1


def test_another_model_is_named_by_verify(folder, capsys, tmp_path):
    other = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    other.params = jax.tree.map(lambda leaf: leaf + 1, other.params)
    other.save(tmp_path / 'other')
    code, out, err = run(capsys, 'index', 'verify', '--index', folder / 'index', '--model', tmp_path / 'other')
    assert code == 2 and 'another model embedded the rows above' in err and 'weights (index ' in out


@pytest.mark.parametrize(('arguments', 'message'), [
    (('build', '--model', 'm'), 'give --store DIR and --out INDEX'),
    (('info', '--index', 'nowhere'), 'nowhere'),
    (('delete', '--index', 'nowhere', '--docid', 'x'), 'nowhere'),
    (('compact', '--index', 'nowhere'), 'nowhere')])
def test_mistakes_get_one_line(capsys, arguments, message):
    code, _, err = run(capsys, 'index', *arguments)
    assert code == 2 and message in err and err.count('\n') == 1


def test_a_build_takes_the_model_of_its_flags_over_that_of_a_gin_file(folder, capsys, tmp_path):
    (tmp_path / 'own.gin').write_text("include 'runs/build_index.gin'\nMODEL_DIR = 'nowhere'\nREADER_DIR = 'nowhere'\nINPUTS = None\n")
    code, out, _ = run(capsys, 'index', 'build', '--gin_file', tmp_path / 'own.gin', '--store', folder / 'store', '--out', tmp_path / 'i',
                       '--model', folder / 'model')
    assert code == 0 and json.loads(out)['rows'] == 23
    assert api.Index.open(tmp_path / 'i').index.dtype == 'float32'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Hugging Face folders whose retriever takes up to 300 tokens, and documents of 210 tokens: default formats limit texts to 200."""
    path = tmp_path_factory.mktemp('hugging-face')
    tokenizers = {'reader': word_tokenizers.t5(), 'retriever': word_tokenizers.bert()}
    reader = dataclasses.replace(tiny.READER, vocab_size=tokenizers['reader'].vocab_size)
    retriever = dataclasses.replace(tiny.RETRIEVER, vocab_size=tokenizers['retriever'].vocab_size, max_positions=300)
    hf.write_params(path / 'reader', reader, tiny_checkpoints.model(reader).params())
    hf.write_params(path / 'retriever', retriever, tiny_checkpoints.model(retriever).params())
    for name, tokenizer in tokenizers.items():
        tokenizer.save(path / name)
    rows = [{'id': f'd{i}', 'title': f'thing {i}', 'text': 'thing ' * (i + 210)} for i in range(3)]
    (path / 'documents.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return path


def test_both_documented_commands_build_the_same_index(folders, capsys, tmp_path):
    """With flags as in docs/the-index.md, with a gin file as in docs/your-documents.md; either serves the other's models."""
    models = ('--reader', folders / 'reader', '--retriever', folders / 'retriever')
    store = tmp_path / 'store'
    assert run(capsys, 'data', 'passages', folders / 'documents.jsonl', '--out', store, '--max_words', 250, *models)[0] == 0
    assert run(capsys, 'index', 'build', '--store', store, '--out', tmp_path / 'flags', *models)[0] == 0
    values = {'STORE_DIR': store, 'INDEX_DIR': tmp_path / 'gin', 'READER_DIR': folders / 'reader', 'RETRIEVER_DIR': folders / 'retriever'}
    code, _, message = run(capsys, 'index', 'build', '--gin_file', 'runs/build_index.gin',
                           *(f'--gin.{name}="{value}"' for name, value in values.items()))
    assert code == 0, message
    flags, gin = (json.loads(run(capsys, 'index', 'info', '--index', tmp_path / name)[1]) for name in ('flags', 'gin'))
    assert flags['embedded_by'] == gin['embedded_by'] and flags['model_fingerprint'] == gin['model_fingerprint']
    for name in ('flags', 'gin'):
        code, out, message = run(capsys, 'index', 'verify', '--index', tmp_path / name, *models)
        assert code == 0 and 'every file is as it was written' in out, message


def test_the_field_that_differs_is_named_and_force_is_the_way_out(folder, capsys, tmp_path):
    other = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    retriever = dataclasses.replace(other.config.retriever, pooling='cls', passage_prompt='is : ')
    other.config = dataclasses.replace(other.config, retriever=retriever)
    other.save(tmp_path / 'other')
    arguments = ('index', 'search', 'thing 3', '--index', folder / 'index', '--model', tmp_path / 'other')
    code, _, message = run(capsys, *arguments)
    assert code == 2 and message.count('\n') == 1 and '--force' in message
    assert 'pooling (index average, this model cls)' in message
    assert 'passage_format (index "{title} {text}", this model "is : {title} {text}")' in message
    assert run(capsys, *arguments, '--force')[0] == 0
    code, _, message = run(capsys, 'index', 'verify', '--index', folder / 'index', '--model', tmp_path / 'other')
    assert code == 2 and 'every file is as it was written, but another model embedded the rows' in message


def test_searchers_are_compared_and_a_fit_is_kept(folder, capsys, tmp_path):
    pytest.importorskip('bm25s')
    questions, index = tmp_path / 'dev.jsonl', shutil.copytree(folder / 'index', tmp_path / 'index')
    rows = tiny_run.rows(23)
    questions.write_text('\n'.join(map(json.dumps, rows)))
    compare = ('index', 'compare', index, '--store', folder / 'store', '--model', folder / 'model', '--questions')
    code, out, err = run(capsys, *compare, questions, '--searchers', 'exact', 'bm25', 'hybrid', '--fit',
                         '--json', tmp_path / 'figures.json')
    assert code == 0 and not err.replace('\r', '') and '23 questions, 23 passages' in out and 'hybrid, fitted' in out
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert [row['searcher'] for row in figures['searchers']] == ['exact', 'bm25', 'hybrid', 'hybrid, fitted']
    assert figures['fit']['lexical_weight'] == json.loads((index / 'hybrid.json').read_text())['lexical_weight']
    code, out, _ = run(capsys, *compare, questions, '--searchers', 'hybrid', '--top_k', '5')
    assert code == 0 and 'hybrid, as saved' in out and 'R@20' not in out
    # A mistake is one line.
    questions.write_text('\n'.join(json.dumps({**row, 'gold_docids': ['elsewhere']}) for row in rows))
    code, _, err = run(capsys, *compare, questions, '--searchers', 'exact')
    assert code == 2 and 'such as "elsewhere"' in err and err.count('\n') == 1
    (index / 'hybrid.json').write_text('{}')
    code, _, err = run(capsys, 'index', 'search', 'thing 3', '--index', index, '--store', folder / 'store', '--model', folder / 'model',
                       '--searcher', 'hybrid')
    assert code == 2 and 'hybrid.json: damaged' in err and err.count('\n') == 1
    code, out, _ = run(capsys, 'index', 'verify', '--index', index, '--store', folder / 'store')
    assert code == 2 and 'hybrid.json: damaged (its checksum does not match)' in out
