"""Finding the published files of a run among a user's files."""

import pytest

from atlas_jax import errors
from atlas_jax.apps.reproduce import published_files
from atlas_jax.apps.reproduce.recipes import RECIPES


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('x', encoding='utf-8')
    return folder


def found(run, *given):
    files = published_files.find(run, RECIPES[run], list(map(str, given)))
    return {published.name: [file.name for file in each] for published, each in files.items()}


def test_a_folder_of_downloads_serves_several_runs(tmp_path):
    touch(tmp_path, 'nq/NQ-open.train.jsonl.gz', 'nq/NQ-open.dev.jsonl', 'nq/NQ-open.efficientqa.dev.1.1.jsonl', 'fever/train.jsonl',
          'fever/paper_test.jsonl', 'README.md')
    assert found('nq_full', tmp_path) == {'NQ-open.train.jsonl': ['NQ-open.train.jsonl.gz'], 'NQ-open.dev.jsonl': ['NQ-open.dev.jsonl']}
    assert found('fever_full', tmp_path) == {'train.jsonl': ['train.jsonl'], 'paper_test.jsonl': ['paper_test.jsonl']}
    assert found('pretrain_mlm') == {}


def test_lists_decide_which_splits_there_are(tmp_path):
    touch(tmp_path, 'NQ-open.train.jsonl', 'NQ-open.dev.jsonl')
    recipe = RECIPES['nq_full']
    assert published_files.outputs_of(published_files.find('nq_full', recipe, [str(tmp_path)])) == {'train', 'dev'}
    touch(tmp_path, 'NQ.test.idx.json', 'NQ.train.idx.json')
    assert published_files.outputs_of(published_files.find('nq_full', recipe, [str(tmp_path)])) == {'train', 'test'}


@pytest.mark.parametrize('names', [
    ('data/dev/anatomy_dev.csv', 'data/test/anatomy_test.csv', 'data/test/virology_test.csv', 'data/auxiliary_train/race.csv'),
    ('all/dev-00000-of-00001.parquet', 'all/test-00000-of-00001.parquet', 'all/auxiliary_train-00000-of-00001.parquet',
     'anatomy/test-00000-of-00001.parquet')])
def test_mmlu_in_either_publication(tmp_path, names):
    assert {name for files in found('mmlu_full', touch(tmp_path, *names)).values() for name in files} == {
        name.rpartition('/')[2] for name in names if not name.startswith('anatomy/')}


@pytest.mark.parametrize(('run', 'names', 'given', 'said'), [
    ('nq_64_shot', ['NQ-open.dev.jsonl'], '.', 'nq_64_shot needs NQ-open.train.jsonl; give these, or a folder with them'),
    ('triviaqa_full', ['x.json'], '.', 'needs unfiltered-web-train.json, unfiltered-web-dev.json, TQA.train.idx.json, TQA.dev.idx.json'),
    ('nq_full', ['a/NQ-open.train.jsonl', 'b/NQ-open.train.jsonl', 'NQ-open.dev.jsonl'], '.',
     'is NQ-open.train.jsonl, too; give one of them'),
    ('nq_full', ['nq.jsonl'], 'nq.jsonl', 'nq_full has no use for a file of this name; it takes NQ-open.train.jsonl'),
    ('pretrain_lm', ['text.jsonl'], 'text.jsonl', 'trains on the passages of the index and takes no files'),
    ('nq_full', [], 'missing.jsonl', 'no such file or folder')])
def test_mistakes_name_files(tmp_path, run, names, given, said):
    touch(tmp_path, *names)
    with pytest.raises(errors.InputFileError) as raised:
        published_files.find(run, RECIPES[run], [str(tmp_path / given)])
    assert said in str(raised.value)


def test_nothing_given_is_told():
    with pytest.raises(errors.InputFileError, match='--from: fever_15_shot needs train.jsonl, paper_test.jsonl'):
        published_files.find('fever_15_shot', RECIPES['fever_15_shot'], [])
