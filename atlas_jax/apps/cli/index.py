"""`atlas-jax index`: builds, imports, changes, describes, verifies and searches an index."""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks, flags, index_compare, index_compress
from atlas_jax.apps.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `index` with its commands."""
    group = cli_options.group(commands, 'index',
                              'Embed passages, and search and change the index.',
                              'atlas-jax index info --index INDEX')
    _add_build(group)
    _add_import(group)
    _add_changes(group)
    _add_passages(group)
    _add_verify(group)
    _add_search(group)
    index_compare.add_commands(group)
    index_compress.add_commands(group)


def _add_build(group) -> None:
    parser = cli_options.command(
        group, 'build', _build,
        'Embed every passage of a store; continues a killed build where it stopped.',
        'atlas-jax index build --store STORE --reader READER --retriever RETRIEVER --out INDEX')
    arguments.folder(parser, '--store', 'passages, from `atlas-jax data passages`')
    parser.add_argument('--out', metavar='INDEX', help='folder to write, on a disk or gs://…')
    parser.add_argument('--dtype', choices=cli_options.DTYPES_OF_INDEX,
                        help='dtype of the embeddings (default float32)')
    cli_options.add_model(parser)
    flags.add_project(parser)
    cli_options.add_gin(parser, required=False)
    flags.set_macros(parser, ('store', 'out', 'dtype', 'model', 'reader', 'retriever'), None,
                     'index')
    cli_options.add_multihost(parser)


def _add_import(group) -> None:
    parser = cli_options.command(
        group, 'import', _import, 'Make a store and an index from an index that the original Atlas '
                               'saved.',
        'atlas-jax index import --from SAVED --store STORE --out INDEX --model CHECKPOINT')
    arguments.folder(parser, '--from', 'folder with embeddings.N.pt and passages.N.pt',
                     dest='saved', required=True)
    arguments.folder(parser, '--store', 'folder to write the passages to', required=True)
    parser.add_argument('--out', required=True, metavar='INDEX',
                        help='folder to write the index to')
    parser.add_argument('--dtype', choices=cli_options.DTYPES_OF_INDEX, default='float32',
                        help='dtype of the embeddings (default float32)')
    arguments.switch(parser, '--row_ids',
                     'name passages by their rows, where ids are missing or repeat')
    arguments.switch(parser, '--force',
                     'use the model even if it embeds these passages differently')
    cli_options.add_model(parser)


def _add_changes(group) -> None:
    parser = cli_options.command(
        group, 'add', _add, 'Add documents to an index; one with a known id replaces the old '
                            'one. Only new passages are embedded.',
        'atlas-jax index add DOCUMENTS --index INDEX --model RUN')
    cli_options.add_documents(parser)
    cli_options.add_index(parser)
    cli_options.add_model(parser)
    flags.add_project(parser)

    parser = cli_options.command(
        group, 'delete', _delete, 'Take passages out of every later search.',
        'atlas-jax index delete --index INDEX --docid france/government/3')
    cli_options.add_index(parser)
    flags.add_project(parser)
    parser.add_argument('--docid', nargs='+', required=True, metavar='ID',
                        help='ids of the passages')

    parser = cli_options.command(group, 'info', _info, 'Describe an index.',
                                 'atlas-jax index info --index INDEX')
    _add_folder(parser)

    parser = cli_options.command(
        group, 'compact', _compact,
        'Rewrite an index and its passages without those that were deleted.',
        'atlas-jax index compact --index INDEX')
    cli_options.add_index(parser)
    flags.add_project(parser)


def _add_passages(group) -> None:
    parser = cli_options.command(
        group, 'passages', _passages, 'Write the passages of an index as JSON lines to pre-train '
                                      'on, and some to evaluate on.',
        'atlas-jax index passages --index INDEX --to texts')
    _add_folder(parser)
    arguments.folder(parser, '--to', 'folder for passages.jsonl and held_back.jsonl',
                     required=True)
    arguments.number(parser, '--hold_back', 'passages to hold back, a tenth at most', 1000)
    arguments.number(parser, '--seed', 'seeds the choice of these passages', 0,
                     kind=arguments.count, metavar='S')


def _add_verify(group) -> None:
    parser = cli_options.command(
        group, 'verify', _verify, 'Read every byte of an index and its passages; name '
                                  'damaged files and the rows they hit.',
        'atlas-jax index verify --index INDEX')
    _add_folder(parser)
    arguments.folder(parser, '--store', cli_options.STORE_OF_INDEX)
    cli_options.add_model(parser)


def _add_search(group) -> None:
    parser = cli_options.command(
        group, 'search', _search, 'Print the passages nearest to a text.',
        'atlas-jax index search "capital of France" --index INDEX --model RUN --top_k 5')
    parser.add_argument('query', metavar='TEXT', help='what to search for')
    cli_options.add_index(parser)
    cli_options.add_model(parser)
    flags.add_project(parser)
    cli_options.add_search(parser)
    arguments.number(parser, '--top_k', 'passages to print', 5)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    arguments.folder(parser, '--index', cli_options.INDEX)
    parser.set_defaults(needs_index=True)
    flags.add_project(parser)


def _build(options: argparse.Namespace) -> None:
    if not options.gin_file and not (options.store and options.out):
        raise errors.ConfigError('give --store DIR and --out INDEX, or a --gin_file that sets them')
    _check_build(options)
    cli_options.join_hosts(options)
    cli_options.keep_programs(options)
    from atlas_jax.answering import api
    from atlas_jax.apps.gin_files import parse as gin_parse
    cli_options.read_gin(options)
    overrides = arguments.given(store_dir=options.store, index_dir=options.out,
                                dtype=options.dtype)
    # Flags win over the gin file.
    folders = _model_folders(options)
    if folders or not gin_parse.is_bound(api.build_index):
        overrides['model'] = api.ModelSource(**gin_parse.arguments_of(api.ModelSource, **folders))
    cli_options.print_json(
        api.build_index(**gin_parse.arguments_of(api.build_index, **overrides)))


def _check_build(options: argparse.Namespace) -> None:
    """Checks the store and the model's folders, from the flags or the gin files."""
    values = cli_options.preview_gin(options)
    file_checks.check_store(options.store or values.values_of('build_index').get('store_dir'))
    if not options.gin_file:
        file_checks.check_model(options)
    folders = values.values_of('ModelSource') | _model_folders(options)
    for name in ('model_dir', 'reader_dir', 'retriever_dir'):
        file_checks.check_model_folder(folders.get(name))


def _model_folders(options: argparse.Namespace) -> dict[str, str]:
    return arguments.given(model_dir=options.model, reader_dir=options.reader,
                           retriever_dir=options.retriever)


def _import(options: argparse.Namespace) -> None:
    file_checks.check_model(options)
    from atlas_jax.conversion.original_index import SavedIndex
    SavedIndex(pathlib.Path(options.saved))  # reports a mistake in it before the model is loaded
    from atlas_jax.knowledge import import_index
    index, difference = import_index.import_saved(options.saved, options.store, options.out,
                                                  cli_options.load_model(options),
                                                  dtype=options.dtype, row_ids=options.row_ids,
                                                  force=options.force)
    print(f'{options.out}: {len(index.index)} passages; this model embeds a sample of them with a '
          f'median difference of {difference:.2%}')


def _add(options: argparse.Namespace) -> None:
    file_checks.check_model(options)
    file_checks.check_index(options.index, options.store)
    # All documents are cut before jax is imported, so that a mistake in them is reported at once.
    added = list(cli_options.passages_of(options))
    index = cli_options.open_index(options)
    rows = index.replace(added, cli_options.load_model(options))
    known = f' ({len(added) - rows} were there as they are)' if rows < len(added) else ''
    print(f'{options.index}: added {rows} passages{known}, {_left(index)} now')


def _delete(options: argparse.Namespace) -> None:
    file_checks.check_index(options.index, options.store)
    index = cli_options.open_index(options)
    # The same message as for an id that never existed: either may be misspelt.
    rows = zip(options.docid, index.store.rows_of(options.docid), strict=True)
    gone = [docid for docid, row in rows if row < len(index.index) and index.index.deleted[row]]
    if gone:
        raise errors.IndexFolderError(f'{options.index}: no passage "{gone[0]}" in this index any '
                                      'more; check the docid')
    deleted = index.delete(options.docid)
    print(f'{options.index}: deleted {deleted} passages, {_left(index)} left')


def _left(index) -> int:
    info = index.index.info()
    return info['rows'] - info['deleted']


def _info(options: argparse.Namespace) -> None:
    file_checks.check_index(options.index)
    from atlas_jax.index.embedding_index import EmbeddingIndex
    cli_options.print_json(EmbeddingIndex.open(options.index).info())


def _compact(options: argparse.Namespace) -> None:
    file_checks.check_index(options.index, options.store)
    index = cli_options.open_index(options)
    # Compaction moves the passages into the index's folder. The last line says so, because the old
    # store is then no longer needed.
    before = index.store.path
    if not index.compact():
        print(f'{options.index}: nothing to compact')
        return
    print(f'{options.index}: {len(index.index)} passages, none deleted')
    if index.store.path != before:
        print(f'its passages are now in {index.store.path}; it needs {before} no longer')


def _verify(options: argparse.Namespace) -> None:
    from atlas_jax.knowledge import verify as verify_index
    # The weights only show whether this model embedded the rows.
    atlas = cli_options.load_model(options) if cli_options.names_model(options) else None
    problems = verify_index.verify(options.index, options.store, atlas)
    for problem in problems:
        print(problem)
    damage = sum(problem.is_damage for problem in problems)
    if damage:
        raise errors.IndexFolderError(f'{options.index}: {damage} problems, listed above; restore '
                                      'the files or build it again')
    if problems:
        raise errors.IndexFolderError(f'{options.index}: every file is as it was written, but '
                                      'another model embedded the rows above; give the model and '
                                      'formats that built it, or build it again')
    print(f'{options.index}: every file is as it was written')
    if left := verify_index.leftovers(options.index, options.store):
        print(f'a killed command left {len(left)} files or folders, such as {left[0]}; the next '
              'one that changes the index removes them')


def _search(options: argparse.Namespace) -> None:
    file_checks.check_indexes(options)
    file_checks.check_model(options)
    indexes = cli_options.open_indexes(options)
    atlas = cli_options.load_model(options)
    [found] = atlas.search([options.query], indexes, options.top_k, options.searcher)
    for rank, each in enumerate(found, start=1):
        where = f' in {each.index}' if len(indexes) > 1 else ''
        print(f'{rank}. {each.score:.4f}  [{each.passage.docid}]{where} '
              f'{each.passage.full_title}\n   {each.passage.text}')


def _passages(options: argparse.Namespace) -> None:
    file_checks.check_index(options.index)
    from atlas_jax.knowledge import export_passages
    written, held_back = export_passages.write(options.index, pathlib.Path(options.to),
                                               options.hold_back, options.seed)
    print(f'{options.to}: {written} passages, {held_back} held back')
