"""Published files to a folder of passages or examples: in processes, resumable, and the same bytes whatever the number of processes."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.datasets import duplicate_ids, piece_files
from atlas_jax.datasets.piece_files import Record
from atlas_jax.datasets.source import Piece, Source
from atlas_jax.io import atomic, checksum, compressed, lock, manifest, schema, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress

_STOP_SECONDS = 10.0  # for a piece to notice that it should stop: it looks every few hundred rows
BAD_FILE, _PLAN_FILE = 'bad.json', 'pieces/plan.json'
_INPUT = schema.Row((schema.LINE, schema.Integer(), schema.Integer()))
_FIELDS = schema.Record({
    'source': schema.LINE, 'makes': schema.LINE, 'options': schema.Table(schema.LINE, schema.LINE), 'inputs': schema.Array(_INPUT),
    'outputs': schema.Table(schema.FileName(), schema.Row((schema.Integer(), schema.Integer(), schema.SHA256))),
    'bad': schema.Integer(), 'rows': schema.Table(schema.LINE, schema.Integer())})
KIND = manifest.Kind('a converted data set', 'atlas_jax data', {1: _FIELDS}, 'atlas-jax data', errors.FolderExistsError)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A finished folder: the rows of each output, the parts that were left out, and whether an earlier run had finished it."""

    rows: dict[str, int]
    bad: int
    was_finished: bool


@dataclasses.dataclass(frozen=True)
class _Job:
    """The arguments that all pieces share."""

    folder: pathlib.Path
    is_passages: bool
    skip_bad: int


def convert(source: Source, files: Sequence[str | os.PathLike], out: str | os.PathLike, options: Mapping[str, Any] | None = None, *,
            max_passages: int | None = None, skip_bad: int = 0, workers: int | None = None, show_progress: bool = False) -> Converted:
    """Converts published files into the folder `out`: passages in parts, examples in a file for each split, and a manifest.

    All is written into `out`.partial beside it, which becomes `out` at the end. A killed conversion goes on when it is called again: pieces
    that are finished are kept if their input files, the options and their own bytes are unchanged. A finished folder made from the same
    files and options is left as it is.

    Args:
      source: what the files are.
      files: those of the publisher, as the source takes them.
      out: a new or empty folder on a disk.
      options: of the source; the others have their defaults.
      max_passages: passages to stop after, in the order of the files.
      skip_bad: bad parts of the input, and passages with an id that an earlier one has, that may be left out; they are listed in bad.json.
      workers: processes; by default as many as there are processors. The result does not depend on it.
      show_progress: shows a bar of bytes read.

    Raises:
      InputFileError: a file cannot be read, or more is bad in it than may be skipped.
      ConfigError: an unknown option, `max_passages` for examples, or a bucket.
      FolderExistsError: `out` holds something else, or another process is writing it.
      DiskFullError, StorageError.
    """
    if '://' in str(out):
        raise errors.ConfigError(f'{out}: conversions are written to a disk; give a folder there, and copy it')
    # A folder needs a name, for its unfinished one beside it.
    out = pathlib.Path(out) if pathlib.Path(out).name not in ('', '..') else pathlib.Path(out).resolve()
    chosen = {**source.options, **(options or {})}
    if unknown := sorted(chosen.keys() - source.options.keys()):
        raise errors.ConfigError(f'{source.name} has no option "{unknown[0]}"; it has: {", ".join(source.options) or "none"}')
    if max_passages is not None and source.makes != 'passages':
        raise errors.ConfigError(f'{source.name} makes examples: max_passages is for passages; leave it out')
    pieces = source.pieces([pathlib.Path(file) for file in files], chosen)
    plan = {'source': source.name, 'makes': source.makes, 'options': {name: json.dumps(value) for name, value in sorted(chosen.items())},
            'max_passages': max_passages}
    if found := _finished(out, plan, pieces):
        return found
    partial = out.with_name(f'{out.name}.partial')
    with lock.writing(Folder(partial), 'data set', errors.FolderExistsError):
        _begin(partial, {**plan, 'pieces': [[piece.key, *(file.name for file in piece.files)] for piece in pieces]})
        job = _Job(partial, source.makes == 'passages', skip_bad)
        records = _convert_all(pieces, job, max_passages, workers or os.cpu_count() or 1, show_progress)
        bad = [parts for record in records for parts in record.bad]
        if job.is_passages:
            bad += duplicate_ids.remove(pieces, records, partial, skip_bad - len(bad), skip_bad)
        outputs, rows = _publish(records, job)
        _write_bad(partial, bad)
        body = {**_body(plan, pieces), 'outputs': outputs, 'bad': len(bad), 'rows': rows}
        manifest.write(Folder(partial), KIND, body)
        os.rename(partial, out)  # over an empty folder, too
        _tidy(out)
    return Converted(rows, len(bad), False)


def _body(plan: dict[str, Any], pieces: Sequence[Piece]) -> dict[str, Any]:
    """Returns the part of the manifest that says what a folder is made from."""
    files = list(dict.fromkeys(file for piece in pieces for file in piece.files))
    options = plan['options'] | ({} if plan['max_passages'] is None else {'max_passages': str(plan['max_passages'])})
    return {'source': plan['source'], 'makes': plan['makes'], 'options': options, 'inputs': piece_files.inputs_of(files)}


def _finished(out: pathlib.Path, plan: dict[str, Any], pieces: Sequence[Piece]) -> Converted | None:
    """Returns what is in `out` if it was made from the same; None if it is new or empty. Raises FolderExistsError."""
    if out.exists() and not out.is_dir():
        raise errors.FolderExistsError(f'{out}: a file; give a folder')
    if not out.exists() or not any(out.iterdir()):
        return None
    found, asked = manifest.read(Folder(out), KIND, unfinished=_PLAN_FILE), _body(plan, pieces)
    names = {'source': 'another kind of file', 'makes': 'another kind of file', 'options': 'other options', 'inputs': 'other files, or '
             'they have changed since'}
    if other := [what for name, what in names.items() if found[name] != asked[name]]:
        raise errors.FolderExistsError(f'{out}: made from {other[0]}; give another folder, or remove this one')
    _tidy(out)
    return Converted(found['rows'], found['bad'], True)


def _begin(partial: pathlib.Path, plan: dict[str, Any]) -> None:
    """Makes sure that a folder is empty, or was begun for the same plan. Raises FolderExistsError."""
    try:
        begun = untrusted.read_json(partial / _PLAN_FILE)
    except (OSError, ValueError):
        begun = None
    # One that failed before its first piece was finished left nothing to keep.
    if begun is not None and begun != plan and not _has_pieces(partial):
        shutil.rmtree(partial / piece_files.FOLDER)
        begun = None
    if begun is not None and begun != plan:
        raise errors.FolderExistsError(f'{partial}: begun with other files or options; run that command again, or remove the folder')
    if begun is None:
        # Nothing of anybody else is mixed in.
        if others := sorted(path.name for path in partial.iterdir() if path.name not in (lock.FILE, piece_files.FOLDER)):
            raise errors.FolderExistsError(f'{partial}: holds "{others[0]}", which no conversion began; remove the folder')
        atomic.write_json(partial / _PLAN_FILE, plan)


def _has_pieces(partial: pathlib.Path) -> bool:
    return any(path.name != pathlib.Path(_PLAN_FILE).name for path in (partial / piece_files.FOLDER).glob('*.json'))


def _convert_all(pieces: Sequence[Piece], job: _Job, max_rows: int | None, workers: int, show_progress: bool) -> list[Record]:
    """Returns the records of the pieces in their order, up to the one that `max_rows` falls into."""
    kept: list[Record] = []
    files = sorted({file for piece in pieces for file in piece.files})
    with progress.bar(sum(size for _, size, _ in piece_files.inputs_of(files)), 'Converting', 'B', show=show_progress) as bar:
        bar.unit_scale = True  # bytes, in millions
        with _running(pieces, job, max_rows, workers, bar) as records:
            rows = bad = 0
            for number, record in enumerate(records):
                if max_rows is not None and rows + record.rows > max_rows:
                    # Read again with its own limit: then its rows and what is bad before them do not depend on what ran beside it.
                    record = _run(pieces[number], number, job, max_rows - rows, lambda: None)
                _check_bad(record.bad, job.skip_bad - bad, job.skip_bad)
                rows, bad = rows + record.rows, bad + len(record.bad)
                kept.append(record)
                bar.set_postfix(rows=f'{rows:,}', refresh=False)
                if rows == max_rows:
                    break
    for number in range(len(kept), len(pieces)):  # what was converted behind the limit
        for path in job.folder.glob(f'*-{number:05}.jsonl'):
            path.unlink()
    return kept


def _check_bad(bad: Sequence[Mapping[str, Any]], left: int, skip_bad: int) -> None:
    """Raises InputFileError: one more bad part than may be skipped."""
    if len(bad) > left:
        error = dict(bad[left])
        more = f'more than the {skip_bad} that --skip_bad allows' if skip_bad else '--skip_bad N leaves out up to N such parts'
        raise errors.InputFileError(**error | {'remedy': '; '.join(part for part in (error['remedy'], more) if part)})


@contextlib.contextmanager
def _running(pieces: Sequence[Piece], job: _Job, limit: int | None, workers: int, bar) -> Iterator[Iterator[Record]]:
    """Yields the records of all pieces in their order, as they are made; pieces still running at the end of the block are stopped.

    The wait for them ends: a worker that does not leave its piece within _STOP_SECONDS ends its process.
    """
    if min(workers, len(pieces)) <= 1:
        # In this process: a process for itself takes longer to start than a small file to convert.
        counter = _Counter(lambda count: bar.update(min(count, bar.total - bar.n)))
        yield (_run(piece, number, job, limit, counter.told) for number, piece in enumerate(pieces))
        return
    # Not forked: a fork of a process with threads may hang.
    context = multiprocessing.get_context('spawn')
    shared = _Shared(context.Value('q', 0), context.RawValue('b', 0), _STOP_SECONDS)
    executor = concurrent.futures.ProcessPoolExecutor(min(workers, len(pieces)), context, _start_worker, (shared,))
    try:
        futures = [executor.submit(_run_in_worker, piece, number, job, limit) for number, piece in enumerate(pieces)]
        yield (_result(future, shared, bar) for future in futures)
    finally:
        shared.stop.value = 1
        executor.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """Values that all processes hold: the bytes that they have read, whether they should stop, and within how many seconds.

    The first process takes no lock of theirs, which a killed worker would hold for ever.
    """

    read: Any
    stop: Any
    stop_seconds: float


_shared: _Shared | None = None


def _start_worker(shared: _Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes; the first one stops the others
    # A worker whose parent was killed would wait for work for ever, and the parent for a worker whose disk does not answer.
    threading.Thread(target=_end_in_time, args=(shared,), daemon=True).start()


def _end_in_time(shared: _Shared) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive() and not shared.stop.value:
        parent.join(0.5)
    parent.join(shared.stop_seconds)
    os._exit(1)


def _run_in_worker(piece: Piece, number: int, job: _Job, limit: int | None) -> Record:
    shared = _shared
    assert shared is not None

    def add(count: int) -> None:
        if shared.stop.value:
            raise piece_files.Stopped
        with shared.read.get_lock():
            shared.read.value += count

    return _run(piece, number, job, limit, _Counter(add).told)


def _run(piece: Piece, number: int, job: _Job, limit: int | None, told: Callable[[], None]) -> Record:
    record = piece_files.finished(piece, job.folder, number, job.is_passages, limit)
    if record is None:
        record = piece_files.convert(piece, job.folder, number, job.is_passages, limit, job.skip_bad, told)
    told()
    return record


class _Counter:
    """Passes on how many bytes were read since it last did."""

    def __init__(self, add: Callable[[int], object]):
        self._add, self._before = add, compressed.bytes_read()

    def told(self) -> None:
        """Passes on what was read."""
        now = compressed.bytes_read()
        self._add(now - self._before)
        self._before = now


def _result(future: concurrent.futures.Future, shared: _Shared, bar) -> Record:
    """Returns what a worker made, moving the bar while it waits: as long as its files are large. Raises StorageError: a worker was killed.
    """
    while True:
        concurrent.futures.wait([future], timeout=0.2)
        bar.update(max(0, min(shared.read.get_obj().value, bar.total) - bar.n))
        if future.done():
            try:
                return future.result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise errors.StorageError('a process of the conversion was killed, perhaps for its memory; run the same command again, '
                                          'with fewer --workers') from error


def _publish(records: Sequence[Record], job: _Job) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Returns ({file: [rows, bytes, SHA-256]}, {output: rows}) of the finished files; joins the pieces of examples."""
    outputs: dict[str, list[Any]] = {}
    rows: dict[str, int] = {}
    for output in sorted({output for record in records for output in record.outputs}):
        parts = [(number, record.outputs[output]) for number, record in enumerate(records) if output in record.outputs]
        rows[output] = sum(count for _, (count, _, _) in parts)
        files = [piece_files.output_file(job.folder, number, output, job.is_passages) for number, _ in parts]
        if job.is_passages:
            outputs |= {file.name: list(part) for file, (_, part) in zip(files, parts, strict=True)}
            continue
        joined = untrusted.inside(job.folder, f'{output}.jsonl')
        with atomic.writing(joined, 'wb') as target:
            for file in files:
                with open(file, 'rb') as part_file:
                    shutil.copyfileobj(part_file, target)
        outputs[joined.name] = [rows[output], joined.stat().st_size, checksum.sha256_file(joined)]
    return outputs, rows


def _write_bad(folder: pathlib.Path, bad: Sequence[Mapping[str, Any]]) -> None:
    """Lists what was left out. Not as JSON lines: `data passages` would take these for documents."""
    if bad:
        atomic.write_json(folder / BAD_FILE, [{**parts, 'error': str(errors.InputFileError(**parts))} for parts in bad])
    else:
        (folder / BAD_FILE).unlink(missing_ok=True)


def _tidy(out: pathlib.Path) -> None:
    # After the rename: a run that is killed before it still needs them.
    shutil.rmtree(out / piece_files.FOLDER, ignore_errors=True)
    (out / lock.FILE).unlink(missing_ok=True)
