"""Sources of examples whose files hold one record after another, each turned into its examples."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import piece_files, records
from atlas_jax.apps.datasets.examples import releases, split_lists
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.runtime import notes

Example = dict[str, Any]
ExamplesOf = Callable[..., Iterable[Example]]


def example_source(name: str, task: str, files: str, examples_of: ExamplesOf,
                   options: Mapping[str, Any] | None = None, *, release: str = '',
                   counted: str = '', with_lists: bool = False,
                   piece_per_file: bool = False) -> Source:
    """Returns a source of examples.

    Args:
      name, task, files, options: See Source.
      examples_of: `examples_of(record, **options)` returns the examples of a record, none if it is
        left out. Raises InputFileError.
      release: The command in `releases.RELEASES` whose files it reads; by default `name`.
      counted: Why records are left out, for a line on stderr that counts them; '' prints none.
      with_lists: Allows lists of the examples of a split among the files.
      piece_per_file: Makes a piece of each file, for releases of many large files; otherwise the
        files of one split are one piece, and an id may not occur twice in them.
    """
    pieces = functools.partial(_pieces, release or name, examples_of, counted, with_lists,
                               piece_per_file)
    return Source(name, 'examples', task, files, pieces, options or {})


def _pieces(release: str, examples_of: ExamplesOf, counted: str, with_lists: bool,
            piece_per_file: bool, files: Sequence[pathlib.Path],
            options: Mapping[str, Any]) -> list[Piece]:
    examples_of = functools.partial(examples_of, **options)
    lists = [path for path in files if with_lists and split_lists.is_list(path)]
    published = releases.check([path for path in files if path not in lists], release)
    if lists:
        return split_lists.pieces(lists, published, examples_of)
    outputs: dict[tuple[str, int], list[tuple[pathlib.Path, str]]] = {}
    for number, (output, path, form) in enumerate(published):
        outputs.setdefault((output, number if piece_per_file else 0), []).append((path, form))
    return [
        Piece(f'{number:04}', tuple(path for path, _ in parts),
              functools.partial(convert_records, parts, output, examples_of, counted))
        for number, ((output, _), parts) in enumerate(outputs.items())]


def convert_records(files: Sequence[tuple[pathlib.Path, str]], output: str,
                    examples_of: Callable[[PublishedRecord], Iterable[Example]],
                    counted: str = '') -> Iterator[RowOrError]:
    """Yields the examples of the files of one output. An example with the id of an earlier one is
    bad.

    Args:
      files: (path, form) of each file, as for `records.read`.
      output: The file that the examples go to.
      examples_of: Returns the examples of a record, none if it is left out. Raises InputFileError.
      counted: Why records are left out, for a line on stderr that counts them; '' prints none.
    """
    seen: set[int] = set()  # hashes: two million ids take 150 MB

    def new_examples(record: PublishedRecord) -> list[Example]:
        examples = list(examples_of(record))
        for identity in (example['id'] for example in examples if 'id' in example):
            if (key := piece_files.hash_of(identity)) in seen:
                raise record.wrong('id', f'"{identity}" was the id of an earlier example',
                                   'give each file once')
            seen.add(key)
        return examples

    for path, form in files:
        total = left_out = 0
        for record in records.read(path, form):
            total += 1
            examples = records.attempt(record, new_examples)
            if isinstance(examples, errors.InputFileError):
                yield examples
                continue
            left_out += not examples
            yield from (OutputRow(output, example) for example in examples)
        if counted and left_out:
            notes.say(f'{path.name}: {left_out:,} of {total:,} {counted}')
