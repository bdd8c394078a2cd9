"""`atlas-jax index compress` and the searcher "codes" as a user meets them, on a tiny model, and their refusals."""

import json
import shutil

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.searchers.config import SearchConfig
from tests.apps.cli.index_test import run
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A saved model, a store of 23 passages and an index with codes, and the questions about them."""
    path = tmp_path_factory.mktemp('index-compress')
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    (path / 'questions.jsonl').write_text('\n'.join(map(json.dumps, tiny_run.rows(11))))
    return path


def compress(capsys, index, *options):
    return run(capsys, 'index', 'compress', index, '--bytes', 8, '--rescore', 20, '--min_recall', 0, *options)


def test_a_life_with_codes(folder, capsys, tmp_path):
    index, model = tmp_path / 'index', ('--model', folder / 'model')
    shutil.copytree(folder / 'index', index), shutil.copytree(folder / 'store', tmp_path / 'store')
    search = ('index', 'search', 'thing 3', '--index', index, *model, '--top_k', '4', '--searcher')
    code, _, err = run(capsys, *search, 'codes')
    assert code == 2 and err.count('\n') == 1 and f'has no codes; make them with `atlas-jax index compress {index}`' in err
    code, out, err = compress(capsys, index)
    figures = json.loads(out)
    assert code == 0 and figures['rows'] == 23 and figures['bytes_a_row'] == 8 and 0 <= figures['recall_at_20'] <= 1, err
    assert run(capsys, *search, 'codes')[1] == run(capsys, *search, 'exact')[1] != ''
    # With questions the recall is measured again, by the model.
    code, out, err = compress(capsys, index, '--questions', folder / 'questions.jsonl', *model)
    assert code == 0 and json.loads(out)['queries'] == 11, err
    # An addition adds codes, a deletion needs none.
    (tmp_path / 'new.jsonl').write_text(json.dumps({'id': 'new', 'title': 'thing 77', 'text': 'The thing 77 is red .'}))
    assert 'added 1 passages, 24 now' in run(capsys, 'index', 'add', tmp_path / 'new.jsonl', '--index', index, *model)[1]
    best = run(capsys, *search, 'codes')[1].split('[')[1].split(']')[0]
    run(capsys, 'index', 'delete', '--index', index, '--docid', best)
    assert run(capsys, *search, 'codes')[1] == run(capsys, *search, 'exact')[1] and f'[{best}]' not in run(capsys, *search, 'codes')[1]
    # A compaction moves rows: the old codes are refused, then made again.
    run(capsys, 'index', 'compact', '--index', index)
    code, _, err = run(capsys, *search, 'codes')
    assert code == 2 and 'made of other embeddings than the index has now' in err and err.count('\n') == 1
    assert compress(capsys, index)[0] == 0 and run(capsys, *search, 'codes')[0] == 0
    # Damage is found.
    part = next((index / 'codes').glob('*.codes'))
    part.write_bytes(part.read_bytes()[:-1] + b'!')
    code, out, _ = run(capsys, 'index', 'verify', '--index', index)
    assert code == 2 and f'{part}: damaged (contents differ from those written) (rows 0 to 22' in out
    code, _, err = run(capsys, *search, 'codes')
    assert code == 2 and '.codes: damaged' in err and err.count('\n') == 1


def test_what_cannot_be_compressed_is_one_line(folder, capsys, tmp_path):
    index = folder / 'index'
    other = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    other.params = {**other.params, 'retriever': jax_scaled(other.params['retriever'])}
    other.save(tmp_path / 'other')
    (tmp_path / 'empty.jsonl').write_text('')
    for options, message in (
            (('--model', tmp_path / 'other'), 'built by another model, which differs in weights'),
            (('--questions', folder / 'questions.jsonl'), '--questions needs the model that embeds them'),
            (('--questions', tmp_path / 'empty.jsonl', '--model', folder / 'model'), 'empty.jsonl'),
            (('--bytes', 1000), 'choose from 1 to'), (('--rescore', 3), 'rescore is 3; it must be at least 20'),
            (('--min_recall', '1', '--bytes', '1'), 'codes of 1 bytes find')):
        code, _, err = compress(capsys, index, *options)
        assert code == 2 and message in err and err.split('\r')[-1].count('\n') <= 2, err
    assert not (index / 'codes').exists()
    with pytest.raises(errors.ConfigError, match='has no codes'):
        api.Index.open(index).search(['thing 3'], tiny_run.atlas(dropout_rate=0.0), 2, 'codes')


def jax_scaled(params):
    """Other weights of the same shapes."""
    import jax
    return jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, params)


def test_the_host_scores_what_the_devices_score_and_several_indexes_need_it(folder, capsys, tmp_path):
    shutil.copytree(folder / 'index', tmp_path / 'index'), shutil.copytree(folder / 'store', tmp_path / 'store')
    assert compress(capsys, tmp_path / 'index')[0] == 0
    atlas, index = tiny_run.atlas(dropout_rate=0.0), api.Index.open(tmp_path / 'index')
    questions = [row['question'] for row in tiny_run.rows(5)]
    on_device, on_host = (atlas.search(questions, index, 3, SearchConfig('codes', rescore=rescore)) for rescore in ('device', 'host'))
    for first, second in zip(on_device, on_host, strict=True):
        assert [found.passage for found in first] == [found.passage for found in second]
        np.testing.assert_allclose([found.score for found in first], [found.score for found in second], rtol=1e-5)
    with pytest.raises(errors.ConfigError, match="scans one index on the devices, found 2; set SearchConfig.rescore = 'host'"):
        atlas.search(questions, [index, api.Index.open(tmp_path / 'index')], 3, 'codes')
    both = atlas.search(questions, [index, api.Index.open(tmp_path / 'index')], 4, SearchConfig('codes', rescore='host'))
    assert [found.passage for found in both[0][::2]] == [found.passage for found in on_host[0][:2]]
