"""`atlas-jax data`: documents become a store with the tokens of either model; the demo gets its folder, packages and countries."""

import dataclasses
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import data as cli_data
from atlas_jax.apps.cli import main as cli
from atlas_jax.corpus.store import PassageStore
from atlas_jax.tokenizers import bert_tokenizer, t5_tokenizer
from tests.testing import word_tokenizers


def test_documents_become_a_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(t5_tokenizer.T5Tokenizer, 'from_folder', lambda folder: word_tokenizers.t5())
    monkeypatch.setattr(bert_tokenizer.BertTokenizer, 'from_folder', lambda folder: word_tokenizers.bert())
    document = tmp_path / 'thing.txt'
    document.write_text('The thing is red . ' * 7, encoding='utf-8')
    store = tmp_path / 'store'
    assert cli.main(['data', 'passages', str(document), '--out', str(store), '--reader', 'r', '--retriever', 'q', '--max_words', '11']) == 0
    opened = PassageStore.open(str(store))
    assert len(opened) > 1 and all(len(passage.text.split()) <= 11 for passage in opened)
    assert capsys.readouterr().out.endswith(f'{store}: {len(opened)} passages\n') and len(opened.reader_lengths) == len(opened)


def test_ready_made_passages_stay_whole_and_cuts_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(t5_tokenizer.T5Tokenizer, 'from_folder', lambda folder: word_tokenizers.t5())
    monkeypatch.setattr(bert_tokenizer.BertTokenizer, 'from_folder', lambda folder: word_tokenizers.bert())
    document = tmp_path / 'things.jsonl'
    rows = [{'id': str(words), 'text': 'The thing is red . ' * words} for words in (2, 3, 7)]
    document.write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')

    more = tmp_path / 'more.txt'
    more.write_text('One .')

    def run(*options):
        words = ['data', 'passages', str(document), str(more), '--out', str(tmp_path / 's'), '--reader', 'r', '--retriever', 'q']
        assert cli.main([*words, *options]) == 0
        return [passage.text.split() for passage in PassageStore.open(tmp_path / 's')], capsys.readouterr().out

    pieces, said = run('--max_words', '11')
    assert len(pieces) == 1 + 2 + 4 + 1
    assert '2 of 4 documents were longer than 11 words and were cut; --as_passages keeps them whole' in said
    pieces, said = run('--as_passages')
    assert [len(piece) for piece in pieces] == [10, 15, 35, 2] and 'were cut' not in said
    # The first passages of the documents in their order, cut or not.
    pieces, said = run('--max_words', '11', '--max_passages', '3')
    assert [len(piece) for piece in pieces] == [10, 10, 5] and ': 3 passages' in said
    pieces, _ = run('--max_words', '11', '--overlap', '5')
    assert pieces[-2][:5] == pieces[-3][-5:] and max(map(len, pieces)) <= 11


@pytest.mark.parametrize(('words', 'message'), [
    (['--as_passages', '--max_words', '7'], 'not allowed with argument'), (['--overlap', '-1'], '-1 is too small'),
    (['--overlap', 'x'], '"x" is not a whole number')])
def test_contradicting_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        cli.main(['data', 'passages', 'd', '--out', 's', '--reader', 'r', '--retriever', 'q', *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'folders'), [(['--model', 'm'], ('m/tokenizers/reader', 'm/tokenizers/retriever')),
                                                (['--reader', 'r', '--retriever', 'q'], ('r', 'q'))])
def test_tokenizers_come_from_the_model_or_from_both_folders(words, folders):
    options = cli.parse(['data', 'passages', 'd', '--out', 's', *words])
    assert cli_data._tokenizer_folders(options) == tuple(pathlib.Path(folder) for folder in folders)


@pytest.mark.parametrize('words', [[], ['--reader', 'r'], ['--retriever', 'q'], ['--model', 'm', '--reader', 'r', '--retriever', 'q']])
def test_other_combinations_are_refused(words):
    with pytest.raises(errors.ConfigError, match='either --model, or both --reader and --retriever'):
        cli_data._tokenizer_folders(cli.parse(['data', 'passages', 'd', '--out', 's', *words]))


def test_the_demos_data_is_listed(monkeypatch, capsys):
    written = dataclasses.make_dataclass('Written', ['questions', 'documents'])('a.jsonl', 'b')
    asked = []
    monkeypatch.setattr('atlas_jax.apps.demo.demo_data.write', lambda *arguments: asked.append(arguments) or written)
    assert cli.main(['data', 'demo', '--out', 'd', '--packages', 'p', '--countries', '7']) == 0
    assert asked == [('d', 'p', 7)] and capsys.readouterr().out == 'questions   a.jsonl\ndocuments   b\n'
