"""`atlas-jax data negatives`: finds hard negatives of questions in an index, to fine-tune a
retriever.
"""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.searchers import config

_FILTERS = ('answers', 'margin', 'none')


def add_commands(group) -> None:
    """Adds `negatives` to the commands of `data`."""
    parser = cli_options.command(
        group, 'negatives', _negatives, 'Write questions with their passages and hard negatives: '
                                        'passages that a search finds and that hold no answer.',
        'atlas-jax data negatives --index INDEX --questions train.jsonl --to mined.jsonl')
    cli_options.add_index(parser)
    arguments.file(parser, '--questions', 'JSON lines with question, and answers, gold_docids or '
                   'positive_passages', nargs='+', required=True)
    arguments.file(parser, '--to', 'file to write', required=True)
    parser.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST, default='bm25',
                        help='search method; all except bm25 (default) need the model')
    arguments.number(parser, '--top_k', 'passages searched', 100)
    arguments.number(parser, '--negatives', 'negatives of a question', 10)
    parser.add_argument(
        '--filter', choices=_FILTERS, default=_FILTERS[0],
        help='how false negatives are left out: answers (passages with an answer in them, the '
             'default), margin (passages that score above the best positive less --margin), or '
             'none')
    parser.add_argument('--margin', type=float, default=0.0, metavar='SCORE',
                        help='see --filter (default 0)')
    cli_options.add_model(parser)


def _negatives(options: argparse.Namespace) -> None:
    # Mistakes in the command line and the questions are reported before jax is imported.
    if options.searcher != 'bm25':
        file_checks.check_model(options)
    elif cli_options.names_model(options):
        raise errors.ConfigError('--searcher bm25 needs no model; leave it out, or choose '
                                 '--searcher exact to search with it')
    file_checks.check_output_file('--to', options.to)
    file_checks.check_index(options.index, options.store)
    file_checks.check_examples(options.questions, None)
    from atlas_jax.evaluation import negative_mining
    settings = arguments.as_options(negative_mining.MiningSettings, options)
    index = cli_options.open_index(options)

    def open_search() -> negative_mining.Search:
        if options.searcher == 'bm25':
            return negative_mining.search_by_words(options.index, options.store)
        return negative_mining.search_by_model(cli_options.load_model(options), index,
                                               options.searcher)

    counts = negative_mining.mine(options.questions, open_search, index.store, settings,
                                  pathlib.Path(options.to))
    print(f'{options.to}: {counts.written} questions, {counts.negatives} negatives; left out: '
          f'{counts.gold} passages that are gold or equal a positive, {counts.filtered} by the '
          f'filter {options.filter}, {counts.without_positive} questions without a positive')
