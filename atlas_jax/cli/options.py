"""Options and output that several commands share. Nothing heavy is imported before a command runs, so help is quick."""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
from typing import TYPE_CHECKING, Any

from atlas_jax.searchers import config

if TYPE_CHECKING:  # importing jax would make --help slow
    from collections.abc import Iterator

    from atlas_jax import api
    from atlas_jax.corpus.passages import Passage
    from atlas_jax.gin_files.preview import Preview


def command(commands, name: str, run, purpose: str, example: str) -> argparse.ArgumentParser:
    """Adds a command; its help ends with the example, and `run` takes the parsed arguments."""
    parser = _subparser(commands, name, purpose, example)
    parser.add_argument('--verbose', action='store_true', help='say more, and show the traceback of an error')
    parser.set_defaults(run=run)
    return parser


def group(commands, name: str, purpose: str, example: str):
    """Adds a command that only has commands of its own, and returns these."""
    parser = _subparser(commands, name, purpose, example)
    return parser.add_subparsers(title='commands', metavar='COMMAND', required=True)


def add_documents(parser: argparse.ArgumentParser) -> None:
    """Adds DOCUMENTS, --max_words, --as_passages, --overlap and --max_passages, which `passages_of` reads."""
    parser.add_argument('documents', metavar='DOCUMENTS', nargs='+',
                        help='.jsonl, .csv, .tsv (also .gz, .bz2, .zst), .txt, .md, .html, .pdf or .docx files, folders of them or '
                             'quoted patterns, in their order')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--max_words', type=positive, default=100, metavar='N',
                        help='most words of a passage (default 100); longer documents are cut')
    length.add_argument('--as_passages', action='store_const', dest='max_words', const=None,
                        help='cut nothing: every document is a passage already')
    parser.add_argument('--overlap', type=count, default=0, metavar='WORDS',
                        help='words that a piece of a document repeats of the one before (default 0)')
    parser.add_argument('--max_passages', type=positive, metavar='N', help='the first N passages only (default all)')


def passages_of(options: argparse.Namespace) -> Iterator[Passage]:
    """Yields the passages of the documents that `add_documents` names; says at the end how many were cut.

    Raises InputFileError: see read_documents; ConfigError: an overlap that is too large.
    """
    from atlas_jax.corpus import documents, passages
    from atlas_jax.io import file_list
    counts = passages.CutCounts()
    found = passages.split_passages(documents.read_documents(options.documents), options.max_words, options.overlap, counts)

    def told() -> Iterator[Passage]:
        # islice asks for no passage more than it gives: what is behind it is not read.
        yield from itertools.islice(found, options.max_passages)
        for line in counts.messages(options.max_words):
            print(f'{file_list.shown(options.documents)}: {line}', flush=True)

    return told()


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model, or --reader and --retriever, or --project."""
    options = parser.add_argument_group('model', 'either --model, or both --reader and --retriever')
    options.add_argument('--model', metavar='DIR', help='folder that `atlas-jax train` or `convert` wrote, or an original Atlas checkpoint')
    options.add_argument('--reader', metavar='DIR', help='folder of a T5, from Hugging Face or T5X')
    options.add_argument('--retriever', metavar='DIR', help='Hugging Face folder of a BERT, Contriever or sentence transformer')
    add_no_verify(parser)
    add_compilation_cache(parser)


def add_no_verify(parser: argparse.ArgumentParser) -> None:
    """Adds --no_verify, which main.py obeys."""
    parser.add_argument('--no_verify', action='store_true', help='load models without comparing their files with their checksums')


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
    """Adds --no_compilation_cache, which `keep_programs` obeys."""
    parser.add_argument('--no_compilation_cache', action='store_true',
                        help='compile everything anew; neither keep nor use the programs of earlier commands')


def keep_programs(options: argparse.Namespace) -> None:
    """Lets jax keep what this command compiles under the user's cache folder, and use what earlier ones kept.

    Call it after `join_hosts`, before anything is compiled.
    """
    from atlas_jax.io import folder
    from atlas_jax.runtime import compilation_cache
    if options.no_compilation_cache:
        compilation_cache.switch_off()
    else:
        compilation_cache.use(compilation_cache.AUTO, folder.default_cache_dir() / 'compiled')


def load_model(options: argparse.Namespace) -> api.Atlas:
    """Loads the model that these options name. Raises ConfigError where they name none or two, ModelFolderError for a wrong folder."""
    from atlas_jax import api  # inside the function: jax takes seconds to import
    keep_programs(options)
    return api.ModelSource(options.model, options.reader, options.retriever).load(api.Atlas)


def add_index(parser: argparse.ArgumentParser, required: bool = True, purpose: str = 'from `atlas-jax index build`') -> None:
    """Adds --index, and --store for passages that were moved."""
    parser.add_argument('--index', metavar='DIR', help=purpose)
    parser.add_argument('--store', metavar='DIR', help='store of its passages (default: where they were when it was built)')
    # Not argparse's `required`: a project has an index too.
    parser.set_defaults(needs_index=required)
    add_force(parser)


def add_force(parser) -> None:
    """Adds --force."""
    parser.add_argument('--force', action='store_true', help='use the index even if another model built it')


def open_index(options: argparse.Namespace) -> api.Index:
    """Opens the index that the options of `add_index` name. Raises IndexFolderError, StoreError."""
    from atlas_jax import api

    return api.Index.open(options.index, options.store, force=options.force)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds --searcher, and --also for further indexes."""
    parser.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST,
                        help='search method, see docs/search.md (default exact, or the project\'s)')
    parser.set_defaults(searches=True)
    parser.add_argument('--also', nargs='+', default=[], metavar='DIR', help='further indexes to search together with the first')


def open_indexes(options: argparse.Namespace) -> list[api.Index]:
    """Opens the indexes that the options of `add_index` and `add_search` name. Raises IndexFolderError, StoreError."""
    from atlas_jax import api

    return [open_index(options), *(api.Index.open(folder, force=options.force) for folder in options.also)]


# Experiments are gin files; what people set every day has a flag of its own.
def add_gin(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --gin_file. `--gin.NAME=value` stands here for the help alone: main.py takes it out before argparse sees it."""
    parser.add_argument('--gin_file', metavar='FILE', action='append', default=[], required=required,
                        help='gin file, such as runs/few_shot.gin; may be repeated, later files win')
    # Any name may stand there, so argparse gets this one for the help alone.
    parser.add_argument('--gin.NAME', metavar='VALUE', dest='gin_bindings',
                        help="value that wins over the files; strings need quotes: --gin.NAME='\"text\"'")
    parser.add_argument('--gin_import', metavar='MODULE', action='append', default=[],
                        help='module of your own that the gin files import, whose classes they may use; may be repeated')
    parser.add_argument('--gin_search_paths', metavar='DIR,DIR', type=_folders, default=[],
                        help='folders of gin files, separated by commas; they are looked in first, for --gin_file and for includes')
    parser.set_defaults(takes_gin=True)


def read_gin(options: argparse.Namespace, stand_in: str | None = None) -> None:
    """Reads the gin files and bindings that the options of `add_gin` name; `stand_in` is that of parse. Raises ConfigError."""
    from atlas_jax.gin_files import parse as gin_parse
    gin_parse.parse(options.gin_file, options.gin_bindings, stand_in=stand_in, imports=options.gin_import,
                    folders=options.gin_search_paths)


def preview_gin(options: argparse.Namespace, complete: bool = True) -> Preview:
    """Reads the values of the same files and bindings, without importing what they name. Raises ConfigError."""
    from atlas_jax.gin_files import preview
    return preview.read(options.gin_file, options.gin_bindings, options.gin_import, options.gin_search_paths, complete=complete)


def add_multihost(parser: argparse.ArgumentParser) -> None:
    """Adds --multihost."""
    parser.add_argument('--multihost', action='store_true', help='run as one of several processes: on every host of a TPU pod, or with '
                        'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set')


def join_hosts(options: argparse.Namespace) -> None:
    """Joins the other processes of the run if --multihost was given. Raises ConfigError if they do not come."""
    # Only when asked: on a single host jax would wait for a coordinator that never answers.
    if options.multihost:
        from atlas_jax.runtime import hosts
        hosts.initialize()


def is_first() -> bool:
    """Returns True in process 0, which alone prints and writes results."""
    import jax
    # Without --multihost there is one process, and it is the first.
    return jax.process_index() == 0


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json FILE."""
    parser.add_argument('--json', metavar='FILE', help='file to write the figures to, as JSON')


def positive(text: str) -> int:
    """Parses an integer of at least 1, as a type of argparse."""
    return _at_least(text, 1)


def count(text: str) -> int:
    """Parses an integer of at least 0, as a type of argparse."""
    return _at_least(text, 0)


def _folders(text: str) -> list[str]:
    folders = [part for part in text.split(',') if part]
    if missing := [folder for folder in folders if not pathlib.Path(folder).is_dir()]:
        raise argparse.ArgumentTypeError(f'"{missing[0]}" is no folder')
    return folders


def given(**options: Any) -> dict[str, Any]:
    """Returns the options that were given, without those that are None."""
    # None is argparse's word for a flag that was not given; such flags must not win over a gin file.
    return {name: value for name, value in options.items() if value is not None}


def write_json(path: str | pathlib.Path | None, value: Any) -> None:
    """Writes the figures as JSON if a path is given. Raises DiskFullError."""
    if path:
        from atlas_jax.io import atomic
        atomic.write_json(path, value)


def print_json(value: Any) -> None:
    """Prints figures as JSON."""
    # Answers are text of any language, and JSON escapes would make it unreadable.
    print(json.dumps(value, indent=1, ensure_ascii=False))


# argparse shows the purpose twice: as a line in the list of commands, and as a sentence on the command's own page.
def _subparser(commands, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    # A list entry begins in lower case and has no full stop, as in other tools.
    summary = purpose[0].lower() + purpose[1:].rstrip('.')
    return commands.add_parser(name, help=summary, description=purpose, epilog=f'example:\n  {example}')


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number') from error
    if value < least:
        raise argparse.ArgumentTypeError(f'{value} is too small; it must be at least {least}')
    return value
