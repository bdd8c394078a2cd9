"""Finds passages with the same docid across all pieces, and removes the later ones if allowed.

Each docid is compared by a hash of eight bytes.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax.apps.datasets import piece_files
from atlas_jax.apps.datasets.piece_files import ConvertedPiece, OutputFile
from atlas_jax.apps.datasets.source import Piece
from atlas_jax.io import atomic, untrusted

# Repeated hashes examined beyond the number that may be skipped: two docids may share a hash.
_SPARE = 1000


def remove(pieces: Sequence[Piece], records: Sequence[ConvertedPiece], folder: pathlib.Path,
           left: int, skip_bad: int) -> list[dict[str, Any]]:
    """Removes passages with the docid of an earlier passage from the files in `folder`, and
    corrects the rows and checksums in the records.

    Memory: nine bytes a passage.

    Returns the parts of an InputFileError for each removed passage.

    Raises InputFileError: there are more than `left` of them; the message names both places.
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
                found.append({
                    'path': str(pieces[number].files[0]), 'line': None, 'field': 'id', 'remedy': '',
                    'problem': f'"{docid[:200]}" is the id of two passages '
                               f'({first[docid]} and {place})'})
                piece_files.check_bad(found, left, skip_bad)
            if dropped:
                record.outputs[output] = _without(file, dropped)
    return found


def _repeated(records: Sequence[ConvertedPiece], folder: pathlib.Path) -> np.ndarray:
    """Returns the hashes that occur twice or more, [n] uint64, in ascending order."""
    hashes = np.empty(sum(record.rows for record in records), np.uint64)
    start = 0
    for number, record in enumerate(records):
        hashes[start:start + record.rows] = np.fromfile(piece_files.ids_file(folder, number),
                                                        np.uint64)
        start += record.rows
    hashes.sort()  # in place
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _docids(file: pathlib.Path, suspects: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yields (line, docid) of the passages whose hash is in `suspects`, [n] uint64."""
    known = set(suspects.tolist())
    with open(file, 'rb') as lines:
        for number, line in enumerate(lines, start=1):
            docid = untrusted.parse_json(line)['id']
            if piece_files.hash_of(docid) in known:
                yield number, docid


def _without(file: pathlib.Path, dropped: set[int]) -> list[Any]:
    """Rewrites a file without some lines. Returns its [rows, bytes, SHA-256]."""
    with open(file, 'rb') as lines, atomic.writing(file, 'wb') as target:
        kept = OutputFile(target)
        for number, line in enumerate(lines, start=1):
            if number not in dropped:
                kept.write(line)
    return kept.record()
