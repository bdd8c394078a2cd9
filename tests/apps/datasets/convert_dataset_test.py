"""Conversion of published files: the same bytes for any number of workers, resumed after a kill, never mixed or half finished."""

import functools
import json
import os
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import convert_dataset
from atlas_jax.apps.datasets.source import OutputRow, Piece, Source
from atlas_jax.io import jsonl

READ: list[str] = []  # the pieces that were read in this process


def _rows(file: pathlib.Path, is_loud: bool):
    READ.append(file.name)
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if line == '?':
            yield errors.InputFileError(file, 'a question mark', line=number, remedy='remove it')
        elif line == '!':
            raise errors.InputFileError(file, 'the end', line=number)
        else:
            output, _, docid = line.rpartition(' ')
            yield OutputRow(output or 'passages', {'id': docid, 'text': docid.upper() if is_loud else docid})


def _pieces(files, options):
    return [Piece(f'{number}-{file.name}', (file,), functools.partial(_rows, file, options['loud']))
            for number, file in enumerate(files)]


PASSAGES = Source('lines', 'passages', '', 'files of lines', _pieces, {'loud': False})
EXAMPLES = Source('questions', 'examples', 'qa', 'files of lines', _pieces, {'loud': False})


@pytest.fixture
def files(tmp_path):
    """Three files of seven rows, two of them infoboxes, and one bad line."""
    READ.clear()
    paths = []
    for name, lines in (('a', 'a1 a2 i,a3'), ('b', 'b1 ? i,b2'), ('c', 'c1 c2')):
        paths.append(tmp_path / name)
        paths[-1].write_text('\n'.join('infobox ' + line[2:] if line[:2] == 'i,' else line for line in lines.split()) + '\n')
    return paths


def _tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def _ids(file):
    return [row['id'] for _, row in jsonl.read(file)]


def test_passages_come_in_parts_with_a_manifest_and_a_list_of_what_was_left_out(files, tmp_path):
    made = convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=1, workers=1)
    assert (made.rows, made.bad, made.was_finished) == ({'passages': 5, 'infobox': 2}, 1, False)
    names = ['bad.json', 'infobox-00000.jsonl', 'infobox-00001.jsonl', 'manifest.json',
             *(f'passages-0000{number}.jsonl' for number in range(3))]
    assert sorted(_tree(tmp_path / 'out')) == names and not (tmp_path / 'out.partial').exists()
    assert _ids(tmp_path / 'out/passages-00000.jsonl') == ['a1', 'a2']
    manifest = json.loads((tmp_path / 'out/manifest.json').read_text())
    assert manifest['outputs']['passages-00002.jsonl'][:2] == [2, (tmp_path / 'out/passages-00002.jsonl').stat().st_size]
    bad = json.loads((tmp_path / 'out/bad.json').read_text())
    assert [(row['line'], row['error']) for row in bad] == [(2, f'{files[1]}:2: a question mark; remove it')]


def test_examples_are_joined_in_the_order_of_the_files(files, tmp_path):
    convert_dataset.convert(EXAMPLES, files, tmp_path / 'out', skip_bad=1, workers=1)
    assert _ids(tmp_path / 'out/passages.jsonl') == ['a1', 'a2', 'b1', 'c1', 'c2']
    assert sorted(_tree(tmp_path / 'out')) == ['bad.json', 'infobox.jsonl', 'manifest.json', 'passages.jsonl']


def test_the_bytes_do_not_depend_on_the_workers(files, tmp_path):
    for workers in (1, 2):
        convert_dataset.convert(PASSAGES, files, tmp_path / f'{workers}', {'loud': True}, max_passages=6, skip_bad=1, workers=workers)
    assert _tree(tmp_path / '1') == _tree(tmp_path / '2')
    with pytest.raises(errors.InputFileError, match='b:2: a question mark; remove it; --skip_bad N leaves out'):  # from another process
        convert_dataset.convert(PASSAGES, files, tmp_path / '3', workers=2)
    assert not (tmp_path / '3').exists()


@pytest.mark.parametrize('limit, ids, bad', [(1, [['a1']], 0), (2, [['a1', 'a2']], 0), (4, [['a1', 'a2'], ['b1']], 0),
                                             (6, [['a1', 'a2'], ['b1'], ['c1']], 1), (99, [['a1', 'a2'], ['b1'], ['c1', 'c2']], 1)])
def test_max_passages_takes_the_first_of_all_files(files, tmp_path, limit, ids, bad):
    made = convert_dataset.convert(PASSAGES, files, tmp_path / 'out', max_passages=limit, skip_bad=1, workers=1)
    assert [_ids(file) for file in sorted((tmp_path / 'out').glob('passages-*'))] == ids
    assert sum(made.rows.values()) == min(limit, 7) and made.bad == bad


class Killed(BaseException):
    """Simulates the end of the process."""


def test_a_conversion_killed_at_any_change_of_the_disk_goes_on(files, tmp_path, monkeypatch):
    run = functools.partial(convert_dataset.convert, PASSAGES, files[:2], skip_bad=1, workers=1)
    run(tmp_path / 'whole')
    real = {'replace': os.replace, 'rename': os.rename}
    for kill_at in range(99):
        left, out = [kill_at], tmp_path / f'out{kill_at}'

        def fake(name, source, target, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            real[name](source, target)

        for name in real:
            monkeypatch.setattr(os, name, functools.partial(fake, name))
        try:
            run(out)
        except Killed:
            assert not out.exists(), 'a folder that is not finished looks as if it were'
            monkeypatch.undo()
            run(out)
        else:
            break
        finally:
            monkeypatch.undo()
        assert _tree(out) == _tree(tmp_path / 'whole')
    assert kill_at > 9


def test_finished_pieces_are_kept_and_changed_ones_are_not(files, tmp_path):
    whole = files[2].read_text()
    files[2].write_text(whole + '!\n')
    with pytest.raises(errors.InputFileError, match='c:3: the end'):
        convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=1, workers=1)
    files[2].write_text(whole)
    os.utime(files[0], (7, 7))  # may have changed
    part = tmp_path / 'out.partial/passages-00001.jsonl'
    part.write_bytes(part.read_bytes().replace(b'b1', b'x1'))  # the size stays the same
    READ.clear()
    convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=1, workers=1)
    assert READ == ['a', 'b', 'c'] and _ids(tmp_path / 'out/passages-00001.jsonl') == ['b1']
    READ.clear()
    assert convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=1).was_finished and not READ


def test_files_and_options_are_not_mixed(files, tmp_path):
    out, run = tmp_path / 'out', functools.partial(convert_dataset.convert, PASSAGES, skip_bad=1, workers=1)
    run(files, out)
    before = _tree(out)
    for arguments, options in [((files[:2], out), {}), ((files, out, {'loud': True}), {}), ((files, out), {'max_passages': 3})]:
        with pytest.raises(errors.FolderExistsError, match='out: made from other (files|options).*; give another folder'):
            run(*arguments, **options)
    os.utime(files[0], (7, 7))
    with pytest.raises(errors.FolderExistsError, match='they have changed since'):
        run(files, out)
    assert _tree(out) == before
    # A folder that was begun with other files is refused.
    files[2].write_text('!\n')
    with pytest.raises(errors.InputFileError):
        run(files, tmp_path / 'new')
    with pytest.raises(errors.FolderExistsError, match='new.partial: begun with other files or options'):
        run(files[:1], tmp_path / 'new')
    # A failed first piece left nothing that could be mixed.
    with pytest.raises(errors.InputFileError):
        run(files[2:], tmp_path / 'failed')
    assert run(files[:1], tmp_path / 'failed').rows == {'passages': 2, 'infobox': 1}


def test_folders_of_others_are_left_alone(files, tmp_path):
    for name, is_file in (('mine', False), ('file', True), ('other.partial', False)):
        if is_file:
            (tmp_path / name).write_text('x')
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / 'note').write_text('x')
        with pytest.raises(errors.FolderExistsError, match=name):
            convert_dataset.convert(PASSAGES, files, tmp_path / name.removesuffix('.partial'), skip_bad=1)
    assert (tmp_path / 'mine/note').read_text() == 'x' == (tmp_path / 'other.partial/note').read_text()
    (tmp_path / 'empty').mkdir()
    assert convert_dataset.convert(PASSAGES, files, tmp_path / 'empty', skip_bad=1, workers=1).rows['passages'] == 5


def test_the_first_bad_part_ends_it_unless_it_may_be_skipped(files, tmp_path):
    files[0].write_text('?\n?\n')
    for skip_bad, message in ((0, 'a:1: a question mark; remove it; --skip_bad N leaves out'),
                              (1, 'a:2: a question mark; remove it; more than the 1 that --skip_bad allows'),
                              (2, 'b:2: a question mark; remove it; more than the 2')):
        with pytest.raises(errors.InputFileError, match=message):
            convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=skip_bad, workers=1)
        assert not (tmp_path / 'out').exists()
    assert convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=3, workers=1).bad == 3


def test_options_are_checked(files, tmp_path):
    with pytest.raises(errors.ConfigError, match='lines has no option "x"; it has: loud'):
        convert_dataset.convert(PASSAGES, files, tmp_path / 'out', {'x': 1})
    with pytest.raises(errors.ConfigError, match='gs://b/c: conversions are written to a disk'):
        convert_dataset.convert(PASSAGES, files, 'gs://b/c')
    with pytest.raises(errors.ConfigError, match='questions makes examples'):
        convert_dataset.convert(EXAMPLES, files, tmp_path / 'out', max_passages=1)
    with pytest.raises(errors.InputFileError, match='z: no such file'):
        convert_dataset.convert(PASSAGES, [tmp_path / 'z'], tmp_path / 'out')
