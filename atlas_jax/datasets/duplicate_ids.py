"""Docids that several passages have: found over all pieces by eight bytes each, and removed if that was asked for."""

import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.datasets import piece_files
from atlas_jax.datasets.piece_files import Record
from atlas_jax.datasets.source import Piece
from atlas_jax.io import atomic, untrusted

_SPARE = 1000  # hashes looked at beyond those that may be skipped: two docids may share one


def remove(pieces: Sequence[Piece], records: Sequence[Record], folder: pathlib.Path, left: int, skip_bad: int) -> list[dict[str, Any]]:
    """Removes passages with a docid of an earlier passage from the parts in `folder`, and corrects the records' rows and checksums.

    Needs nine bytes of memory a passage, and nothing else that grows with their number.

    Returns the parts of an InputFileError for each that was removed.

    Raises InputFileError: there are more than `left`; the message names both places.
    """
    suspects = _repeated(records, folder)[:max(0, left) + _SPARE]
    if not len(suspects):
        return []
    first: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        hashes = np.fromfile(piece_files.ids_file(folder, number), np.uint64)
        if not np.isin(hashes, suspects).any():
            continue
        for output in sorted(record.outputs):
            file, dropped = piece_files.output_file(folder, number, output, True), set()
            for line, docid in _docids(file, suspects):
                place = f'{file}:{line}'
                if first.setdefault(docid, place) == place:
                    continue
                dropped.add(line)
                found.append({'path': str(pieces[number].files[0]), 'line': None, 'field': 'id', 'remedy': '',
                              'problem': f'"{docid[:200]}" is the id of two passages ({first[docid]} and {place})'})
                if len(found) > left:
                    more = f'more than the {skip_bad} that --skip_bad allows' if skip_bad else '--skip_bad N leaves out up to N of them'
                    raise errors.InputFileError(**found[-1] | {'remedy': more})
            if dropped:
                record.outputs[output] = _without(file, dropped)
    return found


def _repeated(records: Sequence[Record], folder: pathlib.Path) -> np.ndarray:
    """Returns [repeated hashes] in ascending order."""
    hashes = np.empty(sum(record.rows for record in records), np.uint64)
    start = 0
    for number, record in enumerate(records):
        hashes[start:start + record.rows] = np.fromfile(piece_files.ids_file(folder, number), np.uint64)
        start += record.rows
    hashes.sort()  # in place
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _docids(file: pathlib.Path, suspects: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yields (line, docid) of the passages whose hash is one of the suspects [n], in ascending order."""
    known = set(suspects.tolist())
    with open(file, 'rb') as lines:
        for number, line in enumerate(lines, start=1):
            docid = untrusted.parse_json(line)['id']
            if piece_files.hash_of(docid) in known:
                yield number, docid


def _without(file: pathlib.Path, dropped: set[int]) -> list[Any]:
    """Writes a part anew without some lines; returns its [rows, bytes, SHA-256]."""
    digest, rows, size = hashlib.sha256(), 0, 0
    with open(file, 'rb') as lines, atomic.writing(file, 'wb') as target:
        for number, line in enumerate(lines, start=1):
            if number not in dropped:
                target.write(line)
                digest.update(line)
                rows, size = rows + 1, size + len(line)
    return [rows, size, digest.hexdigest()]
