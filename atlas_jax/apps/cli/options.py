"""Arguments, files and output that several commands share.

Nothing heavy is imported before a command runs, so that help is quick.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
from typing import TYPE_CHECKING, Any

from atlas_jax.apps.cli import arguments
from atlas_jax.runtime import notes
from atlas_jax.searchers import config

if TYPE_CHECKING:  # importing jax would make --help slow
    from collections.abc import Iterator

    from atlas_jax.answering import api
    from atlas_jax.apps.gin_files.preview import Preview
    from atlas_jax.corpus.passages import Passage

INDEX = 'index folder, from `atlas-jax index build`'
STORE_OF_INDEX = 'store of its passages, if it was moved (default: the place that the index names)'
DTYPES_OF_INDEX = ('float32', 'bfloat16', 'int8')


def command(commands, name: str, run, purpose: str, example: str) -> argparse.ArgumentParser:
    """Adds a command. Its help ends with the example; `run` takes the parsed arguments."""
    parser = _subparser(commands, name, purpose, example)
    arguments.switch(parser, '--verbose', 'say more, and show the traceback of an error')
    parser.set_defaults(run=run)
    return parser


def group(commands, name: str, purpose: str, example: str):
    """Adds a command that only has subcommands, and returns the object to add these to."""
    parser = _subparser(commands, name, purpose, example)
    return parser.add_subparsers(title='commands', metavar='COMMAND', required=True)


def _subparser(commands, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    # argparse shows the purpose twice: as a sentence on the command's own page, and in the list of
    # commands. List entries begin in lower case and have no full stop, as in other tools.
    summary = purpose[0].lower() + purpose[1:].rstrip('.')
    return commands.add_parser(name, help=summary, description=purpose,
                               epilog=f'example:\n  {example}')


def add_documents(parser: argparse.ArgumentParser) -> None:
    """Adds DOCUMENTS and the flags that say how they are cut; `passages_of` reads all of them."""
    parser.add_argument('documents', metavar='DOCUMENTS', nargs='+',
                        help='.jsonl, .csv, .tsv (also .gz, .bz2, .zst), .txt, .md, .html, .pdf '
                             'or .docx files, folders of them or quoted patterns, in their order')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--max_words', type=arguments.positive, default=100, metavar='N',
                        help='most words of a passage (default 100); longer documents are cut')
    length.add_argument('--as_passages', action='store_const', dest='max_words', const=None,
                        help='cut nothing: every document is a passage already')
    arguments.number(parser, '--overlap', 'words that a passage repeats from the one before it in '
                     'the same document', 0, kind=arguments.count, metavar='WORDS')
    arguments.number(parser, '--max_passages', 'the first N passages only (default all)')


def passages_of(options: argparse.Namespace) -> Iterator[Passage]:
    """Yields the passages of the documents that `add_documents` names. Prints at the end how many
    were cut.

    Raises InputFileError: see read_documents; ConfigError: the overlap is too large.
    """
    from atlas_jax.corpus import documents, passages
    from atlas_jax.io import file_list
    counts = passages.CutCounts()
    # These raise at once for a wrong path, before the first passage is asked for.
    cut = passages.split_passages(documents.read_documents(options.documents), options.max_words,
                                  options.overlap, counts)

    def counted() -> Iterator[Passage]:
        # islice reads nothing beyond the last passage that it yields.
        yield from itertools.islice(cut, options.max_passages)
        for line in counts.messages(options.max_words):
            print(f'{file_list.summary(options.documents)}: {line}', flush=True)

    return counted()


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --reader and --retriever, and how they are loaded."""
    model = parser.add_argument_group('model', 'either --model, or both --reader and --retriever')
    arguments.folder(model, '--model', 'folder that `atlas-jax train` or `convert` wrote, or an '
                     'original Atlas checkpoint')
    arguments.folder(model, '--reader', 'folder of a T5, from Hugging Face or T5X')
    arguments.folder(model, '--retriever',
                     'Hugging Face folder of a BERT, Contriever or sentence transformer')
    add_no_verify(parser)
    add_compilation_cache(parser)


def names_model(options: argparse.Namespace) -> bool:
    """Returns whether one of --model, --reader and --retriever was given."""
    return bool(options.model or options.reader or options.retriever)


def add_no_verify(parser: argparse.ArgumentParser) -> None:
    """Adds --no_verify, which main.py reads."""
    arguments.switch(parser, '--no_verify',
                     'load models without comparing their files with their checksums')


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
    """Adds --no_compilation_cache, which `keep_programs` reads."""
    arguments.switch(parser, '--no_compilation_cache', 'compile everything again; neither keep '
                     'nor use the programs of earlier commands')


def keep_programs(options: argparse.Namespace) -> None:
    """Lets jax keep compiled programs in the user's cache folder and use those of earlier commands.

    Call it after `join_hosts`, before anything is compiled.
    """
    from atlas_jax.io import folder
    from atlas_jax.runtime import compilation_cache
    if options.no_compilation_cache:
        compilation_cache.switch_off()
    else:
        compilation_cache.use(compilation_cache.AUTO, folder.default_cache_dir() / 'compiled')


def load_model(options: argparse.Namespace) -> api.Atlas:
    """Loads the model that the flags of `add_model` name.

    Raises ConfigError: they name none or two; ModelFolderError: the folder is wrong.
    """
    from atlas_jax.answering import api  # jax takes seconds to import
    keep_programs(options)
    return api.ModelSource(options.model, options.reader, options.retriever).load(api.Atlas)


def add_index(parser: argparse.ArgumentParser, required: bool = True,
              purpose: str = INDEX) -> None:
    """Adds --index, --store for passages that were moved, and --force."""
    arguments.folder(parser, '--index', purpose)
    arguments.folder(parser, '--store', STORE_OF_INDEX)
    # Not argparse's `required`: --project names an index too.
    parser.set_defaults(needs_index=required)
    add_force(parser)


def add_force(parser) -> None:
    """Adds --force."""
    arguments.switch(parser, '--force', 'use the index even if another model built it')


def open_index(options: argparse.Namespace) -> api.Index:
    """Opens the index that the flags of `add_index` name. Raises IndexFolderError, StoreError."""
    from atlas_jax.answering import api
    return api.Index.open(options.index, options.store, force=options.force)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds --searcher, and --also for further indexes."""
    parser.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST,
                        help='search method, see docs/search.md (default exact, or the project\'s)')
    parser.set_defaults(searches=True)
    arguments.folder(parser, '--also', 'further indexes to search together with the first',
                     nargs='+', default=[])


def open_indexes(options: argparse.Namespace) -> list[api.Index]:
    """Opens the indexes that the flags of `add_index` and `add_search` name.

    Raises IndexFolderError, StoreError.
    """
    from atlas_jax.knowledge import group
    return [open_index(options), *group.open_indexes(options.also, options.force)]


def add_n_context(parser: argparse.ArgumentParser) -> None:
    """Adds --n_context."""
    arguments.number(parser, '--n_context', 'passages to read (default: as trained)')


# Experiments are gin files; settings that people change every day also have a flag (flags.py).
def add_gin(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --gin_file and its companions."""
    arguments.file(parser, '--gin_file', 'gin file, such as runs/few_shot.gin; may be repeated, '
                   'later files win', action='append', default=[], required=required)
    add_bindings(parser, "value that wins over the files; strings need quotes: "
                         "--gin.NAME='\"text\"'")
    parser.add_argument('--gin_import', metavar='MODULE', action='append', default=[],
                        help='module of your own that the gin files may import and use; may be '
                             'repeated')
    parser.add_argument('--gin_search_paths', metavar='DIR,DIR', type=_folders, default=[],
                        help='folders of gin files, separated by commas, looked in first for '
                             '--gin_file and for includes')


def add_bindings(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds --gin.NAME for the help only: any name may follow `--gin.`, so main.py takes the
    bindings out before argparse sees them.
    """
    parser.add_argument('--gin.NAME', metavar='VALUE', dest='gin_bindings', help=text)
    parser.set_defaults(takes_gin=True)


def read_gin(options: argparse.Namespace, stand_in: str | None = None) -> None:
    """Reads the gin files and bindings that the flags of `add_gin` name.

    `stand_in` is the value of macros that must be set and are not. Raises ConfigError.
    """
    from atlas_jax.apps.gin_files import parse as gin_parse
    gin_parse.parse(options.gin_file, options.gin_bindings, stand_in=stand_in,
                    imports=options.gin_import, folders=options.gin_search_paths)


def preview_gin(options: argparse.Namespace, complete: bool = True) -> Preview:
    """Reads the values of the same files and bindings, without importing what they name.

    Raises ConfigError.
    """
    from atlas_jax.apps.gin_files import preview
    return preview.read(options.gin_file, options.gin_bindings, options.gin_import,
                        options.gin_search_paths, complete=complete)


def add_multihost(parser: argparse.ArgumentParser) -> None:
    """Adds --multihost."""
    arguments.switch(parser, '--multihost', 'run as one of several processes: on every host of a '
                     'TPU pod, or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and '
                     'JAX_PROCESS_ID set')


def join_hosts(options: argparse.Namespace) -> None:
    """Joins the other processes of the run if --multihost was given.

    Raises ConfigError: they do not come.
    """
    # On a single host jax would wait for a coordinator that never answers.
    if options.multihost:
        from atlas_jax.runtime import hosts
        hosts.initialize()


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json FILE."""
    arguments.file(parser, '--json', 'file to write the figures to, as JSON')


def _folders(text: str) -> list[str]:
    folders = [part for part in text.split(',') if part]
    if missing := [folder for folder in folders if not pathlib.Path(folder).is_dir()]:
        raise argparse.ArgumentTypeError(f'"{missing[0]}" is no folder')
    return folders


def write_json(path: str | pathlib.Path | None, value: Any) -> None:
    """Writes figures as JSON if a path is given. Raises DiskFullError."""
    if path:
        from atlas_jax.io import atomic
        atomic.write_json(path, value)


def print_json(value: Any) -> None:
    """Prints figures as JSON, in process 0 only."""
    # Answers may be in any language; JSON escapes would make them unreadable.
    notes.say(json.dumps(value, indent=1, ensure_ascii=False), to_stdout=True)
