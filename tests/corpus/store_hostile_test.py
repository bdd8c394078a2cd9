"""Stores from strangers: a manifest whose checksum is right and whose content is not."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.io import checksum, versioned_folder
from tests.corpus.store_test import PASSAGES, READER, RETRIEVER, build, passage
from tests.testing import hostile

TOKENIZERS = {'reader_tokenizer': READER, 'retriever_tokenizer': RETRIEVER}


def sign(path, body):
    body = {name: value for name, value in body.items() if name != 'manifest_sha256'}
    path.write_text(json.dumps({**body, 'manifest_sha256': checksum.json_sha256(body)}))


def body_of(path):
    return json.loads((path / versioned_folder.FILE).read_text())


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    """A store of two segments, which no test changes for good."""
    path = tmp_path_factory.mktemp('hostile') / 'store'
    build(path).append([passage(20)], progress=False)
    return path


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_read_or_refused_in_one_line(store, data):
    body = body_of(store)
    try:
        sign(store / versioned_folder.FILE, data.draw(hostile.mutated(body)))
        try:
            found = PassageStore.open(store)
            list(found), found.rows_of(['p3']), found.reader_table(), found.retriever_table(), found.superseded()
            PassageStore.problems(store), PassageStore.leftovers(store)
        except errors.UserError as error:
            assert '\n' not in str(error) and str(store) in str(error) and len(str(error)) < 600
    finally:
        sign(store / versioned_folder.FILE, body)


@pytest.mark.parametrize('name', ['../victim', '..', '.', '/victim', 'segment-00000/../../victim', 'segment-00000\n'])
def test_no_segment_leads_out_of_the_store(tmp_path, name):
    victim = tmp_path / 'victim'
    for folder in ('tokens', '.segment-00000.tmp000000000001', 'c'):
        (victim / folder).mkdir(parents=True)
        (victim / folder / 'thesis').write_text('years of work')
    before = sorted(victim.rglob('*'))
    build(tmp_path / 's', tokenizers=None)
    body = body_of(tmp_path / 's')
    body['segments'][0]['name'] = name
    sign(tmp_path / 's' / versioned_folder.FILE, body)
    with pytest.raises(errors.StoreError, match=r'manifest.json: damaged .*"segments\[0\].name"'):
        PassageStore.open(tmp_path / 's')
    assert list(build(tmp_path / 's')) == PASSAGES, 'a damaged store may be built again'
    assert sorted(victim.rglob('*')) == before


def test_nothing_is_written_or_removed_through_a_link(tmp_path):
    (tmp_path / 'victim').mkdir()
    (tmp_path / 'victim' / '.tokens.tmp000000000001').write_text('thesis')
    (tmp_path / 'victim' / 'tokens').mkdir()
    (tmp_path / 'victim' / 'tokens' / 'thesis').write_text('x')
    store = build(tmp_path / 's', tokenizers=None)
    (tmp_path / 's' / 'segment-00000').rename(tmp_path / 'victim' / 'segment')
    before = sorted((tmp_path / 'victim').rglob('*'))
    os.symlink('../victim/segment', tmp_path / 's' / 'segment-00000')
    assert list(PassageStore.open(tmp_path / 's')) == PASSAGES, 'what is read may be a link'
    with pytest.raises(errors.StorageError, match='leads out of the folder'):
        store.tokenize(READER, RETRIEVER, progress=False)
    os.symlink('../victim', tmp_path / 's' / 'segment-00007')
    build(tmp_path / 's')
    assert sorted((tmp_path / 'victim').rglob('*')) == before
    assert {path.name for path in (tmp_path / 's').iterdir()} == {'lock', 'manifest.json', 'segment-00001'}, 'the links are gone'


def test_pipes_are_no_files(tmp_path):
    build(tmp_path / 's', tokenizers=None)
    for name in ('segment-00000/passages.arrow', 'segment-00000/docids/zarr.json', 'manifest.json'):
        (tmp_path / 's' / name).unlink()
        os.mkfifo(tmp_path / 's' / name)
        with pytest.raises(errors.StoreError, match='missing|no regular file'):  # and it does not wait for a writer
            PassageStore.open(tmp_path / 's')
