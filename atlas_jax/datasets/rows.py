"""Rows of examples and passages as they stand in several files: read once in order, with their places and what they ask."""

import dataclasses
import functools
import pathlib
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import UNSPACED
from atlas_jax.io import compressed, file_list, jsonl
from atlas_jax.runtime import progress

# The field with what is asked, of every task; texts to learn from have the last one alone.
ASKED = ('question', 'claim', 'input', 'query', 'text')


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of a file.

    Attributes:
      file: where it stands.
      line: from 1.
      row: its number from 0, counted through all files that were read together.
      fields: of our JSON lines, whatever names the file has for them.
    """

    file: pathlib.Path
    line: int
    row: int
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """The file and line as messages name them."""
        return f'{self.file}:{self.line}'

    @property
    def docid(self) -> str | None:
        """The row's own id as text; None if it has none."""
        value = self.fields.get('id')
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != '' else None

    @property
    def asked(self) -> str:
        """The question, claim or text, and the options of a multiple choice. Raises InputFileError: the row has none of these."""
        text = next((self.fields[name] for name in ASKED if isinstance(self.fields.get(name), str) and self.fields[name].strip()), None)
        if text is None:
            found = ', '.join(sorted(self.fields))[:200] or 'none'
            raise errors.InputFileError(self.file, 'missing', line=self.line, field=ASKED[0],
                                        remedy=f'a row needs one of {", ".join(ASKED)}; fields found: {found}')
        options = self.fields.get('options')
        # Many questions of an exam are alike but for their options.
        texts = options.values() if isinstance(options, dict) else options if isinstance(options, list) else [options]
        return ' '.join([text, *(each for each in texts if isinstance(each, str))])

    @property
    def texts(self) -> list[str]:
        """All that a model reads of the row: what is asked, a text, and passages of its own. Raises InputFileError: as `asked`."""
        own = self.fields.get('passages') or self.fields.get('ctxs')
        passages = [each.get('text') for each in own if isinstance(each, dict)] if isinstance(own, list) else []
        found = [self.asked, *(text for text in (self.fields.get('text'), *passages) if isinstance(text, str))]
        # What is asked of a row of text is this text.
        return list(dict.fromkeys(found))


def read(paths: file_list.Paths, label: str = '') -> Iterator[Line]:
    """Yields the rows of files, folders and patterns; with a `label`, under a progress bar of bytes.

    Raises InputFileError: no such file, or a line that is no JSON object.
    """
    files, row = file_list.files_of(paths), 0
    with progress.bar(sum(file.stat().st_size for file in files), label, 'B', show=bool(label)) as bar:
        before = compressed.bytes_read()
        for file in files:
            for line, fields in jsonl.read(file):
                yield Line(file, line, row, documents.in_our_fields(fields))
                row += 1
                # Compressed or not, the bar counts what lies on the disk.
                bar.update(compressed.bytes_read() - before)
                before = compressed.bytes_read()


def words(text: str) -> list[str]:
    """Returns the normalised words: letters and digits in small letters, without punctuation; a Chinese or Japanese character is one."""
    return _word().findall(unicodedata.normalize('NFKC', text).casefold())


def normalised(text: str) -> str:
    """Returns the normalised words with a blank between them."""
    return ' '.join(words(text))


@functools.cache
def _word() -> re.Pattern[str]:
    # Vowel signs, as Hindi has them, are no letters to Python: its \w would cut words in two.
    marks = ''.join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith('M'))
    return re.compile(f'[{UNSPACED}]|(?:[^\\W{UNSPACED}]|[{marks}])+')
