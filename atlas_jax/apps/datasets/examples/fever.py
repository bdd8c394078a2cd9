"""FEVER: claims with a label, and the pages with their evidence."""

import unicodedata
from collections.abc import Iterator

from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples.example_source import Example, example_source
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.io import untrusted

LABELS = ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO')


def _claim(record: PublishedRecord) -> Iterator[Example]:
    """Yields a claim; those of a test file have no label. Its gold docids are ids of wiki-pages."""
    example: Example = {'id': record.identity('id'), 'claim': record.text('claim')}
    if 'label' in record.fields:
        example['label'] = record.text('label')
        if example['label'] not in LABELS:
            raise record.wrong('label', f'expected {", ".join(LABELS)}, found '
                                        f'{untrusted.shown(example["label"])}')
        if pages := list(dict.fromkeys(_pages(record))):
            example['gold_docids'] = pages
    yield example


def _pages(record: PublishedRecord) -> Iterator[str]:
    """Yields the pages in all sets of evidence.

    Raises InputFileError: these are not lists of [annotation, evidence, page, sentence].
    """
    sets = record.fields.get('evidence') or []
    if not isinstance(sets, list) or not all(isinstance(part, list) for part in sets):
        raise record.wrong('evidence', f'expected a list of lists, found {untrusted.shown(sets)}')
    for number, sentence in enumerate(sentence for part in sets for sentence in part):
        if not isinstance(sentence, list) or len(sentence) != 4 or not (
                sentence[2] is None or records.is_text(sentence[2])):
            raise record.wrong('evidence', f'sentence {number}: expected [annotation, evidence, '
                                           'page, sentence]')
        # The page is null if nothing was found. Pages and evidence compose accents differently;
        # NFC makes them equal.
        if sentence[2]:
            yield unicodedata.normalize('NFC', sentence[2])


SOURCES = (example_source(
    'fever', 'fever', 'train.jsonl, shared_task_dev.jsonl, shared_task_test.jsonl, '
    'paper_dev.jsonl, paper_test.jsonl', _claim),)
