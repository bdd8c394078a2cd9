"""`atlas-jax index compress`: makes the codes of an index for the searcher "codes"."""

import argparse

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.searchers import config


def add_commands(group) -> None:
    """Adds `compress` to the commands of `index`."""
    parser = cli_options.command(
        group, 'compress', _compress, 'Make codes of an index for the searcher "codes", or add '
                                      'those of new passages, and measure their recall.',
        'atlas-jax index compress INDEX --bytes 96')
    parser.add_argument('index', metavar='INDEX', help=cli_options.INDEX)
    arguments.number(parser, '--bytes', 'bytes of a passage on the devices (default 96, or as '
                     'many as the embeddings allow)')
    arguments.number(parser, '--rescore',
                     'candidates that are scored exactly when the recall is measured', 300)
    arguments.number(parser, '--sample', 'passages that the code is fitted to', 65_536)
    parser.add_argument('--min_recall', type=float, default=0.97, metavar='SHARE',
                        help='least share of the true 20 nearest among the candidates (default '
                             '0.97)')
    arguments.switch(parser, '--accept_recall', 'keep the codes even if they find fewer')
    parser.add_argument('--metric', choices=config.METRICS, default=config.METRICS[0],
                        help=f'metric of the searches (default {config.METRICS[0]})')
    arguments.file(parser, '--questions', 'JSON lines with questions to measure the recall with; '
                   'needs the model (default: passages, perturbed)')
    arguments.folder(parser, '--store', cli_options.STORE_OF_INDEX)
    arguments.switch(parser, '--force', 'use the model even if another one built the index')
    cli_options.add_model(parser)


def _compress(options: argparse.Namespace) -> None:
    file_checks.check_index(options.index)
    has_model = cli_options.names_model(options)
    if options.questions and not has_model:
        raise errors.ConfigError('--questions needs the model that embeds them; give --model, or '
                                 '--reader and --retriever')
    if has_model:
        file_checks.check_model(options)
    from atlas_jax.index.embedding_index import EmbeddingIndex
    from atlas_jax.searchers import codes_building, codes_files
    settings = arguments.as_options(codes_building.CodesSettings, options,
                                    bytes_a_row=options.bytes)
    if not has_model:
        codes = codes_building.compress(EmbeddingIndex.open(options.index), settings)
        cli_options.print_json(codes_files.figures(codes))
        return
    index = cli_options.open_index(options)
    atlas = cli_options.load_model(options)
    index.check(atlas)
    queries = None
    if options.questions:
        from atlas_jax.answering import prepare
        queries = prepare.embed_questions(
            atlas, prepare.read_examples(atlas, options.questions, labelled=False))
    cli_options.print_json(codes_files.figures(
        codes_building.compress(index.index, settings, queries)))
