"""`atlas-jax compare`: compares this code with PyTorch, number by number, and in time and memory.
"""

import argparse
import re

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `compare`."""
    parser = cli_options.command(
        commands, 'compare', _compare, 'Run the same models on the same tokens here and in '
                                       'PyTorch, and compare numbers, time and memory.',
        'atlas-jax compare --reader models/reader --retriever models/retriever --random 4x10x162 '
        '--grads --out ours.npz')
    models = parser.add_argument_group('models',
                                       'either --model, or --reader and perhaps --retriever')
    arguments.folder(models, '--model', 'folder that `atlas-jax train` wrote')
    arguments.folder(models, '--reader', 'folder of a T5')
    arguments.folder(models, '--retriever',
                     'folder of a BERT, Contriever or sentence transformer')
    models.add_argument('--layer_norm', choices=('true', 'second_moment'),
                        help="the retriever's layer norm; released Atlas checkpoints need "
                             "second_moment (default: the folder's setting)")
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    _add_inputs(parser.add_argument_group('inputs', 'one of --inputs, --data and --random'))
    _add_comparison(parser.add_argument_group('comparison'))
    arguments.file(parser, '--out', 'file to write our quantities to, named <batch>/<quantity>',
                   'FILE.npz', required=True)
    arguments.file(parser, '--report', 'HTML page to write, with both tables', 'FILE.html')
    cli_options.add_json(parser)


def _add_inputs(group) -> None:
    arguments.file(group, '--inputs',
                   'token arrays, batches first (atlas_jax/apps/compare/token_arrays.py)',
                   'FILE.npz')
    arguments.file(group, '--data', 'questions with answers; needs --index', 'FILE.jsonl')
    arguments.folder(group, '--index', 'index to find the passages for the questions in')
    arguments.folder(group, '--store', cli_options.STORE_OF_INDEX)
    cli_options.add_force(group)
    group.add_argument('--random', type=_size, metavar='BxNxL',
                       help='random tokens: batch x passages x tokens a passage, such as 4x10x162')
    arguments.number(group, '--batch_size', 'questions a batch', 4)
    arguments.number(group, '--n_context', 'passages a question', 10)
    arguments.number(group, '--batches', 'batches of --data or --random', 1)


def _add_comparison(group) -> None:
    group.add_argument('--against', default='torch', metavar='torch|FILE.npz',
                       help='side to compare with: PyTorch, or recorded quantities (default torch)')
    group.add_argument('--gold_score_mode', default='pdist', metavar='MODE',
                       help='distillation loss: pdist, emdr, loop or adist (default pdist)')
    arguments.number(group, '--temperature_gold', 'divides the gold scores', 0.01, kind=float,
                     metavar='T')
    arguments.number(group, '--temperature_score', "divides the retriever's scores", 0.01,
                     kind=float, metavar='T')
    group.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32',
                       help='dtype of both sides (default float32)')
    arguments.number(group, '--max_length', 'length of generated sequences, including the start '
                     'token; 0 generates none', 12, kind=arguments.count)
    arguments.switch(group, '--grads', 'compare gradients too')
    arguments.number(group, '--rtol', 'allowed relative difference (default: 1e-5, gradients '
                     '5e-5, or three times PyTorch\'s own float32 error)', kind=float, metavar='R')
    arguments.number(group, '--rounds', 'train steps to time on each side', 3,
                     kind=arguments.count)
    group.add_argument('--variant', default='tuned', metavar='NAME',
                       help='PyTorch implementation to compare with: original_512, original_200, '
                            'original_longest, tuned, tuned_compiled, flat, flat_compiled '
                            '(default tuned)')
    arguments.switch(group, '--repaired',
                     'give PyTorch our allocator settings, and flush denormals to zero')


def _compare(options: argparse.Namespace) -> None:
    _check_inputs(options)
    from atlas_jax.apps.compare import comparison
    from atlas_jax.apps.compare.pytorch import variants
    variants.variant(options.variant)  # refuses a misspelt name before models are loaded
    cli_options.keep_programs(options)
    models = comparison.Models(options.reader, options.retriever, options.model,
                               options.layer_norm)
    settings = arguments.as_options(comparison.ComparisonOptions, options)
    inputs = options.inputs
    if options.random:
        batch, n_context, length = options.random
        inputs = comparison.Random(batch, n_context, length, options.batches)
    elif options.data:
        inputs = _text(options)
    figures = comparison.compare(models, inputs, options.out, settings, options.against,
                                 options.report)
    comparison.save(options.json, figures)
    # Everything is written first, so that the user can look at a difference.
    comparison.raise_unless_agrees(figures)


def _check_inputs(options: argparse.Namespace) -> None:
    """Checks all files before jax is imported. Raises UserError."""
    if bool(options.model) == bool(options.reader) or options.model and options.retriever:
        raise errors.ConfigError('give --model DIR, or --reader DIR and perhaps --retriever DIR')
    if sum(map(bool, (options.inputs, options.data, options.random))) != 1:
        raise errors.ConfigError('give one of --inputs FILE.npz, --data FILE.jsonl with --index '
                                 'DIR, and --random BxNxL')
    # Both sides read the same passages, which our index finds.
    if options.data and not options.index:
        raise errors.ConfigError('--data needs --index DIR, which finds the passages for the '
                                 'questions')
    for folder in (options.model, options.reader, options.retriever):
        file_checks.check_model_folder(folder)
    if options.inputs:
        from atlas_jax.apps.compare import token_arrays
        token_arrays.read(options.inputs)
    if options.data:
        file_checks.check_index(options.index, options.store)
        file_checks.check_examples(options.data, file_checks.task_of(options.model, None, {}),
                                   options.batches * options.batch_size)


def _text(options: argparse.Namespace):
    from atlas_jax.apps.compare import text as compare_text
    return compare_text.from_text(options.data, options.index, options.store, options.reader,
                                  options.retriever, options.model, options.n_context,
                                  options.batch_size, options.batches, options.force)


def _size(text: str) -> tuple[int, int, int]:
    """Parses batch x passages x tokens, such as 4x10x162, as an argparse type."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'"{text}" is not a size; give batch x passages x '
                                         'tokens, such as 4x10x162')
    return int(match.group(1)), int(match.group(2)), int(match.group(3))
