"""The commands of docs/the-index.md, run one after the other as they stand there: random weights, and a bucket on the loopback."""

import dataclasses
import json
import pathlib
import shlex

import jax
import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import hf
from atlas_jax.index import building
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder
from atlas_jax.models import contriever, t5
from tests.e2e.commands_test import blocks, commands
from tests.testing import bucket, tiny, word_tokenizers

READER, RETRIEVER = '--reader demo-data/models/reader', '--retriever demo-data/models/retriever'


def write_retriever(folder: pathlib.Path, seed: int) -> None:
    tokenizer = word_tokenizers.bert()
    config = dataclasses.replace(tiny.RETRIEVER, vocab_size=tokenizer.vocab_size, max_positions=512)
    tokenizer.save(folder)
    hf.write_params(folder, config, jax.device_get(tiny.init(contriever.init_params, config, seed)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with models, documents and a bucket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    tokenizer, models = word_tokenizers.t5(), pathlib.Path('demo-data/models')
    config = dataclasses.replace(tiny.READER, vocab_size=tokenizer.vocab_size)
    tokenizer.save(models / 'reader')
    hf.write_params(models / 'reader', config, jax.device_get(tiny.init(t5.init_params, config)))
    write_retriever(models / 'retriever', seed=0)
    pathlib.Path('my-documents').mkdir()
    pathlib.Path('my-documents/orchard.md').write_text(blocks('docs/your-documents.md', 'markdown')[0])
    pathlib.Path('news.jsonl').write_text(next(block for block in blocks('docs/your-documents.md', 'json') if '"text"' in block))
    with bucket.serving(monkeypatch):
        yield tmp_path


def run(command: str) -> int:
    return cli.main(shlex.split(command))


def test_commands_of_the_index_page(place, capsys, monkeypatch):
    printed = {}
    for arguments in commands('docs/the-index.md'):
        capsys.readouterr()
        assert cli.main(arguments) == 0, shlex.join(arguments)
        printed.setdefault(' '.join(arguments[:2]), []).append(capsys.readouterr().out)
    built, info = json.loads(printed['index build'][0]), json.loads(printed['index info'][0])
    assert built['rows'] == 3 and built['truncated'] == 0 and built['dtype'] == info['dtype'] == 'int8'
    assert info['rows'] == 4 and info['deleted'] == 1
    assert '4 now' in printed['index add'][0] and 'deleted 1 passages, 3 left' in printed['index delete'][0]
    assert 'orchard-2020' in printed['index search'][0] and 'my-index/store-r' in printed['index compact'][0]
    assert len(printed['index verify']) == 3 and all('as it was written' in text for text in printed['index verify'])

    # What is refused, in one line.
    write_retriever(pathlib.Path('other'), seed=1)
    search = f'index search "pears" --index my-index {READER} --retriever other'
    assert run(search) == 2 and '--force' in capsys.readouterr().err
    assert run(f'{search} --force') == 0 and 'Conference' in capsys.readouterr().out
    assert run(f'index verify --index my-index {READER} --retriever other') == 2
    assert 'embedded by another model' in capsys.readouterr().out
    assert run(f'index build --store my-store --out gs://{bucket.READ_ONLY}/index {READER} {RETRIEVER}') == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('atlas-jax: gs://read-only/index: ') and 'PERMISSION_DENIED' in message

    # An addition that was killed between store and index is made up for by the next one.
    pathlib.Path('late.jsonl').write_text('{"id": "late", "text": "The late apples are green."}')
    with monkeypatch.context() as patch:
        patch.setattr(building, 'embed_shards', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(f'index add late.jsonl --index my-index {READER} {RETRIEVER}')
    assert run(f'index search "late" --index my-index {READER} {RETRIEVER}') == 2 and 'index add' in capsys.readouterr().err
    assert run(f'index add late.jsonl --index my-index {READER} {RETRIEVER}') == 0 and '4 now' in capsys.readouterr().out

    # Damage in the store is named with its rows and ids.
    text = next(pathlib.Path('my-index').glob('store-r*/segment-00000/passages.arrow'))
    content = bytearray(text.read_bytes())
    content[-9] ^= 1
    text.write_bytes(content)
    assert run('index verify --index my-index') == 2
    assert 'passages.arrow: damaged (contents differ from those written) (rows 0 to 2' in capsys.readouterr().out


@pytest.mark.parametrize(('lines', 'parts'), [
    (['{"text": "a"}', '{"text": '], ['bad.jsonl:2', 'broken JSON', 'one JSON object']),
    (['{"text": "a"}', '{"title": "b"}'], ['bad.jsonl:2', 'field "text"', 'fields found: title']),
    (['{"text": " "}'], ['bad.jsonl:1', 'field "text"', 'empty']),
    (['{"id": "x", "text": "a"}', '{"id": "x", "text": "b"}'], ['bad.jsonl:2', 'field "id"', '"x" was the id']),
    (['{"text": ["a"]}'], ['bad.jsonl:1', 'field "text"', 'expected text, found list']),
    ([], ['bad.jsonl', 'empty']),
])
def test_bad_documents_get_one_line_with_file_line_and_field(place, capsys, lines, parts):
    pathlib.Path('bad.jsonl').write_text(''.join(f'{line}\n' for line in lines))
    for folder in ('a-store', 'gs://my-bucket/store'):
        assert run(f'data passages bad.jsonl --out {folder} {READER} {RETRIEVER}') == 2
        [message] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('atlas-jax: ')]
        assert all(part in message for part in parts), message
    assert not pathlib.Path('a-store').exists() and not Folder('gs://my-bucket').children()


@pytest.mark.parametrize('path', ['my', 'gs://my-bucket/my'])
def test_a_second_writer_is_refused(place, capsys, path):
    assert run(f'data passages my-documents --out {path}-store {READER} {RETRIEVER}') == 0
    with lock.writing(Folder(f'{path}-index'), 'index', errors.IndexFolderError):
        assert run(f'index build --store {path}-store --out {path}-index {READER} {RETRIEVER}') == 2
    with lock.writing(Folder(f'{path}-store'), 'store', errors.StoreError):
        assert run(f'data passages my-documents --out {path}-store {READER} {RETRIEVER}') == 2
    message = capsys.readouterr().err
    assert f'{path}-index: another process is writing this index' in message and 'is writing this store' in message
