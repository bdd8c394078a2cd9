"""`atlas-jax answer`: an answer, the passages it came from, and how much the decoder looked at each."""

import argparse
import dataclasses

from atlas_jax import cli_options


def add_commands(commands) -> None:
    """Adds `answer`."""
    parser = cli_options.command(commands, 'answer', _answer, 'Answer a question from the index, with its sources.',
                                 'atlas-jax answer "who discovered radium?" --model RUN --index INDEX')
    parser.add_argument('question', nargs='+', metavar='QUESTION', help='one or more questions, each in quotes')
    cli_options.add_model(parser)
    cli_options.add_index(parser, required=False, purpose='what to answer from; without it, from the reader\'s memory alone')
    parser.add_argument('--n_context', type=cli_options.positive, metavar='N', help='passages to read (default: as trained)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')


def _answer(options: argparse.Namespace) -> None:
    from atlas_jax import api
    index = api.Index.open(options.index, options.store) if options.index else None
    atlas = cli_options.load_model(options)
    answers = atlas.answer(options.question, index, n_context=options.n_context)
    if options.json:
        cli_options.print_json([dataclasses.asdict(answer) for answer in answers])
        return
    for answer in answers:
        print(as_text(answer))


def as_text(answer) -> str:
    """The answer and its passages (an api.Answer) for reading in a terminal."""
    lines = [f'question: {answer.question}', f'answer:   {answer.text}']
    for place, passage in enumerate(answer.passages, start=1):
        lines += [f'  {place}. score {passage.score:.3f}, attention {passage.attention:.0%}  [{passage.docid}] {passage.title}',
                  f'     {passage.text}']
    return '\n'.join(lines)
