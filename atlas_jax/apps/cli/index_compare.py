"""`atlas-jax index compare`: measures the searchers of an index."""

import argparse

from atlas_jax.apps.cli import arguments
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.searchers import config


def add_commands(group) -> None:
    """Adds `compare` to the commands of `index`."""
    parser = cli_options.command(
        group, 'compare', _compare, 'Measure every searcher on questions whose passages are '
                                    'known; fit hybrid search to them.',
        'atlas-jax index compare INDEX --questions dev.jsonl --model RUN --fit')
    parser.add_argument('index', metavar='INDEX', help=cli_options.INDEX)
    arguments.file(parser, '--questions', 'JSON lines with "gold_docids", or with "answers" only',
                   required=True)
    arguments.folder(parser, '--store', cli_options.STORE_OF_INDEX)
    cli_options.add_force(parser)
    cli_options.add_model(parser)
    known = config.IN_GRAPH + config.ON_HOST
    parser.add_argument('--searchers', nargs='+', choices=known, default=known, metavar='NAME',
                        help=f'searchers to measure: {", ".join(known)} (default all)')
    arguments.number(parser, '--top_k', 'passages searched', 20)
    arguments.switch(parser, '--fit',
                     'fit the shares of hybrid search and save them beside the index')
    cli_options.add_json(parser)


def _compare(options: argparse.Namespace) -> None:
    from atlas_jax.answering import prepare
    from atlas_jax.evaluation import searcher_comparison
    from atlas_jax.io import checksum
    index = cli_options.open_index(options)
    atlas = cli_options.load_model(options)
    examples = prepare.read_examples(atlas, options.questions)
    comparison = searcher_comparison.compare(atlas, index, examples, options.searchers,
                                             options.top_k, options.fit,
                                             checksum.sha256_file(options.questions))
    print(searcher_comparison.as_text(comparison))
    cli_options.write_json(options.json, comparison.figures())
