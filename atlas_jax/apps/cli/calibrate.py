"""`atlas-jax calibrate`: fits the confidence of a model's answers to questions that it was not
trained on.
"""

import argparse

from atlas_jax.apps.cli import answer as cli_answer
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `calibrate`."""
    parser = cli_options.command(
        commands, 'calibrate', _calibrate, 'Fit the confidence of a model\'s answers to held-out '
                                           'questions, and keep it with the model.',
        'atlas-jax calibrate --model RUN --index INDEX --examples held-out.jsonl')
    arguments.folder(parser, '--model', 'folder that `atlas-jax train` or `convert` wrote; the '
                     'calibration is kept in it', required=True)
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    cli_options.add_index(parser, required=False, purpose=cli_answer.CLOSED_BOOK)
    arguments.file(parser, '--examples', 'questions with answers that the model was not trained '
                   'on', required=True, nargs='+')
    cli_options.add_n_context(parser)
    arguments.number(parser, '--batch_size', 'questions at a time', 16)
    arguments.switch(parser, '--few', 'fit it to fewer than 30 questions too')
    cli_options.add_search(parser)
    cli_answer.add_decoding(parser)
    cli_options.add_json(parser)


def _calibrate(options: argparse.Namespace) -> None:
    # Mistakes are reported before jax is imported.
    file_checks.check_own_model(options.model)
    file_checks.check_indexes(options)
    file_checks.check_examples(options.examples, file_checks.task_of(options.model, None, {}))
    decoding = cli_answer.decoding_config(options)
    cli_options.keep_programs(options)
    from atlas_jax.answering import api, prepare
    from atlas_jax.checkpoints import calibration, run_folder
    from atlas_jax.evaluation import calibrate
    # A training run that continues in this folder would change the weights meanwhile.
    with run_folder.writing(options.model):
        calibration.remove_unreadable(options.model)
        index = cli_options.open_indexes(options) if options.index else None
        atlas = api.Atlas.load(options.model)
        examples = prepare.read_examples(atlas, options.examples)
        settings = arguments.as_options(calibrate.CalibrationOptions, options, decoding=decoding,
                                        search=options.searcher)
        found = calibrate.calibrate(atlas, examples, index, options.model, settings)
        calibration.write(options.model, found)
    # The model's folder has the fit; programs that watch models want the figures.
    cli_options.write_json(options.json, {**found.figures, 'questions': found.questions})
    for line in lines_of(found):
        print(line)
    print(f'{options.model}: answers of this model now have a confidence')


def lines_of(calibration) -> list[str]:
    """Returns how good a checkpoints.calibration.Calibration is, as lines for a terminal."""
    figures = calibration.figures
    lines = [f'{calibration.questions} questions, {calibration.right} right ({calibration.metric} '
             f'{figures["right"]:.3f}, 95 % interval {figures["right_low"]:.3f} to '
             f'{figures["right_high"]:.3f})']
    # Too few questions for five folds have no such figures.
    if 'ece' in figures:
        lines.append(f'on questions left out of the fit: calibration error {figures["ece"]:.3f}, '
                     f'area under risk–coverage {figures["aurc"]:.3f}, coverage at 95 % precision '
                     f'{figures["coverage_at_95"]:.3f}')
    if 'hidden' in figures:
        lines.append(f'{figures["hidden"]:.0f} questions again without the passages that answer '
                     f'them: {figures["hidden_right"]:.3f} right, mean confidence '
                     f'{figures["hidden_confidence"]:.3f}')
    return lines
