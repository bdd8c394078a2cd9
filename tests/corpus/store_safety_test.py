"""What a store survives: kills, a full disk, damage, foreign files, a second writer."""

import errno
import os
import pathlib
import shutil
import signal
import sys
import textwrap
import time

import pytest

from atlas_jax import errors
from atlas_jax.corpus import store as corpus_store
from atlas_jax.corpus import store_text, store_version, store_writing
from atlas_jax.io.folder import Folder
from tests.corpus.store_test import PASSAGES, READER, RETRIEVER, build, passage, rows_of_table
from tests.testing import processes

ROOT = pathlib.Path(corpus_store.__file__).parents[2]
# Builds, appends to or tokenises the store given, and dies at the place given.
KILLED = textwrap.dedent("""
    import os, signal, sys
    from atlas_jax.corpus import store, store_version, store_tokens, store_writing
    from tests.corpus.store_test import READER, RETRIEVER, passage

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    path, verb, place = sys.argv[1:]
    def source():
        for number in range(100, 1500):
            yield passage(number)
        if place == 'passages':
            die()
    if place == 'tokens':
        whole = store_tokens.write
        store_tokens.write = lambda *a, **k: die() if 'retriever' in str(a[0].name) else whole(*a, **k)
    if place == 'manifest':
        store_version.write = die
    if place == 'cleaning':
        whole_write = store_version.write
        def write(*arguments):
            whole_write(*arguments)
            store_writing.clean = die
        store_version.write = write
    tokenizers = dict(reader_tokenizer=READER, retriever_tokenizer=RETRIEVER)
    if verb == 'build':
        store.PassageStore.from_passages(source(), path, **tokenizers, progress=False)
    elif verb == 'append':
        store.PassageStore.open(path).append(source(), **tokenizers, progress=False)
    else:
        store.PassageStore.open(path).tokenize(READER, RETRIEVER, progress=False)
""")


def python(*arguments):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    return processes.started([sys.executable, *arguments], env=environment, cwd=ROOT)


def kill_writer(path, verb, place):
    with python('-c', KILLED, path, verb, place) as process:
        assert process.wait().returncode == -signal.SIGKILL


@pytest.mark.parametrize('place', ['passages', 'tokens', 'manifest'])
def test_killed_first_build_leaves_no_store_and_is_no_obstacle(tmp_path, place):
    kill_writer(tmp_path / 's', 'build', place)
    with pytest.raises(errors.StoreError, match='not finished; run the same'):
        corpus_store.PassageStore.open(tmp_path / 's')
    assert list(build(tmp_path / 's')) == PASSAGES
    assert {path.name for path in (tmp_path / 's').iterdir()} == {'manifest.json', 'lock', 'segment-00000'}


@pytest.mark.parametrize('verb, place', [('build', 'manifest'), ('append', 'tokens'), ('append', 'manifest'), ('tokenize', 'manifest')])
def test_killed_writer_leaves_the_old_version(tmp_path, verb, place):
    path = tmp_path / 's'
    build(path, tokenizers=None if verb == 'tokenize' else (READER, RETRIEVER))
    kill_writer(path, verb, place)
    store = corpus_store.PassageStore.open(path)
    assert list(store) == PASSAGES
    store.verify()
    store.tokenize(READER, RETRIEVER, progress=False)
    store.append([passage(77)], progress=False)
    assert len(rows_of_table(store.reader_table())) == 18
    assert len(list(path.glob('segment-*'))) == 2, 'what was left behind is gone'
    corpus_store.PassageStore.open(path).verify()


def test_build_killed_after_the_commit_is_the_new_version(tmp_path):
    build(tmp_path / 's')
    kill_writer(tmp_path / 's', 'build', 'cleaning')
    store = corpus_store.PassageStore.open(tmp_path / 's')
    assert len(store) == 1400 and store.docid(0) == 'p100'
    assert corpus_store.PassageStore.leftovers(tmp_path / 's') == [f'{tmp_path}/s/segment-00000']
    assert corpus_store.PassageStore.problems(tmp_path / 's') == [], 'what is left over is no damage'
    store.append([passage(30)], reader_tokenizer=READER, retriever_tokenizer=RETRIEVER, progress=False)
    assert corpus_store.PassageStore.leftovers(tmp_path / 's') == []


def test_building_again_replaces(tmp_path):
    old = build(tmp_path / 's')
    new = build(tmp_path / 's', [passage(i) for i in range(3)], tokenizers=None)
    assert len(corpus_store.PassageStore.open(tmp_path / 's')) == len(new) == 3
    assert old[4] == PASSAGES[4], 'who had it open goes on reading'
    assert len(list((tmp_path / 's').glob('segment-*'))) == 1


def files_of(path):
    return sorted(file for file in path.rglob('*') if file.is_file() and file.name != 'lock')


def use_everything(path):
    store = corpus_store.PassageStore.open(path)
    store.rows_of(['p3'])
    return list(store), rows_of_table(store.reader_table()), rows_of_table(store.retriever_table())


def test_every_flipped_byte_is_noticed(tmp_path):
    build(tmp_path / 's')
    files = files_of(tmp_path / 's')
    assert len(files) > 15
    for file in files:
        content = file.read_bytes()
        for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1:])
            with pytest.raises(errors.StoreError) as caught:
                use_everything(tmp_path / 's')
                corpus_store.PassageStore.open(tmp_path / 's').verify()
            assert '\n' not in str(caught.value) and str(tmp_path / 's') in str(caught.value)
        file.write_bytes(content)
    use_everything(tmp_path / 's')


def test_flipped_bytes_of_passages_and_tokens_are_noticed_without_verifying(tmp_path):
    build(tmp_path / 's')
    for file in files_of(tmp_path / 's'):
        if file.name in ('passages.arrow', '0'):
            content = file.read_bytes()
            file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
            with pytest.raises(errors.StoreError, match='damaged'):
                use_everything(tmp_path / 's')
            file.write_bytes(content)


def test_missing_and_cut_files_are_noticed_at_once(tmp_path):
    build(tmp_path / 's')
    for file in files_of(tmp_path / 's'):
        content = file.read_bytes()
        file.write_bytes(content[:-2])
        with pytest.raises(errors.StoreError, match='bytes long instead of|damaged'):
            corpus_store.PassageStore.open(tmp_path / 's')
        file.unlink()
        with pytest.raises(errors.StoreError, match='missing|not finished'):
            corpus_store.PassageStore.open(tmp_path / 's')
        file.write_bytes(content)


def test_chunk_that_vanishes_while_open_is_noticed(tmp_path):
    store = build(tmp_path / 's')
    assert len(store.reader_lengths) == 17
    (tmp_path / 's' / 'segment-00000' / 'tokens' / 'reader' / 'ids' / 'c' / '0').unlink()
    with pytest.raises(errors.StoreError, match='missing'):
        store.reader_table()


def test_foreign_files(tmp_path):
    build(tmp_path / 's')
    foreign = tmp_path / 's' / 'segment-00000' / 'tokens' / 'reader' / 'notes.txt'
    foreign.write_text('x')
    with pytest.raises(errors.StoreError, match='notes.txt: does not belong'):
        corpus_store.PassageStore.open(tmp_path / 's')
    foreign.rename(foreign.with_name('.hidden'))
    corpus_store.PassageStore.open(tmp_path / 's')


def test_file_of_another_store(tmp_path):
    build(tmp_path / 's')
    build(tmp_path / 't', PASSAGES[1:])
    shutil.rmtree(tmp_path / 's' / 'segment-00000')
    shutil.copytree(tmp_path / 't' / 'segment-00000', tmp_path / 's' / 'segment-00000')
    with pytest.raises(errors.StoreError):
        corpus_store.PassageStore.open(tmp_path / 's')


def test_tokenising_does_not_vouch_for_damage(tmp_path):
    store = build(tmp_path / 's', tokenizers=None)
    hashes = tmp_path / 's' / 'segment-00000' / 'docids' / 'c' / '0'
    hashes.write_bytes(b'x' + hashes.read_bytes()[1:])
    store.tokenize(READER, RETRIEVER, progress=False)
    with pytest.raises(errors.StoreError, match='docids'):
        store.verify()


@pytest.mark.parametrize('content, message', [
    ('{"format": "atlas_jax index", "version": 1}', 'not the manifest of a passage store'),
    ('[]', 'not the manifest of a passage store'),
    ('{"format": "atlas_jax passage store", "version": 2}', 'store format 2, this version of atlas_jax reads 1'),
    ('{"format": "atlas_jax passage store", "version": 1}', 'checksum'),
    ('{', 'damaged'),
])
def test_other_manifests(tmp_path, content, message):
    build(tmp_path / 's')
    (tmp_path / 's' / 'manifest.json').write_text(content)
    with pytest.raises(errors.StoreError, match=message):
        corpus_store.PassageStore.open(tmp_path / 's')


def test_a_damaged_store_can_be_built_anew(tmp_path):
    build(tmp_path / 's')
    (tmp_path / 's' / 'manifest.json').write_text('{')
    assert list(build(tmp_path / 's', PASSAGES[:2])) == PASSAGES[:2]
    assert len(list((tmp_path / 's').glob('segment-*'))) == 1


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('x')
    (tmp_path / 'index').mkdir()
    (tmp_path / 'index' / 'manifest.json').write_text('{"format": "atlas_jax index"}')
    (tmp_path / 'file').write_text('x')
    before = sorted(tmp_path.rglob('*'))
    for name in ('mine', 'index', 'file', 'file/below'):
        with pytest.raises(errors.StoreError, match='choose|cannot write'):
            build(tmp_path / name)
    for name in ('mine', 'index', 'file', 'nothing'):
        with pytest.raises(errors.StoreError, match='no such folder|not a passage store|not the manifest'):
            corpus_store.PassageStore.open(tmp_path / name)
    assert sorted(tmp_path.rglob('*')) == before


def test_second_writer_is_refused(tmp_path):
    store = build(tmp_path / 's')
    with store_writing.locked(Folder(tmp_path / 's')):
        for write in (lambda: build(tmp_path / 's'), lambda: store.append([passage(30)], progress=False)):
            with pytest.raises(errors.StoreError, match='another process is writing'):
                write()
        assert len(corpus_store.PassageStore.open(tmp_path / 's')) == 17, 'reading goes on'
    store.append([passage(30)], progress=False)


def test_lock_of_a_killed_process_is_free(tmp_path):
    script = ('import sys, time; from atlas_jax.corpus import store_writing; from atlas_jax.io.folder import Folder\n'
              'with store_writing.locked(Folder(sys.argv[1])): print("held", flush=True); time.sleep(99)')
    with python('-c', script, tmp_path / 's') as process:
        assert process.line() == 'held\n'
        with pytest.raises(errors.StoreError, match='another process is writing'):
            build(tmp_path / 's')
    deadline = time.monotonic() + 10
    while True:
        try:
            assert len(build(tmp_path / 's')) == 17
            break
        except errors.StoreError:
            assert time.monotonic() < deadline


@pytest.mark.parametrize('place', ['text', 'tokens', 'manifest'])
def test_full_disk_leaves_the_old_version(tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    def full_tensorstore(*_, **__):
        raise ValueError('RESOURCE_EXHAUSTED: Error writing "c/0": [OS error 28: ENOSPC No space left on device]')
    store = build(tmp_path / 's')
    target, fake = {'text': ('atlas_jax.corpus.store_text.pa.ipc.new_file', full),
                    'tokens': ('atlas_jax.corpus.store_arrays.arrays.tensorstore.open', full_tensorstore),
                    'manifest': ('os.replace', full)}[place]
    before = sorted(tmp_path.rglob('*'))
    with monkeypatch.context() as patch:
        patch.setattr(target, fake)
        with pytest.raises(errors.DiskFullError, match=f'{tmp_path}.*full'):
            store.append([passage(30)], progress=False)
        with pytest.raises(errors.DiskFullError):
            build(tmp_path / 'new')
    left = {path for path in tmp_path.rglob('*') if 'segment-00001' not in path.parts}
    assert list(corpus_store.PassageStore.open(tmp_path / 's')) == PASSAGES
    assert place == 'manifest' or sorted(left) == before
    store.append([passage(30)], progress=False)
    assert len(store) == 18


def test_opening_does_not_read_the_passages(tmp_path, monkeypatch):
    build(tmp_path / 's', [passage(i) for i in range(5 * store_text.BATCH_ROWS)], tokenizers=None)
    checked = []
    whole = store_text.TextReader._check_block
    monkeypatch.setattr(store_text.TextReader, '_check_block', lambda self, number: (checked.append(number), whole(self, number))[1])
    store = corpus_store.PassageStore.open(tmp_path / 's')
    assert checked == [0, 5]
    assert store.docid(3 * store_text.BATCH_ROWS) and checked == [0, 5, 3]


def test_reader_that_meets_a_new_version_goes_on_with_it(tmp_path, monkeypatch):
    build(tmp_path / 's')
    whole, calls = store_version.check_files, []

    def check_files(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            build(tmp_path / 's', PASSAGES[:5])
        return whole(*arguments, **options)
    monkeypatch.setattr(store_version, 'check_files', check_files)
    assert len(corpus_store.PassageStore.open(tmp_path / 's')) == 5
