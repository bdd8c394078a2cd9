"""`atlas-jax answer`: an answer, the passages it came from, and how much the decoder looked at each."""

import argparse
import dataclasses

from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `answer`."""
    parser = cli_options.command(commands, 'answer', _answer, 'Answer a question from the index, with its sources.',
                                 'atlas-jax answer "who discovered radium?" --project PROJECT')
    parser.add_argument('question', nargs='+', metavar='QUESTION', help='one or more questions, each in quotes')
    cli_options.add_model(parser)
    flags.add_project(parser)
    # Closed book where none is given.
    cli_options.add_index(parser, required=False, purpose='what to answer from; without it, from the reader\'s memory alone')
    parser.add_argument('--n_context', type=cli_options.positive, metavar='N', help='passages to read (default: as trained)')
    cli_options.add_search(parser)
    add_decoding(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Adds the options of decoding.DecodingConfig, whose values `decoding_config` reads."""
    group = parser.add_argument_group('how answers are generated')
    group.add_argument('--num_beams', type=int, metavar='N', help='sequences that are followed at once (default 1: greedy)')
    group.add_argument('--length_penalty', type=float, metavar='P', help='beams are ranked by log likelihood / length ** P (default 1)')
    group.add_argument('--min_length', type=int, metavar='N', help='no answer ends before it has N tokens, start token included')
    group.add_argument('--max_length', type=int, metavar='N', help='longest answer in tokens, start token included (default: as trained)')
    group.add_argument('--num_return_sequences', type=int, metavar='N', help='best answers to show, at most num_beams (default 1)')


def decoding_config(options: argparse.Namespace):
    """The DecodingConfig that the options ask for.

    Raises ConfigError for a value that is out of range.
    """
    from atlas_jax.decoding import DecodingConfig
    # A flag for every field, under the field's name; a flag that was not given keeps the field's default.
    names = [field.name for field in dataclasses.fields(DecodingConfig)]
    return DecodingConfig(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})


def _answer(options: argparse.Namespace) -> None:
    # Before jax is imported, and models and index are opened: a mistake is told at once.
    for question in options.question:
        inputs.check_question(question)
    for folder in filter(None, [options.index, *options.also]):
        inputs.check_index(folder)
    inputs.check_store(options.store)
    inputs.check_model(options)
    decoding = decoding_config(options)
    # Without an index the reader answers from memory: the closed book that retrieval is compared with.
    index = cli_options.open_indexes(options) if options.index else None
    atlas = cli_options.load_model(options)
    answers = atlas.answer(options.question, index, n_context=options.n_context, decoding=decoding, search=options.searcher)
    # For programs: everything that the Python object has.
    if options.json:
        cli_options.print_json([dataclasses.asdict(answer) for answer in answers])
        return
    for answer in answers:
        print(as_text(answer))


def as_text(answer) -> str:
    """The answer and its passages (an api.Answer) for reading in a terminal."""
    score = '' if answer.score is None else f'  (score {answer.score:.3f})'
    lines = [f'question: {answer.question}', f'answer:   {answer.text}{score}']
    lines += [f'          {other.text}  (score {other.score:.3f})' for other in answer.alternatives]
    for place, passage in enumerate(answer.passages, start=1):
        lines += [f'  {place}. score {passage.score:.3f}, attention {passage.attention:.0%}  [{passage.docid}] {passage.title}',
                  f'     {passage.text}']
    return '\n'.join(lines)
