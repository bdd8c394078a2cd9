"""`atlas-jax answer`: prints an answer, its passages, and how much the reader attended to each."""

import argparse
import dataclasses

from atlas_jax.apps.cli import arguments, file_checks, flags
from atlas_jax.apps.cli import options as cli_options

_MOST_WORDS = 5  # words of a passage that --explain shows
CLOSED_BOOK = 'index to answer from; without it, the reader answers from its memory'


def add_commands(commands) -> None:
    """Adds `answer`."""
    parser = cli_options.command(commands, 'answer', _answer,
                                 'Answer a question from the index, with its sources.',
                                 'atlas-jax answer "who discovered radium?" --project PROJECT')
    parser.add_argument('question', nargs='+', metavar='QUESTION',
                        help='one or more questions, each in quotes')
    cli_options.add_model(parser)
    flags.add_project(parser)
    cli_options.add_index(parser, required=False, purpose=CLOSED_BOOK)
    cli_options.add_n_context(parser)
    cli_options.add_search(parser)
    add_decoding(parser)
    _add_confidence(parser)
    arguments.switch(parser, '--json', 'print JSON instead of text')


def _add_confidence(parser: argparse.ArgumentParser) -> None:
    """Adds --explain, --abstain_below and --show_guess."""
    group = parser.add_argument_group('how far to trust an answer (docs/confidence.md)')
    arguments.switch(group, '--explain', 'show how much the answer needs each passage, and which '
                     'words had the most attention')
    group.add_argument('--abstain_below', type=float, metavar='C',
                       help='say "I do not know" if the confidence is below C (0 to 1)')
    arguments.switch(group, '--show_guess', 'show the answer that was withheld')


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of decoding.DecodingConfig, which `decoding_config` reads."""
    group = parser.add_argument_group('how answers are generated')
    # DecodingConfig itself checks the values.
    for flag, metavar, kind, text in (
            ('num_beams', 'N', int, 'beams of the search for an answer (default 1: greedy)'),
            ('length_penalty', 'P', float,
             'beams are ranked by log likelihood / length ** P (default 1)'),
            ('min_length', 'N', int,
             'shortest answer in tokens, including the start token'),
            ('max_length', 'N', int,
             'longest answer in tokens, including the start token (default: as trained)'),
            ('num_return_sequences', 'N', int,
             'best answers to show, at most num_beams (default 1)')):
        group.add_argument(f'--{flag}', type=kind, metavar=metavar, help=text)
    arguments.switch(group, '--quote',
                     'prefer a beam whose answer appears word for word in a passage', default=None)


def decoding_config(options: argparse.Namespace):
    """Returns the DecodingConfig of the flags. Raises ConfigError: a value is out of range."""
    from atlas_jax.decoding import DecodingConfig
    return arguments.as_options(DecodingConfig, options)


def _answer(options: argparse.Namespace) -> None:
    # Mistakes are reported before jax is imported and model and index are opened.
    from atlas_jax.apps.project import questions
    for question in options.question:
        questions.check(question)
    file_checks.check_indexes(options)
    file_checks.check_model(options)
    file_checks.check_abstention(options.model, options.abstain_below)
    decoding = decoding_config(options)
    index = cli_options.open_indexes(options) if options.index else None
    atlas = cli_options.load_model(options)
    answers = atlas.answer(options.question, index, n_context=options.n_context, decoding=decoding,
                           search=options.searcher, explain=options.explain,
                           abstain_below=options.abstain_below)
    if not options.show_guess:
        answers = [dataclasses.replace(answer, guess=None) for answer in answers]
    if options.json:
        cli_options.print_json([dataclasses.asdict(answer) for answer in answers])
        return
    for answer in answers:
        print(as_text(answer, options.model))


def as_text(answer, model: str | None = None) -> str:
    """Returns an api.Answer with its passages as text for a terminal. `model` is the folder named
    in the hint to calibrate.
    """
    score = '' if answer.score is None else f'  (score {answer.score:.3f})'
    lines = [f'question: {answer.question}', f'answer:   {answer.text}{score}']
    lines += [f'          {other.text}  (score {other.score:.3f})' for other in answer.alternatives]
    if answer.guess is not None:
        lines.append(f'guess:    {answer.guess}')
    lines.append(f'confidence: {_confidence(answer, model)}')
    for rank, passage in enumerate(answer.passages, start=1):
        lines += [f'  {rank}. score {passage.score:.3f}, attention {passage.attention:.0%}  '
                  f'[{passage.docid}] {passage.title}',
                  f'     {passage.text}', *_explanation(passage)]
    return '\n'.join(lines)


def _confidence(answer, model: str | None) -> str:
    if answer.confidence is not None:
        return f'{answer.confidence:.2f}'
    return (f'not calibrated: `atlas-jax calibrate --model {model or "RUN"} --index INDEX '
            '--examples FILE` makes it')


def _explanation(passage) -> list[str]:
    """Returns the lines that explain a passage; [] without --explain."""
    lines = []
    if passage.carried is not None:
        change = 'falls' if passage.carried >= 0 else 'rises'
        lines.append(f'     without it the answer\'s log likelihood {change} by '
                     f'{abs(passage.carried):.3f}')
    if passage.words:
        most = sorted(passage.words, key=lambda pair: -pair[1])[:_MOST_WORDS]
        words = ', '.join(f'{word} {share:.1%}' for word, share in most)
        lines.append(f'     attention to its words: {words}')
    return lines
