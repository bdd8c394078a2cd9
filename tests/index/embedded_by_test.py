"""The record of what embeddings depend on: each field is compared and named, the limit where it cuts; old fingerprints where known."""

import dataclasses
import json

import pytest

from atlas_jax import errors
from atlas_jax.index import embedded_by, index_manifest
from atlas_jax.index.embedded_by import EmbeddedBy
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import schema
from atlas_jax.io.folder import Folder
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages

RECORD = EmbeddedBy(weights='0123456789abcdef', dtype='float32', pooling='average', normalize=False, dim=22,
                    passage_format='{title} {text}', passage_tokens='[101, "title", "text", 102]', max_tokens=200)
OTHER = {'weights': 'fedcba9876543210', 'dtype': 'bfloat16', 'pooling': 'cls', 'normalize': True, 'dim': 11, 'max_tokens': 256}


class _Model:
    """A model of a record, which was once known under another fingerprint."""

    def __init__(self, record=RECORD, old=()):
        self.record, self._old = record, dict(old)

    def old_limit(self, fingerprint):
        return self._old.get(fingerprint)


@pytest.mark.parametrize('name', OTHER)
def test_every_field_is_named_with_both_values(name):
    changed = dataclasses.replace(RECORD, **{name: OTHER[name]})
    assert changed.fingerprint != RECORD.fingerprint
    assert RECORD.differences(changed, lambda: 201) == [f'{name} (index {getattr(RECORD, name)}, this model {OTHER[name]})']


@pytest.mark.parametrize(('longest', 'cuts'), [(199, False), (200, False), (201, True), (300, True)])
def test_limits_count_where_one_cuts(longest, cuts):
    for one, other in ((RECORD, dataclasses.replace(RECORD, max_tokens=256)), (dataclasses.replace(RECORD, max_tokens=256), RECORD)):
        assert bool(one.differences(other, lambda: longest)) == cuts


def test_a_prompt_is_another_format_and_spaces_are_none():
    prompt = dataclasses.replace(RECORD, passage_format='passage: {title} {text}', passage_tokens='[101, 6019, 1024, "title", "text", 102]')
    assert RECORD.differences(prompt, lambda: 0) == ['passage_format (index "{title} {text}", this model "passage: {title} {text}")']
    spaces = dataclasses.replace(RECORD, passage_format='{title}  {text}')
    assert not RECORD.differences(spaces, lambda: 0) and spaces.fingerprint == RECORD.fingerprint
    [tokens] = RECORD.differences(dataclasses.replace(RECORD, passage_tokens='[7, "title", "text", 8]'), lambda: 0)
    assert tokens.startswith('passage_tokens (index "[101')


def test_lengths_are_not_read_where_limits_agree():
    def never():
        raise AssertionError

    assert embedded_by.mismatch(RECORD.fingerprint, {}, _Model(), never) is None
    assert not RECORD.differences(RECORD, never)


def test_indexes_from_before_records():
    assert embedded_by.mismatch('old', {}, _Model(old={'old': 200}), lambda: 900) is None
    assert embedded_by.mismatch('old', {}, _Model(old={'old': 256}), lambda: 200) is None
    assert embedded_by.mismatch('old', {}, _Model(old={'old': 256}), lambda: 201) == 'max_tokens (index 256, this model 200)'
    assert embedded_by.mismatch('old', {}, _Model(), lambda: 0).startswith('fingerprint (index old, this model ')


def test_json_keeps_records_and_refuses_other_fields():
    values = json.loads(json.dumps({RECORD.fingerprint: dataclasses.asdict(RECORD)}))
    records = dict[str, embedded_by.EmbeddedBy]
    schema.of(records).check(values, 'models')
    assert schema.build(records, values) == {RECORD.fingerprint: RECORD}
    with pytest.raises(ValueError, match='no field'):
        schema.of(records).check({'x': {'weights': 'only'}}, 'models')


# In an index on disk.


def test_an_index_keeps_the_record_of_every_model_that_it_has_rows_of(tmp_path):
    store = FakeStore(passages(5))
    index = EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False)
    assert index.info()['embedded_by'] == [dataclasses.asdict(FakeEmbedder().record)]
    store.passages += passages(3, seed=1, prefix='new')
    index.add(store, FakeEmbedder(seed=1), progress=False, force=True)
    found = index_manifest.read(Folder(tmp_path / 'index'))
    assert set(found.models) == {FakeEmbedder().fingerprint, FakeEmbedder(seed=1).fingerprint}
    # A new build names one model again.
    EmbeddingIndex.build(store, FakeEmbedder(seed=1), tmp_path / 'index', progress=False)
    assert set(index_manifest.read(Folder(tmp_path / 'index')).models) == {FakeEmbedder(seed=1).fingerprint}


def test_another_limit_is_accepted_and_said_once_where_it_cuts_a_passage(tmp_path, capsys):
    store = FakeStore([('a', (3, 4, 5)), ('b', tuple(range(1, 12)))])
    index = EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False)
    for limit in (11, 500):
        longer = FakeEmbedder()
        longer.record = dataclasses.replace(longer.record, max_tokens=limit)
        index.check(store, longer)
    assert not capsys.readouterr().err
    shorter = FakeEmbedder()
    shorter.record = dataclasses.replace(shorter.record, max_tokens=10)
    for _ in range(2):
        index.check(store, shorter)
    said = capsys.readouterr().err
    assert said == (f'{tmp_path / "index"}: differs in max_tokens (index 128, this model 10): its passages stay cut as they are; passages '
                    'that are embedded from now on have the limit of the model\n')
    # Rows of another limit are not the model's own, and another difference is refused with it.
    assert not index.rows_of_model(shorter, store).any()
    shorter.record = dataclasses.replace(shorter.record, pooling='cls')
    with pytest.raises(errors.IndexFolderError, match=r'differs in pooling \(index average, this model cls\); build it again .*--force'):
        index.check(store, shorter)
    index.check(store, shorter, force=True)
