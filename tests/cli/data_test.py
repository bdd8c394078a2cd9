"""`atlas-jax data`: documents become a store with the tokens of either model; the demo gets its folder, packages and countries."""

import dataclasses
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.cli import data as cli_data
from atlas_jax.cli import main as cli
from atlas_jax.corpus.store import PassageStore
from atlas_jax.tokenizers import bert, t5
from tests.testing import word_tokenizers


def test_documents_become_a_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(t5.T5Tokenizer, 'from_folder', lambda folder: word_tokenizers.t5())
    monkeypatch.setattr(bert.BertTokenizer, 'from_folder', lambda folder: word_tokenizers.bert())
    document = tmp_path / 'thing.txt'
    document.write_text('The thing is red . ' * 7, encoding='utf-8')
    store = tmp_path / 'store'
    assert cli.main(['data', 'passages', str(document), '--out', str(store), '--reader', 'r', '--retriever', 'q', '--max_words', '11']) == 0
    opened = PassageStore.open(str(store))
    assert len(opened) > 1 and all(len(passage.text.split()) <= 11 for passage in opened)
    assert capsys.readouterr().out.endswith(f'{store}: {len(opened)} passages\n') and len(opened.reader_lengths) == len(opened)


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
    monkeypatch.setattr('atlas_jax.demo.data.write', lambda *arguments: asked.append(arguments) or written)
    assert cli.main(['data', 'demo', '--out', 'd', '--packages', 'p', '--countries', '7']) == 0
    assert asked == [('d', 'p', 7)] and capsys.readouterr().out == 'questions   a.jsonl\ndocuments   b\n'
