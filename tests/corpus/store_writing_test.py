"""Segments of a store: named in order, seen when a version names them, cleaned away when none does."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus import store_text, store_tokens, store_version, store_writing
from atlas_jax.corpus.passages import Passage
from atlas_jax.io.folder import Folder
from tests.testing.fake_tokenizer import FakeTokenizer

TOKENIZERS = (FakeTokenizer('reader', 101), FakeTokenizer('retriever', 97))
PASSAGES = [Passage(f'd{i}', 'T', '', f'text {i}') for i in range(5)]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / 's')


def test_tokenizers_come_in_pairs():
    assert store_writing.pair(None, None) is None and store_writing.pair(*TOKENIZERS) == TOKENIZERS
    assert store_writing.fingerprints(None) == ('', '') and store_writing.fingerprints(TOKENIZERS) == ('reader-101', 'retriever-97')
    for given in ((TOKENIZERS[0], None), (None, TOKENIZERS[1])):
        with pytest.raises(errors.ConfigError, match='give both reader_tokenizer and retriever_tokenizer'):
            store_writing.pair(*given)


def test_other_tokenizers_are_refused():
    version = store_version.StoreVersion((), 'reader-101', 'retriever-97')
    store_writing.check_tokenizers('s', version, TOKENIZERS)
    with pytest.raises(errors.StoreError, match='^s: its passages have the token ids of retriever tokenizer retriever-97, not of x-97'):
        store_writing.check_tokenizers('s', version, (TOKENIZERS[0], FakeTokenizer('x', 97)))
    with pytest.raises(errors.StoreError, match='reader tokenizer reader-101, not of ;'):
        store_writing.check_tokenizers('s', version, None)


def test_segments_are_numbered_and_gone_unless_they_are_named(folder):
    first = store_writing.write_segment(folder, PASSAGES[:3], None, False)
    assert (first.name, first.rows) == ('segment-00000', 3) and store_text.FILE in first.files
    store_version.write(folder, store_version.StoreVersion((first,)))
    second = store_writing.write_segment(folder, iter(PASSAGES[3:]), TOKENIZERS, False)
    assert second.name == 'segment-00001' and 'tokens/reader/lengths/zarr.json' in second.files
    store_writing.clean(folder)
    assert folder.children() == {'manifest.json', 'segment-00000'}
    assert store_version.damaged_files(folder, store_version.read(folder), contents=True) == []


def test_token_ids_are_added_and_the_texts_hashes_kept(folder):
    plain = store_writing.write_segment(folder, PASSAGES, None, False)
    [tokenised] = store_writing.write_tokens(folder, [plain], TOKENIZERS, False)
    assert plain.files.items() < tokenised.files.items()
    assert {name.split('/')[0] for name in tokenised.files.keys() - plain.files.keys()} == {store_tokens.FOLDER}
    version = store_version.StoreVersion((tokenised,), *store_writing.fingerprints(TOKENIZERS))
    assert store_version.damaged_files(folder, version, contents=True) == []


def test_kept_rows_are_a_segment_of_their_own(folder, tmp_path):
    segment = store_writing.write_segment(folder, PASSAGES, TOKENIZERS, False)
    readers = {side: [store_tokens.TokenReader(folder / segment.name / store_tokens.FOLDER / side, 5)] for side in store_tokens.SIDES}
    keep = np.array([False, True, True, False, True])
    kept = store_writing.write_kept(Folder(tmp_path / 'kept'), (PASSAGES[row] for row in (1, 2, 4)), keep, readers)
    assert kept.rows == 3
    text = store_text.of_segment(Folder(tmp_path / 'kept'), kept.name, kept.rows, kept.files)
    assert [text.docid(row) for row in range(3)] == ['d1', 'd2', 'd4']


@pytest.mark.parametrize('names, ours', [((), True), (('lock',), True), (('segment-00003',), True), (('.segment-00000.tmp7',), True),
                                         (('.tokens.tmp7', 'lock'), True), (('notes.txt',), False), (('segment-1',), False)])
def test_other_folders_are_refused(folder, names, ours):
    for name in names:
        folder.write(name, b'')
    if ours:
        store_writing.check_folder(folder)
    else:
        with pytest.raises(errors.StoreError, match=f'the folder holds something else .{names[0]}'):
            store_writing.check_folder(folder)


def test_a_file_and_another_manifest_are_refused(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(errors.StoreError, match='a file, not a folder'):
        store_writing.check_folder(Folder(tmp_path / 'file'))
    Folder(tmp_path / 'index').write_json('manifest.json', {'format': 'another'})
    with pytest.raises(errors.StoreError, match='something else .manifest.json'):
        store_writing.check_folder(Folder(tmp_path / 'index'))


def test_a_damaged_manifest_keeps_its_segments(folder):
    segment = store_writing.write_segment(folder, PASSAGES, None, False)
    store_version.write(folder, store_version.StoreVersion((segment,)))
    folder.write('manifest.json', b'{')
    store_writing.clean(folder)
    assert segment.name in folder.children()
