"""Folders and patterns become lists of files in order; mistakes are refused."""

import os
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.io import file_list


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with parts, other files, and a name that looks like a pattern."""
    monkeypatch.chdir(tmp_path)
    for name in ('parts/b.jsonl', 'parts/a.jsonl.gz', 'parts/c.JSONL.zst', 'parts/.hidden.jsonl', 'parts/few.ids', 'parts/notes.txt',
                 'parts/sub/d.jsonl', 'one.json', 'odd[1].jsonl', 'odd1.jsonl'):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_text('{}')
    pathlib.Path('empty').mkdir()


@pytest.mark.parametrize(('paths', 'found'), [
    ('one.json', ['one.json']), (pathlib.Path('one.json'), ['one.json']),
    (['one.json', 'parts'], ['one.json', 'parts/a.jsonl.gz', 'parts/b.jsonl', 'parts/c.JSONL.zst']),
    (('parts/b.jsonl', 'one.json'), ['parts/b.jsonl', 'one.json']),
    ('parts/*.jsonl*', ['parts/a.jsonl.gz', 'parts/b.jsonl']),
    ('parts/**/*.jsonl', ['parts/b.jsonl', 'parts/sub/d.jsonl']),
    ('parts/[ab].*', ['parts/a.jsonl.gz', 'parts/b.jsonl']),
    ('odd[1].jsonl', ['odd[1].jsonl']),  # a file of this name is there
    ('par*', ['parts/a.jsonl.gz', 'parts/b.jsonl', 'parts/c.JSONL.zst'])])
def test_paths_become_files_in_their_order(paths, found):
    assert [str(file) for file in file_list.files_of(paths)] == found


@pytest.mark.parametrize(('paths', 'message'), [
    ([], 'an empty list of files'), ('nowhere.jsonl', '^nowhere.jsonl: no such file or folder'), ('nowhere/*', 'nothing fits this pattern'),
    ('empty', '^empty: no JSON lines in this folder'), (['parts', 'parts/b.jsonl'], '^parts/b.jsonl: named twice'),
    (['one.json', 'link.json'], '^link.json: named twice')])
def test_mistakes_name_the_path(paths, message):
    os.symlink('one.json', 'link.json')
    with pytest.raises(errors.InputFileError, match=message):
        file_list.files_of(paths)


def test_messages_name_the_first_and_count_the_others():
    assert file_list.summary('a') == 'a' and file_list.summary([pathlib.Path('a')]) == 'a'
    assert file_list.summary(['a', 'b', 'c']) == 'a and 2 more'


def test_a_file_of_a_bucket_keeps_its_path_and_is_looked_at_when_it_is_read():
    found = file_list.files_of(['gs://some-bucket/deep/a.jsonl', 'gs://some-bucket/b.jsonl'])
    assert [str(path) for path in found] == ['gs://some-bucket/deep/a.jsonl', 'gs://some-bucket/b.jsonl'] and found[0].name == 'a.jsonl'
    with pytest.raises(errors.InputFileError, match='^gs://some-bucket/b.jsonl: named twice'):
        file_list.files_of(['gs://some-bucket/b.jsonl', 'gs://some-bucket/b.jsonl'])
