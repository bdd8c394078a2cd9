"""`atlas-jax index`: build, import, add to, delete from, describe, verify, compact and search an index; compare its searchers."""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options
from atlas_jax.searchers import config


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
    flags.add_project(parser)
    cli_options.add_gin(parser, required=False)
    flags.set_macros(parser, ('store', 'out', 'dtype', 'model', 'reader', 'retriever'), None, 'index')
    cli_options.add_multihost(parser)

    parser = cli_options.command(group, 'import', _import, 'Make a store and an index of one that the original Atlas saved.',
                                 'atlas-jax index import --from SAVED --store STORE --out INDEX --model CHECKPOINT')
    parser.add_argument('--from', dest='saved', required=True, metavar='DIR', help='folder with embeddings.N.pt and passages.N.pt')
    parser.add_argument('--store', required=True, metavar='DIR', help='folder to write the passages to')
    parser.add_argument('--out', required=True, metavar='INDEX', help='folder to write the index to')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'int8'], default='float32', help='of the embeddings (default float32)')
    parser.add_argument('--row_ids', action='store_true', help='name passages by their rows, where ids are missing or repeat')
    parser.add_argument('--force', action='store_true', help='take the model even if it embeds these passages otherwise')
    cli_options.add_model(parser)

    parser = cli_options.command(group, 'add', _add, 'Add documents to an index; one with a known id replaces it. Only these are embedded.',
                                 'atlas-jax index add DOCUMENTS --index INDEX --model RUN')
    cli_options.add_documents(parser)
    cli_options.add_index(parser)
    cli_options.add_model(parser)
    flags.add_project(parser)

    parser = cli_options.command(group, 'delete', _delete, 'Take passages out of every later search.',
                                 'atlas-jax index delete --index INDEX --docid france/government/3')
    cli_options.add_index(parser)
    flags.add_project(parser)
    parser.add_argument('--docid', nargs='+', required=True, metavar='ID', help='ids of the passages')

    parser = cli_options.command(group, 'info', _info, 'Describe an index.', 'atlas-jax index info --index INDEX')
    _add_folder(parser)
    parser = cli_options.command(group, 'compact', _compact, 'Rewrite an index and its passages without those that were deleted.',
                                 'atlas-jax index compact --index INDEX')
    cli_options.add_index(parser)
    flags.add_project(parser)
    parser = cli_options.command(group, 'passages', _passages,
                                 'Write the passages of an index as JSON lines to pre-train on, and some to evaluate on.',
                                 'atlas-jax index passages --index INDEX --to texts')
    _add_folder(parser)
    parser.add_argument('--to', required=True, metavar='DIR', help='folder for passages.jsonl and held_back.jsonl')
    parser.add_argument('--hold_back', type=cli_options.positive, default=1000, metavar='N',
                        help='passages that are kept apart, a tenth at most (default 1000)')
    parser.add_argument('--seed', type=cli_options.count, default=0, metavar='S', help='draws them (default 0)')
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
    flags.add_project(parser)
    cli_options.add_search(parser)
    parser.add_argument('--top_k', type=cli_options.positive, default=5, metavar='N', help='passages to print (default 5)')
    _add_compare(group)
    _add_compress(group)


def _add_compare(group) -> None:
    parser = cli_options.command(group, 'compare', _compare,
                                 'Measure every searcher on questions whose passages are known; fit hybrid search to them.',
                                 'atlas-jax index compare INDEX --questions dev.jsonl --model RUN --fit')
    parser.add_argument('index', metavar='INDEX', help='from `atlas-jax index build`')
    parser.add_argument('--questions', required=True, metavar='FILE', help='JSON lines with "gold_docids", or with "answers" alone')
    parser.add_argument('--store', metavar='DIR', help='store of its passages (default: where they were when it was built)')
    parser.add_argument('--force', action='store_true', help='use the index even if another model built it')
    cli_options.add_model(parser)
    known = config.IN_GRAPH + config.ON_HOST
    parser.add_argument('--searchers', nargs='+', choices=known, default=known, metavar='NAME',
                        help=f'searchers to measure: {", ".join(known)} (default all)')
    parser.add_argument('--top_k', type=cli_options.positive, default=20, metavar='N', help='passages searched (default 20)')
    parser.add_argument('--fit', action='store_true', help='fit the shares of hybrid search and save them beside the index')
    cli_options.add_json(parser)


def _add_compress(group) -> None:
    parser = cli_options.command(group, 'compress', _compress,
                                 'Make codes of an index for the searcher "codes", or add those of new passages; measures what they find.',
                                 'atlas-jax index compress INDEX --bytes 96')
    parser.add_argument('index', metavar='INDEX', help='from `atlas-jax index build`')
    parser.add_argument('--bytes', type=cli_options.positive, metavar='N',
                        help='of a passage on the devices (default 96, or as many as the embeddings have room for)')
    parser.add_argument('--rescore', type=cli_options.positive, default=300, metavar='N',
                        help='candidates that are scored exactly, by which the recall is measured (default 300)')
    parser.add_argument('--sample', type=cli_options.positive, default=65_536, metavar='N',
                        help='passages that the code is fitted to (default 65536)')
    parser.add_argument('--min_recall', type=float, default=0.97, metavar='SHARE',
                        help='least share of the true 20 nearest among the candidates (default 0.97)')
    parser.add_argument('--accept_recall', action='store_true', help='take the codes even if they find fewer')
    parser.add_argument('--metric', choices=config.METRICS, default=config.METRICS[0],
                        help=f'of the searches (default {config.METRICS[0]})')
    parser.add_argument('--questions', metavar='FILE',
                        help='JSON lines with questions to measure the recall with; needs the model (default: passages, perturbed)')
    parser.add_argument('--store', metavar='DIR', help='store of its passages (default: where they were when it was built)')
    parser.add_argument('--force', action='store_true', help='use the model even if another one built the index')
    cli_options.add_model(parser)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--index', metavar='DIR', help='from `atlas-jax index build`')
    parser.set_defaults(needs_index=True)
    flags.add_project(parser)


def _build(options: argparse.Namespace) -> None:
    if not options.gin_file and not (options.store and options.out):
        raise errors.ConfigError('give --store DIR and --out INDEX, or a --gin_file that sets them')
    _check_build(options)
    cli_options.join_hosts(options)
    cli_options.keep_programs(options)
    from atlas_jax import api
    from atlas_jax.gin_files import parse as gin_parse
    cli_options.read_gin(options)
    overrides = cli_options.given(store_dir=options.store, index_dir=options.out, dtype=options.dtype)
    folders = cli_options.given(model_dir=options.model, reader_dir=options.reader, retriever_dir=options.retriever)
    # Flags win over the gin file, as everywhere; each alone names a whole model.
    if folders or not gin_parse.is_bound(api.build_index):
        overrides['model'] = api.ModelSource(**gin_parse.arguments_of(api.ModelSource, **folders))
    figures = api.build_index(**gin_parse.arguments_of(api.build_index, **overrides))
    if cli_options.is_first():
        cli_options.print_json(figures)


def _check_build(options: argparse.Namespace) -> None:
    """Looks at the store and the model's folders, of the flags or of the gin files."""
    values = cli_options.preview_gin(options)
    store = options.store or values.values_of('build_index').get('store_dir')
    inputs.check_store(store if isinstance(store, str) else None)
    if not options.gin_file:
        inputs.check_model(options)
    # Flags win over the gin file.
    given = values.values_of('ModelSource') | cli_options.given(model_dir=options.model, reader_dir=options.reader,
                                                               retriever_dir=options.retriever)
    for name in ('model_dir', 'reader_dir', 'retriever_dir'):
        folder = given.get(name)
        inputs.check_model_folder(folder if isinstance(folder, str) else None)


def _import(options: argparse.Namespace) -> None:
    inputs.check_model(options)
    from atlas_jax.conversion.saved_index import SavedIndex
    SavedIndex(pathlib.Path(options.saved))  # a mistake in it is told before the model is loaded
    from atlas_jax.knowledge import saved_index
    index, difference = saved_index.import_saved(
        options.saved, options.store, options.out, cli_options.load_model(options), dtype=options.dtype, row_ids=options.row_ids,
        force=options.force)
    print(f'{options.out}: {len(index.index)} passages; this model embeds a sample of them with a median difference of {difference:.2%}')


def _add(options: argparse.Namespace) -> None:
    inputs.check_model(options)
    inputs.check_index(options.index, options.store)
    # All documents are read and cut before jax is imported and the model is loaded, so that a mistake in them is told at once.
    added = list(cli_options.passages_of(options))
    index = cli_options.open_index(options)
    rows = index.replace(added, cli_options.load_model(options))
    known = f' ({len(added) - rows} were there as they are)' if rows < len(added) else ''
    print(f'{options.index}: added {rows} passages{known}, {_left(index)} now')


def _delete(options: argparse.Namespace) -> None:
    inputs.check_index(options.index, options.store)
    index = cli_options.open_index(options)
    # The same answer as for an id that was never there: either may be misspelt.
    gone = [docid for docid, row in zip(options.docid, index.store.rows_of(options.docid), strict=True)
            if row < len(index.index) and index.index.deleted[row]]
    if gone:
        raise errors.IndexFolderError(f'{options.index}: no passage "{gone[0]}" in this index any more; check the docid')
    deleted = index.delete(options.docid)
    print(f'{options.index}: deleted {deleted} passages, {_left(index)} left')


def _left(index) -> int:
    info = index.index.info()
    return info['rows'] - info['deleted']


def _info(options: argparse.Namespace) -> None:
    inputs.check_index(options.index)
    from atlas_jax.index.embedding_index import EmbeddingIndex
    cli_options.print_json(EmbeddingIndex.open(options.index).info())


def _compact(options: argparse.Namespace) -> None:
    inputs.check_index(options.index, options.store)
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
    if left := verify_index.leftovers(options.index, options.store):
        print(f'a killed command left {len(left)} files or folders, such as {left[0]}; the next one that changes the index removes them')


def _search(options: argparse.Namespace) -> None:
    for folder in [options.index, *options.also]:
        inputs.check_index(folder)
    inputs.check_store(options.store)
    inputs.check_model(options)
    indexes = cli_options.open_indexes(options)
    atlas = cli_options.load_model(options)
    for place, found in enumerate(atlas.search([options.query], indexes, options.top_k, options.searcher)[0], start=1):
        where = f' in {found.index}' if len(indexes) > 1 else ''
        print(f'{place}. {found.score:.4f}  [{found.passage.docid}]{where} {found.passage.full_title}\n   {found.passage.text}')


def _passages(options: argparse.Namespace) -> None:
    inputs.check_index(options.index)
    from atlas_jax.knowledge import passage_files
    written, held_back = passage_files.write(options.index, pathlib.Path(options.to), options.hold_back, options.seed)
    print(f'{options.to}: {written} passages, {held_back} held back')


def _compress(options: argparse.Namespace) -> None:
    inputs.check_index(options.index)
    has_model = bool(options.model or options.reader or options.retriever)
    if options.questions and not has_model:
        raise errors.ConfigError('--questions needs the model that embeds them; give --model, or --reader and --retriever')
    if has_model:
        inputs.check_model(options)
    from atlas_jax.index.embedding_index import EmbeddingIndex
    from atlas_jax.searchers import codes_building, codes_files
    settings = codes_building.Settings(options.bytes, options.rescore, options.sample, options.min_recall, options.accept_recall,
                                       options.metric)
    if has_model:
        index = cli_options.open_index(options)
        atlas = cli_options.load_model(options)
        index.check(atlas)
        queries = None
        if options.questions:
            from atlas_jax.steps import prepare
            queries = prepare.embed_questions(atlas, prepare.read_examples(atlas, options.questions, labelled=False))
        made = codes_building.compress(index.index, settings, queries)
    else:
        made = codes_building.compress(EmbeddingIndex.open(options.index), settings)
    cli_options.print_json(codes_files.figures(made))


def _compare(options: argparse.Namespace) -> None:
    from atlas_jax.compare import searchers
    from atlas_jax.io import checksum
    from atlas_jax.steps import prepare
    index = cli_options.open_index(options)
    atlas = cli_options.load_model(options)
    examples = prepare.read_examples(atlas, options.questions)
    comparison = searchers.compare(atlas, index, examples, options.searchers, options.top_k, options.fit,
                                   checksum.sha256_file(options.questions))
    print(searchers.as_text(comparison))
    cli_options.write_json(options.json, comparison.figures())
