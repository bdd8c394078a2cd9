"""Converts all pieces of a data set in a pool of processes, and returns their records in order."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import piece_files
from atlas_jax.apps.datasets.piece_files import ConvertedPiece
from atlas_jax.apps.datasets.source import Piece, RowOrError
from atlas_jax.io import compressed
from atlas_jax.runtime import progress

_REPORT_ROWS = 256
_worker: tuple[Any, Any] | None = None  # a worker's counter of bytes and its stop flag


@dataclasses.dataclass(frozen=True)
class PieceJob:
    """The arguments that all pieces share; see `piece_files.convert`."""

    folder: pathlib.Path
    is_passages: bool
    skip_bad: int


class Stopped(Exception):
    """Ends a piece whose result is no longer needed."""


def convert_all(pieces: Sequence[Piece], job: PieceJob, max_rows: int | None, workers: int,
                show_progress: bool) -> list[ConvertedPiece]:
    """Returns the records of the pieces in their order, up to the one that reaches `max_rows`.

    Raises InputFileError: more is bad than may be skipped. StorageError: a process was killed.
    """
    kept: list[ConvertedPiece] = []
    files = sorted({file for piece in pieces for file in piece.files})
    size = sum(size for _, size, _ in piece_files.inputs_of(files))
    with progress.bar(size, 'Converting', 'B', show=show_progress) as bar, \
            contextlib.closing(_records(pieces, job, max_rows, workers, bar)) as records:
        bar.unit_scale = True  # shows megabytes
        rows = bad = 0
        for number, record in enumerate(records):
            if max_rows is not None and rows + record.rows > max_rows:
                # Converted again with the rows that are left, so that its rows, and the bad parts
                # before them, do not depend on the number of processes.
                record = _convert(pieces[number], number, job, max_rows - rows, lambda count: None)
            piece_files.check_bad(record.bad, job.skip_bad - bad, job.skip_bad)
            rows, bad = rows + record.rows, bad + len(record.bad)
            kept.append(record)
            bar.set_postfix(rows=f'{rows:,}', refresh=False)
            if rows == max_rows:
                break
    for number in range(len(kept), len(pieces)):  # pieces converted beyond the limit
        for path in job.folder.glob(f'*-{number:05}.jsonl'):
            path.unlink()
    return kept


def _records(pieces: Sequence[Piece], job: PieceJob, limit: int | None, workers: int,
             bar: Any) -> Generator[ConvertedPiece, None, None]:
    """Yields the records of all pieces in their order; closing it stops pieces still running."""
    def moved(count: int) -> None:
        bar.update(min(count, bar.total - bar.n))

    if min(workers, len(pieces)) <= 1:
        # In this process, since another one takes longer to start than a small file to convert.
        for number, piece in enumerate(pieces):
            yield _convert(piece, number, job, limit, moved)
        return
    # Spawned, not forked, since a fork of a process with threads may hang.
    context = multiprocessing.get_context('spawn')
    read, stop = context.Value('q', 0), context.Event()
    executor = concurrent.futures.ProcessPoolExecutor(min(workers, len(pieces)), context,
                                                      _start_worker, (read, stop))
    try:
        futures = [
            executor.submit(_convert_in_worker, piece, number, job, limit)
            for number, piece in enumerate(pieces)]
        for future in futures:
            while not future.done():
                concurrent.futures.wait([future], timeout=0.2)
                moved(max(0, read.value - bar.n))
            yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise errors.StorageError('a process of the conversion was killed, perhaps because memory '
                                  'ran out; run the same command again, with fewer '
                                  '--workers') from error
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _start_worker(read: Any, stop: Any) -> None:
    global _worker
    _worker = read, stop
    # The terminal sends Ctrl-C to all processes; the first one stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _convert_in_worker(piece: Piece, number: int, job: PieceJob,
                       limit: int | None) -> ConvertedPiece:
    assert _worker is not None
    read, stop = _worker

    def moved(count: int) -> None:
        if stop.is_set():
            raise Stopped
        with read.get_lock():
            read.value += count

    return _convert(piece, number, job, limit, moved)


def _convert(piece: Piece, number: int, job: PieceJob, limit: int | None,
             moved: Callable[[int], None]) -> ConvertedPiece:
    """Returns a piece's record: an earlier run's if it is still good, otherwise a new one."""
    if record := piece_files.finished(piece, job.folder, number, job.is_passages, limit):
        return record
    counted = dataclasses.replace(piece, read=functools.partial(_counted, piece, moved))
    return piece_files.convert(counted, job.folder, number, job.is_passages, limit, job.skip_bad)


def _counted(piece: Piece, moved: Callable[[int], None]) -> Iterator[RowOrError]:
    """Yields a piece's rows, and passes `moved` the bytes read from disk since its last call."""
    before = compressed.bytes_read()
    for number, row in enumerate(piece.read()):
        yield row
        # Also after many rows: some formats are not read through io/compressed, and `moved` stops
        # a piece that is no longer needed.
        if (now := compressed.bytes_read()) != before or number % _REPORT_ROWS == 0:
            moved(now - before)
            before = now
