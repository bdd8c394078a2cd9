"""FEVER: claims with a label, and the pages with their evidence."""

import pathlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.datasets.examples import records, releases
from atlas_jax.datasets.examples.records import Example, Record
from atlas_jax.datasets.source import Piece, Source
from atlas_jax.io import untrusted

LABELS = ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO')


def _claim(record: Record) -> Iterator[Example]:
    """Yields a claim; in a test file it has no label. Its gold docids are the ids of wiki-pages."""
    example: Example = {'id': record.identity('id'), 'claim': record.text('claim')}
    if 'label' in record.fields:
        example['label'] = record.text('label')
        if example['label'] not in LABELS:
            raise record.wrong('label', f'expected {", ".join(LABELS)}, found {untrusted.shown(example["label"])}')
        if pages := list(dict.fromkeys(_pages(record))):
            example['gold_docids'] = pages
    yield example


def _pages(record: Record) -> Iterator[str]:
    """Yields the pages of all sets of evidence. Raises InputFileError: these are no lists of [annotation, evidence, page, sentence]."""
    sets = record.fields.get('evidence') or []
    if not isinstance(sets, list) or not all(isinstance(part, list) for part in sets):
        raise record.wrong('evidence', f'expected a list of lists, found {untrusted.shown(sets)}')
    for number, sentence in enumerate(sentence for part in sets for sentence in part):
        if not isinstance(sentence, list) or len(sentence) != 4 or not (sentence[2] is None or records.is_text(sentence[2])):
            raise record.wrong('evidence', f'sentence {number}: expected [annotation, evidence, page, sentence]')
        # null where nothing was found. Pages and evidence write accents in two ways; one of them is taken for both.
        if sentence[2]:
            yield unicodedata.normalize('NFC', sentence[2])


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    return records.pieces(releases.check(files, 'fever'), _claim)


SOURCES = (
    Source('fever', 'examples', 'fever', 'train.jsonl, shared_task_dev.jsonl, shared_task_test.jsonl, paper_dev.jsonl, paper_test.jsonl',
           _pieces),
)
