"""Reads rows of examples and passages from several files, once and in order, with their places."""

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

# Each task's field with its question, claim or input. Texts to learn from have only the last one.
ASKED = ('question', 'claim', 'input', 'query', 'text')


@dataclasses.dataclass(frozen=True)
class FileRow:
    """One row of a file.

    Attributes:
      file: The file.
      line: The line in the file, from 1.
      row: The row's number, from 0, counted through all files that were read together.
      fields: The fields, renamed to our names.
    """

    file: pathlib.Path
    line: int
    row: int
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """The file and line, as messages name them."""
        return f'{self.file}:{self.line}'

    @property
    def docid(self) -> str | None:
        """The row's own id as text; None if it has none."""
        value = self.fields.get('id')
        has_id = isinstance(value, str | int) and not isinstance(value, bool) and value != ''
        return str(value) if has_id else None

    @property
    def asked(self) -> str:
        """The question, claim or text, and the options of a multiple choice.

        Raises InputFileError: the row has none of these.
        """
        text = next((self.fields[name]
                     for name in ASKED
                     if isinstance(self.fields.get(name), str) and self.fields[name].strip()), None)
        if text is None:
            found = ', '.join(sorted(self.fields))[:200] or 'none'
            raise errors.InputFileError(self.file, 'missing', line=self.line, field=ASKED[0],
                                        remedy=f'a row needs one of {", ".join(ASKED)}; fields '
                                               f'found: {found}')
        options = self.fields.get('options')
        # Many exam questions differ only in their options.
        texts = (options.values() if isinstance(options, dict) else
                 options if isinstance(options, list) else [options])
        return ' '.join([text, *(each for each in texts if isinstance(each, str))])

    @property
    def texts(self) -> list[str]:
        """All texts of the row that a model reads: `asked`, a text, and the row's own passages.

        Raises InputFileError: the same errors as `asked`.
        """
        own = self.fields.get('passages') or self.fields.get('ctxs')
        own = own if isinstance(own, list) else []
        passages = [passage.get('text') for passage in own if isinstance(passage, dict)]
        texts = [text for text in (self.fields.get('text'), *passages) if isinstance(text, str)]
        # Each once: `asked` may be the text itself.
        return list(dict.fromkeys([self.asked, *texts]))


def read(paths: file_list.Paths, label: str = '') -> Iterator[FileRow]:
    """Yields the rows of files, folders and patterns. With a `label`, shows a progress bar.

    Raises InputFileError: a file is missing, or a line is not a JSON object.
    """
    files, row = file_list.files_of(paths), 0
    with progress.bar(sum(file.stat().st_size for file in files), label, 'B',
                      show=bool(label)) as bar:
        before = compressed.bytes_read()
        for file in files:
            for line, fields in jsonl.read(file):
                yield FileRow(file, line, row, documents.in_our_fields(fields))
                row += 1
                # The bar counts bytes on the disk, also for compressed files.
                bar.update(compressed.bytes_read() - before)
                before = compressed.bytes_read()


def words(text: str) -> list[str]:
    """Returns the normalised words: letters and digits in lower case, without punctuation. Each
    Chinese or Japanese character is a word.
    """
    return _word().findall(unicodedata.normalize('NFKC', text).casefold())


def normalised(text: str) -> str:
    """Returns the normalised words, joined by blanks."""
    return ' '.join(words(text))


@functools.cache
def _word() -> re.Pattern[str]:
    # Python's \w excludes vowel signs, such as those of Hindi, and would cut words in two.
    marks = ''.join(
        chr(code)
        for code in range(0x300, 0x10000)
        if unicodedata.category(chr(code)).startswith('M'))
    return re.compile(f'[{UNSPACED}]|(?:[^\\W{UNSPACED}]|[{marks}])+')
