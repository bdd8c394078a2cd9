"""`atlas-jax answer`: an answer, the passages it came from, and how much the decoder looked at each."""

import argparse
import dataclasses

from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options

_MOST_WORDS = 5  # of a passage that are shown


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
    add_confidence(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')


def add_confidence(parser: argparse.ArgumentParser) -> None:
    """Adds --explain, --abstain_below and --show_guess."""
    group = parser.add_argument_group('how far to trust an answer (docs/confidence.md)')
    group.add_argument('--explain', action='store_true', help='say how much the answer needs each passage, and which words were looked at')
    group.add_argument('--abstain_below', type=float, metavar='C', help='say "I do not know" where the confidence is below C (0 to 1)')
    group.add_argument('--show_guess', action='store_true', help='show what was withheld')


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Adds the options of decoding.DecodingConfig, whose values `decoding_config` reads."""
    group = parser.add_argument_group('how answers are generated')
    group.add_argument('--num_beams', type=int, metavar='N', help='sequences that are followed at once (default 1: greedy)')
    group.add_argument('--length_penalty', type=float, metavar='P', help='beams are ranked by log likelihood / length ** P (default 1)')
    group.add_argument('--min_length', type=int, metavar='N', help='no answer ends before it has N tokens, start token included')
    group.add_argument('--max_length', type=int, metavar='N', help='longest answer in tokens, start token included (default: as trained)')
    group.add_argument('--quote', action='store_true', default=None, help='prefer a beam that stands word for word in a passage')
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
    from atlas_jax.project import questions
    for question in options.question:
        questions.check(question)
    for folder in filter(None, [options.index, *options.also]):
        inputs.check_index(folder)
    inputs.check_store(options.store)
    inputs.check_model(options)
    inputs.check_abstention(options.model, options.abstain_below)
    decoding = decoding_config(options)
    # Without an index the reader answers from memory: the closed book that retrieval is compared with.
    index = cli_options.open_indexes(options) if options.index else None
    atlas = cli_options.load_model(options)
    answers = atlas.answer(options.question, index, n_context=options.n_context, decoding=decoding, search=options.searcher,
                           explain=options.explain, abstain_below=options.abstain_below)
    if not options.show_guess:
        answers = [dataclasses.replace(answer, guess=None) for answer in answers]
    # For programs: everything that the Python object has.
    if options.json:
        cli_options.print_json([dataclasses.asdict(answer) for answer in answers])
        return
    for answer in answers:
        print(as_text(answer, options.model))


def as_text(answer, model: str | None = None) -> str:
    """Returns the answer and its passages (an api.Answer) for reading in a terminal; `model` is the folder to calibrate."""
    score = '' if answer.score is None else f'  (score {answer.score:.3f})'
    lines = [f'question: {answer.question}', f'answer:   {answer.text}{score}']
    lines += [f'          {other.text}  (score {other.score:.3f})' for other in answer.alternatives]
    if answer.guess is not None:
        lines.append(f'guess:    {answer.guess}')
    lines.append(f'confidence: {_confidence(answer, model)}')
    for place, passage in enumerate(answer.passages, start=1):
        lines += [f'  {place}. score {passage.score:.3f}, attention {passage.attention:.0%}  [{passage.docid}] {passage.title}',
                  f'     {passage.text}', *_explained(passage)]
    return '\n'.join(lines)


def _confidence(answer, model: str | None) -> str:
    if answer.confidence is not None:
        return f'{answer.confidence:.2f}'
    return f'not calibrated: `atlas-jax calibrate --model {model or "RUN"} --index INDEX --examples FILE` makes it'


def _explained(passage) -> list[str]:
    """Returns what was found out of a passage where it was asked to be explained."""
    lines = []
    if passage.carried is not None:
        lines.append(f'     without it the answer\'s log likelihood {"falls" if passage.carried >= 0 else "rises"} by '
                     f'{abs(passage.carried):.3f}')
    if passage.words:
        most = sorted(passage.words, key=lambda pair: -pair[1])[:_MOST_WORDS]
        lines.append(f'     attention to its words: {", ".join(f"{word} {share:.1%}" for word, share in most)}')
    return lines
