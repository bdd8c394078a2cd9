"""`atlas-jax index`: build, add to, delete from, describe, verify, compact and search an index."""

import argparse

from atlas_jax import errors
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `index` with its commands."""
    group = cli_options.group(commands, 'index', 'Embed passages, and search and change what was embedded.',
                              'atlas-jax index info --index INDEX')
    parser = cli_options.command(group, 'build', _build, 'Embed every passage of a store; goes on where a killed build stopped.',
                                 'atlas-jax index build --store STORE --reader READER --retriever RETRIEVER --out INDEX')
    parser.add_argument('--store', metavar='DIR', help='passages, from `atlas-jax data passages`')
    parser.add_argument('--out', metavar='INDEX', help='folder to write, on a disk or gs://…')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'int8'], help='of the embeddings (default float32)')
    cli_options.add_model(parser)
    cli_options.add_gin(parser, required=False)
    cli_options.add_multihost(parser)

    parser = cli_options.command(group, 'add', _add, 'Add documents to an index; one with a known id replaces it. Only these are embedded.',
                                 'atlas-jax index add DOCUMENTS --index INDEX --model RUN')
    cli_options.add_documents(parser)
    cli_options.add_index(parser)
    cli_options.add_model(parser)

    parser = cli_options.command(group, 'delete', _delete, 'Take passages out of every later search.',
                                 'atlas-jax index delete --index INDEX --docid france/government/3')
    cli_options.add_index(parser)
    parser.add_argument('--docid', nargs='+', required=True, metavar='ID', help='ids of the passages')

    parser = cli_options.command(group, 'info', _info, 'Describe an index.', 'atlas-jax index info --index INDEX')
    _add_folder(parser)
    parser = cli_options.command(group, 'compact', _compact, 'Rewrite an index and its passages without those that were deleted.',
                                 'atlas-jax index compact --index INDEX')
    cli_options.add_index(parser)
    _add_verify_and_search(group)


def _add_verify_and_search(group) -> None:
    parser = cli_options.command(group, 'verify', _verify,
                                 'Read every byte of an index and its passages; name what is damaged and the rows it hits.',
                                 'atlas-jax index verify --index INDEX')
    _add_folder(parser)
    parser.add_argument('--store', metavar='DIR', help='its passages (default: where they were when it was built)')
    cli_options.add_model(parser)

    parser = cli_options.command(group, 'search', _search, 'Print the passages nearest to a text.',
                                 'atlas-jax index search "capital of France" --index INDEX --model RUN --top_k 5')
    parser.add_argument('query', metavar='TEXT', help='what to search for')
    cli_options.add_index(parser)
    cli_options.add_model(parser)
    cli_options.add_search(parser)
    parser.add_argument('--top_k', type=cli_options.positive, default=5, metavar='N', help='passages to print (default 5)')


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--index', required=True, metavar='DIR', help='from `atlas-jax index build`')


def _build(options: argparse.Namespace) -> None:
    if not options.gin_file and not (options.store and options.out):
        raise errors.ConfigError('give --store DIR and --out INDEX, or a --gin_file that sets them')
    cli_options.join_hosts(options)
    from atlas_jax import api
    from atlas_jax.gin_files import parse as gin_parse
    gin_parse.parse(options.gin_file, options.gin_bindings)
    overrides = cli_options.given(store_dir=options.store, index_dir=options.out, dtype=options.dtype)
    folders = cli_options.given(model_dir=options.model, reader_dir=options.reader, retriever_dir=options.retriever)
    # Flags win over the gin file, as everywhere; each alone names a whole model.
    if folders or not gin_parse.is_bound(api.build_index):
        overrides['model'] = api.ModelSource(**gin_parse.arguments_of(api.ModelSource, **folders))
    figures = api.build_index(**gin_parse.arguments_of(api.build_index, **overrides))
    if cli_options.is_first():
        cli_options.print_json(figures)


def _add(options: argparse.Namespace) -> None:
    from atlas_jax.corpus import documents, passages
    index = cli_options.open_index(options)
    # All documents are read and cut before the model is loaded, so that a mistake in them is told at once.
    added = list(passages.split_passages(documents.read_documents(options.documents), options.max_words))
    index.replace(added, cli_options.load_model(options))
    print(f'{options.index}: added {len(added)} passages, {_left(index)} now')


def _delete(options: argparse.Namespace) -> None:
    index = cli_options.open_index(options)
    deleted = index.delete(options.docid)
    print(f'{options.index}: deleted {deleted} passages, {_left(index)} left')


def _left(index) -> int:
    info = index.index.info()
    return info['rows'] - info['deleted']


def _info(options: argparse.Namespace) -> None:
    from atlas_jax.index.embedding_index import EmbeddingIndex
    cli_options.print_json(EmbeddingIndex.open(options.index).info())


def _compact(options: argparse.Namespace) -> None:
    index = cli_options.open_index(options)
    # Compaction moves the passages into the index's folder; say so, or the old store would be kept for nothing.
    before = index.store.path
    if not index.compact():
        print(f'{options.index}: nothing to compact')
        return
    print(f'{options.index}: {len(index.index)} passages, none deleted')
    if index.store.path != before:
        print(f'its passages are now in {index.store.path}; it needs {before} no longer')


def _verify(options: argparse.Namespace) -> None:
    from atlas_jax.knowledge import verify as verify_index
    # Weights are only needed to say whether they are the ones that embedded the rows.
    atlas = cli_options.load_model(options) if options.model or options.reader or options.retriever else None
    problems = verify_index.verify(options.index, options.store, atlas)
    for problem in problems:
        print(problem)
    damage = sum(problem.is_damage for problem in problems)
    if damage:
        raise errors.IndexFolderError(f'{options.index}: {damage} problems, listed above; restore the files or build it again')
    if problems:
        raise errors.IndexFolderError(f'{options.index}: every file is as it was written, but another model embedded the rows above; '
                                      'give the model and formats that built it, or build it again')
    print(f'{options.index}: every file is as it was written')


def _search(options: argparse.Namespace) -> None:
    indexes = cli_options.open_indexes(options)
    atlas = cli_options.load_model(options)
    for place, found in enumerate(atlas.search([options.query], indexes, options.top_k, options.searcher)[0], start=1):
        where = f' in {found.index}' if len(indexes) > 1 else ''
        print(f'{place}. {found.score:.4f}  [{found.passage.docid}]{where} {found.passage.full_title}\n   {found.passage.text}')
