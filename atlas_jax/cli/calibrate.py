"""`atlas-jax calibrate`: fits the confidence of a model's answers to questions that it was not trained on."""

import argparse

from atlas_jax.cli import answer as cli_answer
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `calibrate`."""
    parser = cli_options.command(
        commands, 'calibrate', _calibrate, 'Fit the confidence of a model\'s answers to held-out questions, and keep it with the model.',
        'atlas-jax calibrate --model RUN --index INDEX --examples held-out.jsonl')
    parser.add_argument('--model', required=True, metavar='DIR', help='folder that `atlas-jax train` or `convert` wrote; the calibration '
                        'is kept in it')
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    cli_options.add_index(parser, required=False, purpose='what to answer from; without it, from the reader\'s memory alone')
    parser.add_argument('--examples', required=True, nargs='+', metavar='FILE',
                        help='questions with answers that the model was not trained on')
    parser.add_argument('--n_context', type=cli_options.positive, metavar='N', help='passages to read (default: as trained)')
    parser.add_argument('--batch_size', type=cli_options.positive, default=16, metavar='N', help='questions at a time (default 16)')
    parser.add_argument('--few', action='store_true', help='fit it to fewer than 30 questions too')
    cli_options.add_search(parser)
    cli_answer.add_decoding(parser)
    cli_options.add_json(parser)


def _calibrate(options: argparse.Namespace) -> None:
    # Before jax is imported: a mistake is told at once.
    inputs.check_own_model(options.model)
    for index in filter(None, [options.index, *options.also]):
        inputs.check_index(index)
    inputs.check_examples(options.examples, inputs.task_of(options.model, None, {}))
    decoding = cli_answer.decoding_config(options)
    cli_options.keep_programs(options)
    from atlas_jax import api
    from atlas_jax.checkpoints import confidence, run_folder
    from atlas_jax.evaluation import calibrate
    from atlas_jax.steps import prepare
    with run_folder.writing(options.model):  # a run that goes on there would change the weights meanwhile
        confidence.remove_unreadable(options.model)
        index = cli_options.open_indexes(options) if options.index else None
        atlas = api.Atlas.load(options.model)
        examples = prepare.read_examples(atlas, options.examples)
        settings = calibrate.Options(options.n_context, options.batch_size, decoding, options.searcher, options.few)
        found = calibrate.calibrate(atlas, examples, index, options.model, settings)
        confidence.write(options.model, found)
    # The file itself has the fit; figures are what a program that watches models wants.
    cli_options.write_json(options.json, dict(found.figures) | {'questions': found.questions})
    for line in lines_of(found):
        print(line)
    print(f'{options.model}: answers of this model now have a confidence')


def lines_of(calibration) -> list[str]:
    """Returns what a calibration (a checkpoints.confidence.Calibration) is worth, for a terminal."""
    figures = calibration.figures
    lines = [f'{calibration.questions} questions, {calibration.right} right ({calibration.metric} {figures["right"]:.3f}, 95 % interval '
             f'{figures["right_low"]:.3f} to {figures["right_high"]:.3f})']
    # Too few questions for five parts have no figures of the kind.
    if 'ece' in figures:
        lines.append(f'on questions left out of the fit: calibration error {figures["ece"]:.3f}, area under risk–coverage '
                     f'{figures["aurc"]:.3f}, coverage at 95 % precision {figures["coverage_at_95"]:.3f}')
    if 'hidden' in figures:
        lines.append(f'{figures["hidden"]:.0f} questions again without the passages that answer them: {figures["hidden_right"]:.3f} right, '
                     f'mean confidence {figures["hidden_confidence"]:.3f}')
    return lines
