"""Damaged and forged files of every kind that a user can give: each is read, or refused in one line, at once and in little memory."""

import copy
import json
import os
import random
import resource
import signal

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.compare import comparison
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.apps.demo import packages
from atlas_jax.conversion import hf, loading
from atlas_jax.corpus import documents, passages
from atlas_jax.io import jsonl
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib
from atlas_jax.tokenizers import bert_tokenizer, t5_tokenizer
from tests.testing import tiny_checkpoints, tiny_tokenizers
from tests.testing.tiny_checkpoints import BERT, V11, model

SEED, SECONDS, MORE_MEMORY = 0, 60, 8 << 30
# Values of another type or far outside of any range, for every key of every file of JSON.
JUNK = (None, True, [], {}, '', 'x', 'x' * 5000, -1, 0, 1, 20_000, 2**31, 2**70, float('nan'), 1e400, -0.5, [[]], '../../x')
TEXTS = (b'[' * 100_000, b'{"a":' * 100_000, b'1' * 5_000, b'{"a": "\xff"}', b'', b'[]', b'3', b'null', b'"x"')


def _open(path) -> None:
    """Opens all parts of a model and reads every parameter, and its tokenizers."""
    opened = loading.open_model(path)
    for name in opened.openers:
        part = opened.part(name)
        for parameter in part.order():
            part.read(parameter)
        if loading.has_tokenizer(opened.tokenizer_places.get(name, [])):
            find = loading.reader_tokenizer if name == 'reader' else loading.retriever_tokenizer
            find(None, opened.tokenizer_places[name], 50).encode('the sun <extra_id_0> is [CLS] x')


def _documents(path) -> None:
    list(passages.split_passages(documents.read_documents(path)))


def _examples(path) -> None:
    list(jsonl.read(path))
    task_lib.read_examples(path, registry.make('qa'))


READ = {'.jsonl': _examples, '.md': _documents, '.html': _documents, '.txt': _documents, '.npz': compare_inputs.read,
        '.npy': comparison.read_recorded, '.whl': lambda path: list(packages.members(path, ''))}


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
    """A folder with a file or folder of every kind."""
    folder = tmp_path_factory.mktemp('originals')
    hf.write(folder / 'reader', model(V11))
    tiny_tokenizers.write_t5(folder / 'reader')
    hf.write(folder / 'shards', model(V11), shard_bytes=2000)
    hf.write(folder / 'retriever', model(BERT))
    tiny_tokenizers.write_bert(folder / 'retriever', do_lower_case=True)
    arrays = {path: model(V11).read(path) for path in model(V11).order()}
    tiny_checkpoints.write_t5x(folder / 'inlined', arrays)
    tiny_checkpoints.write_t5x(folder / 'zarr', arrays, lambda *place: tiny_checkpoints.zarr(*place))
    (folder / 'x.jsonl').write_text('{"question": "q", "answers": ["a"], "passages": [{"title": "t", "text": "x"}]}\n{"question": "r", '
                                    '"answers": ["b"]}\n')
    (folder / 'x.md').write_text('---\ntitle: x\n---\n# A\ntext [a](b) **x**\n\n## B\nmore `code`\n')
    (folder / 'x.html').write_text('<title>T</title><h1>A</h1><p>text<script>x</script><h2>B</h2><ul><li>x<li>y</ul>')
    (folder / 'x.txt').write_text('Plain text. With sentences.\n')
    ones = np.ones((1, 2, 3, 5), np.int64)
    for name in ('x.npz', 'x.npy', 'x.whl'):
        with open(folder / name, 'wb') as file:
            np.savez_compressed(file, reader_ids=ones, reader_mask=ones)
    return folder


@pytest.fixture
def read(monkeypatch):
    """Reads a file or folder and returns the error, if any; whatever else is raised, a hang and too much memory fail."""
    def give_up(*_):
        raise AssertionError('it takes too long')

    monkeypatch.setattr('sys.stderr.write', lambda text: None, raising=False)
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, give_up)
    with open('/proc/self/statm') as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, before[1]))

    def run(path) -> str:
        signal.alarm(SECONDS)
        try:
            READ.get(path.suffix, _open)(path)
        except errors.UserError as error:
            assert '\n' not in str(error) and len(str(error)) < 2000
            return str(error)
        finally:
            signal.alarm(0)
        return ''

    yield run
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def _copy(originals, tmp_path, name):
    """Links a folder's files, so that one of them can be replaced."""
    for file in (originals / name).rglob('*'):
        if file.is_file():
            target = tmp_path / name / file.relative_to(originals / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    return tmp_path / name


def _replace(path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _mutations(value) -> list:
    """Every value with one key changed or missing."""
    def places(node, path):
        for key in node if isinstance(node, dict) else range(min(len(node), 3)) if isinstance(node, list) else ():
            yield [*path, key]
            yield from places(node[key], [*path, key])

    found = []
    for *parents, last in places(value, []):
        for junk in (*JUNK, ...):
            changed = node = copy.deepcopy(value)
            for key in parents:
                node = node[key]
            if junk is ...:
                del node[last]
            else:
                node[last] = junk
            found.append(changed)
    return found


@pytest.mark.parametrize(('folder', 'file', 'count'), [
    ('reader', 'config.json', 60), ('retriever', 'config.json', 60), ('retriever', 'modules.json', 30),
    ('retriever', '1_Pooling/config.json', 20), ('retriever', 'tokenizer_config.json', 20), ('reader', 'tokenizer.json', 60),
    ('shards', 'model.safetensors.index.json', 30), ('zarr', 'target.token_embedder.embedding/.zarray', 60)])
def test_every_key_of_every_json_file(originals, tmp_path, read, folder, file, count):
    path = _copy(originals, tmp_path, folder) / file
    mutations = [json.dumps(value).encode() for value in _mutations(json.loads(path.read_bytes()))]
    for content in (*TEXTS, *random.Random(SEED).sample(mutations, min(count, len(mutations)))):
        _replace(path, content)
        read(tmp_path / folder)
    for text in TEXTS[:5]:
        _replace(path, text)
        assert read(tmp_path / folder)


@pytest.mark.parametrize(('folder', 'file'), [
    ('reader', 'model.safetensors'), ('inlined', 'checkpoint'), ('zarr', 'checkpoint'), ('zarr', 'target.token_embedder.embedding/0.0'),
    ('retriever', 'vocab.txt'), ('', 'x.jsonl'), ('', 'x.md'), ('', 'x.html'), ('', 'x.txt'), ('', 'x.npz'), ('', 'x.npy'), ('', 'x.whl')])
def test_cut_and_flipped_bytes(originals, tmp_path, read, folder, file):
    path = _copy(originals, tmp_path, folder or '.') / file
    whole, generator = path.read_bytes(), random.Random(SEED)
    for number in range(40):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[:generator.randrange(len(content))]
        for _ in range(number % 3):
            content[generator.randrange(min(len(content), 10**(1 + number % 4)))] ^= 1 << generator.randrange(8)
        _replace(path, content)
        read(tmp_path / folder if folder else path)


@pytest.mark.parametrize(('folder', 'file'), [
    ('reader', 'config.json'), ('reader', 'model.safetensors'), ('reader', 'tokenizer.json'), ('retriever', 'vocab.txt'),
    ('retriever', 'modules.json'), ('inlined', 'checkpoint'), ('zarr', 'target.token_embedder.embedding/.zarray'), ('', 'x.jsonl'),
    ('', 'x.md'), ('', 'x.html'), ('', 'x.txt'), ('', 'x.npz'), ('', 'x.npy'), ('', 'x.whl')])
def test_pipes_devices_and_files_of_holes(originals, tmp_path, read, folder, file):
    path = _copy(originals, tmp_path, folder or '.') / file
    def make_holes(path):
        with open(path, 'wb') as file:
            file.truncate(1 << 38)

    for make in (os.mkfifo, lambda path: path.symlink_to('/dev/zero'), make_holes):
        path.unlink()
        make(path)
        # A tokenizer or modules.json that is not a regular file counts as missing: the folder is read without it.
        assert read(tmp_path / folder if folder else path) or file in ('tokenizer.json', 'vocab.txt', 'modules.json')


@pytest.mark.parametrize('number', [2**27, 2**31, 2**70, -1, True, 1.5])
def test_a_token_id_takes_no_memory_of_its_own(tmp_path, number):
    vocabulary = {token: i for i, token in enumerate(tiny_tokenizers.VOCABULARY)} | {'huge': number}
    (tmp_path / 'tokenizer.json').write_text(json.dumps({'model': {'type': 'WordPiece', 'vocab': vocabulary}}))
    with pytest.raises(errors.ModelFolderError, match='tokenizer.json: (the id of|not a WordPiece)'):
        bert_tokenizer.BertTokenizer.from_folder(tmp_path)


def test_a_spiece_model_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'spiece.model')
    with pytest.raises(errors.ModelFolderError, match='spiece.model'):
        t5_tokenizer.T5Tokenizer.from_folder(tmp_path)
    with pytest.raises(errors.ModelFolderError, match='no regular file'):
        t5_tokenizer.T5Tokenizer.from_file(tmp_path / 'spiece.model')
