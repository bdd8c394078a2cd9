"""`atlas-jax data negatives`: finds hard negatives of questions in an index, for a retriever's fine-tuning."""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options
from atlas_jax.searchers import config

_FILTERS = ('answers', 'margin', 'none')


def add_commands(group) -> None:
    """Adds `negatives` to the commands of `data`."""
    parser = cli_options.command(group, 'negatives', _negatives,
                                 'Write questions with their passages and with hard negatives: what a search finds and is no answer.',
                                 'atlas-jax data negatives --index INDEX --questions train.jsonl --to mined.jsonl')
    cli_options.add_index(parser)
    parser.add_argument('--questions', nargs='+', required=True, metavar='FILE',
                        help='JSON lines with question, and answers, gold_docids or positive_passages')
    parser.add_argument('--to', required=True, metavar='FILE', help='file to write')
    parser.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST, default='bm25',
                        help='search method; all but bm25 (default) need the model')
    parser.add_argument('--top_k', type=cli_options.positive, default=100, metavar='N', help='passages searched (default 100)')
    parser.add_argument('--negatives', type=cli_options.positive, default=10, metavar='N', help='negatives of a question (default 10)')
    parser.add_argument('--filter', choices=_FILTERS, default=_FILTERS[0], help='what leaves false negatives out: answers (passages with '
                        'an answer in them, the default), margin (passages that score above the best positive less --margin), or none')
    parser.add_argument('--margin', type=float, default=0.0, metavar='SCORE', help='see --filter (default 0)')
    cli_options.add_model(parser)


def _negatives(options: argparse.Namespace) -> None:
    # Everything that the command line alone can tell, before jax is imported.
    has_model = bool(options.model or options.reader or options.retriever)
    if options.searcher != 'bm25':
        inputs.check_model(options)
    elif has_model:
        raise errors.ConfigError('--searcher bm25 needs no model; leave it out, or choose --searcher exact to search with it')
    if not pathlib.Path(options.to).absolute().parent.is_dir():
        raise errors.ConfigError(f'--to {options.to}: there is no folder {pathlib.Path(options.to).absolute().parent}')
    inputs.check_index(options.index, options.store)
    inputs.check_examples(options.questions, None)
    from atlas_jax.evaluation import negatives
    settings = negatives.Settings(options.top_k, options.negatives, options.filter, options.margin)
    index = cli_options.open_index(options)

    def open_search() -> negatives.Search:
        if options.searcher == 'bm25':
            return negatives.by_words(options.index, options.store)
        return negatives.by_model(cli_options.load_model(options), index, options.searcher)

    counts = negatives.mine(options.questions, open_search, index.store, settings, pathlib.Path(options.to))
    print(f'{options.to}: {counts.written} questions, {counts.negatives} negatives; left out: {counts.gold} passages that are gold or '
          f'equal a positive, {counts.filtered} by the filter {options.filter}, {counts.without_positive} questions without a positive')
