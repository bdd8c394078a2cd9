"""Converts published files into a folder of passages or examples.

The work is spread over processes and can be resumed. The result has the same bytes whatever the
number of processes.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import duplicate_ids, piece_files, piece_pool
from atlas_jax.apps.datasets.piece_files import ConvertedPiece
from atlas_jax.apps.datasets.source import Piece, Source
from atlas_jax.io import atomic, checksum, lock, schema, untrusted, versioned_folder
from atlas_jax.io.folder import Folder

BAD_FILE, _PLAN_FILE = 'bad.json', 'pieces/plan.json'
_INPUT = schema.TupleOf((schema.LINE, schema.Integer(), schema.Integer()))
_FIELDS = schema.ObjectOf({
    'source': schema.LINE, 'makes': schema.LINE, 'options': schema.Table(schema.LINE, schema.LINE),
    'inputs': schema.Array(_INPUT),
    'outputs': schema.Table(schema.FileName(),
                            schema.TupleOf((schema.Integer(), schema.Integer(), schema.SHA256))),
    'bad': schema.Integer(), 'rows': schema.Table(schema.LINE, schema.Integer())})
KIND = versioned_folder.FolderKind[dict[str, Any]](
    'a converted data set', _FIELDS, errors.FolderExistsError, 'atlas-jax data', 'atlas_jax data',
    unfinished=_PLAN_FILE)
# What may differ between a finished folder and a new call, as messages name it.
_DIFFERENCES = {'source': 'another kind of file', 'makes': 'another kind of file',
                'options': 'other options', 'inputs': 'other files, or they have changed since'}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A finished folder.

    Attributes:
      rows: The number of rows of each output.
      bad: The number of bad parts that were left out.
      was_finished: An earlier run had finished it.
    """

    rows: dict[str, int]
    bad: int
    was_finished: bool


def convert(source: Source, files: Sequence[str | os.PathLike], out: str | os.PathLike,
            options: Mapping[str, Any] | None = None, *, max_passages: int | None = None,
            skip_bad: int = 0, workers: int | None = None,
            show_progress: bool = False) -> Converted:
    """Converts published files into the folder `out`: numbered files of passages, or one file of
    examples for each split, and a manifest.

    Files are written into `out`.partial, which becomes `out` at the end. To resume a killed
    conversion, call it again: finished pieces are reused if their input files, the options and
    their own bytes are unchanged. A finished folder made from the same files and options is left
    as it is.

    Args:
      source: The data set.
      files: The publisher's files.
      out: A new or empty folder on a local disk.
      options: Options of the source; missing ones have their defaults.
      max_passages: Number of passages to stop after, in the order of the files.
      skip_bad: Number of bad parts that may be left out, passages with a repeated id among them.
        They are listed in bad.json.
      workers: Number of processes; by default one for each processor. The result does not depend
        on it.
      show_progress: Shows a bar of the bytes read.

    Raises:
      InputFileError: A file cannot be read, or has more bad parts than may be skipped.
      ConfigError: An option is unknown, `max_passages` is given for examples, or `out` is a bucket.
      FolderExistsError: `out` holds something else, or another process is writing it.
      DiskFullError, StorageError.
    """
    out, chosen = _folder(out), _options_of(source, options or {}, max_passages)
    pieces = source.pieces([pathlib.Path(file) for file in files], chosen)
    plan = {
        'source': source.name, 'makes': source.makes,
        'options': {name: json.dumps(value) for name, value in sorted(chosen.items())},
        'max_passages': max_passages}
    if found := _finished(out, plan, pieces):
        return found
    partial = out.with_name(f'{out.name}.partial')
    with lock.writing(Folder(partial), 'data set', errors.FolderExistsError):
        _begin(partial, plan, pieces)
        job = piece_pool.PieceJob(partial, source.makes == 'passages', skip_bad)
        records = piece_pool.convert_all(pieces, job, max_passages,
                                         workers or os.cpu_count() or 1, show_progress)
        bad = [parts for record in records for parts in record.bad]
        if job.is_passages:
            bad += duplicate_ids.remove(pieces, records, partial, skip_bad - len(bad), skip_bad)
        outputs, rows = _publish(records, job)
        _write_bad(partial, bad)
        KIND.write(Folder(partial), {
            **_made_from(plan, pieces), 'outputs': outputs, 'bad': len(bad), 'rows': rows})
        os.rename(partial, out)  # also replaces an empty folder
        _tidy(out)
    return Converted(rows, len(bad), False)


def _folder(out: str | os.PathLike) -> pathlib.Path:
    if '://' in str(out):
        raise errors.ConfigError(f'{out}: conversions are written to a disk; give a folder there, '
                                 'and copy it')
    path = pathlib.Path(out)
    # '.' and '..' have no name from which the .partial folder could take its own.
    return path if path.name not in ('', '..') else path.resolve()


def _options_of(source: Source, options: Mapping[str, Any],
                max_passages: int | None) -> dict[str, Any]:
    """Returns all options of the source. Raises ConfigError."""
    if unknown := sorted(options.keys() - source.options.keys()):
        raise errors.ConfigError(f'{source.name} has no option "{unknown[0]}"; it has: '
                                 f'{", ".join(source.options) or "none"}')
    if max_passages is not None and source.makes != 'passages':
        raise errors.ConfigError(f'{source.name} makes examples: max_passages is for passages; '
                                 'leave it out')
    return {**source.options, **options}


def _made_from(plan: dict[str, Any], pieces: Sequence[Piece]) -> dict[str, Any]:
    """Returns the fields of the manifest that say what a folder is made from."""
    files = list(dict.fromkeys(file for piece in pieces for file in piece.files))
    options = dict(plan['options'])
    if plan['max_passages'] is not None:
        options['max_passages'] = str(plan['max_passages'])
    return {'source': plan['source'], 'makes': plan['makes'], 'options': options,
            'inputs': piece_files.inputs_of(files)}


def _finished(out: pathlib.Path, plan: dict[str, Any], pieces: Sequence[Piece]) -> Converted | None:
    """Returns the content of `out`, or None if it is new or empty.

    Raises FolderExistsError: it is made from something else.
    """
    if out.exists() and not out.is_dir():
        raise errors.FolderExistsError(f'{out}: a file; give a folder')
    if not out.exists() or not any(out.iterdir()):
        return None
    found = KIND.read(Folder(out))
    wanted = _made_from(plan, pieces)
    if other := [what for name, what in _DIFFERENCES.items() if found[name] != wanted[name]]:
        raise errors.FolderExistsError(f'{out}: made from {other[0]}; give another folder, or '
                                       'remove this one')
    _tidy(out)
    return Converted(found['rows'], found['bad'], True)


def _begin(partial: pathlib.Path, plan: dict[str, Any], pieces: Sequence[Piece]) -> None:
    """Writes the plan into an empty folder, or checks that the folder was begun with the same plan.

    Raises FolderExistsError: it was begun with another plan, or holds other files.
    """
    plan = {**plan, 'pieces': [[piece.key, *(file.name for file in piece.files)]
                               for piece in pieces]}
    try:
        begun = untrusted.read_json(partial / _PLAN_FILE)
    except (OSError, ValueError):
        begun = None
    if begun == plan:
        return
    records = [path for path in (partial / piece_files.FOLDER).glob('*.json')
               if path != partial / _PLAN_FILE]
    if begun is not None and records:
        raise errors.FolderExistsError(f'{partial}: begun with other files or options; run that '
                                       'command again, or remove the folder')
    # A run that failed before its first piece was finished left nothing to keep.
    shutil.rmtree(partial / piece_files.FOLDER, ignore_errors=True)
    if others := sorted(path.name for path in partial.iterdir() if path.name != lock.FILE):
        raise errors.FolderExistsError(f'{partial}: holds "{others[0]}", which no conversion '
                                       'began; remove the folder')
    atomic.write_json(partial / _PLAN_FILE, plan)


def _publish(records: Sequence[ConvertedPiece], job: piece_pool.PieceJob
             ) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Joins the pieces of examples into one file for each output.

    Returns ({file: [rows, bytes, SHA-256]}, {output: rows}) of the finished files.
    """
    outputs: dict[str, list[Any]] = {}
    rows: dict[str, int] = {}
    for output in sorted({output for record in records for output in record.outputs}):
        parts = {
            piece_files.output_file(job.folder, number, output, job.is_passages):
            record.outputs[output]
            for number, record in enumerate(records)
            if output in record.outputs}
        rows[output] = sum(count for count, _, _ in parts.values())
        if job.is_passages:
            outputs |= {file.name: list(part) for file, part in parts.items()}
            continue
        joined = untrusted.inside(job.folder, f'{output}.jsonl')
        with atomic.writing(joined, 'wb') as target:
            for file in parts:
                with open(file, 'rb') as part_file:
                    shutil.copyfileobj(part_file, target)
        outputs[joined.name] = [rows[output], joined.stat().st_size, checksum.sha256_file(joined)]
    return outputs, rows


def _write_bad(folder: pathlib.Path, bad: Sequence[Mapping[str, Any]]) -> None:
    """Lists the bad parts that were left out.

    Not as JSON lines: `data passages` would read those as documents.
    """
    if bad:
        atomic.write_json(
            folder / BAD_FILE,
            [{**parts, 'error': str(errors.InputFileError(**parts))} for parts in bad])
    else:
        (folder / BAD_FILE).unlink(missing_ok=True)


def _tidy(out: pathlib.Path) -> None:
    # Only after the rename: a run that is killed before it still needs these files.
    shutil.rmtree(out / piece_files.FOLDER, ignore_errors=True)
    (out / lock.FILE).unlink(missing_ok=True)
