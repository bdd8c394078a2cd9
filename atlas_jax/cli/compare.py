"""`atlas-jax compare`: compares this code with PyTorch, number by number, and in time and memory."""

import argparse
import re

from atlas_jax import errors
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `compare`."""
    parser = cli_options.command(
        commands, 'compare', _compare, 'Run the same models on the same tokens here and in PyTorch, and compare numbers, time and memory.',
        'atlas-jax compare --reader models/reader --retriever models/retriever --random 4x10x162 --grads --out ours.npz')
    models = parser.add_argument_group('models', 'either --model, or --reader and perhaps --retriever')
    models.add_argument('--model', metavar='DIR', help='folder that `atlas-jax train` wrote')
    models.add_argument('--reader', metavar='DIR', help='folder of a T5')
    models.add_argument('--retriever', metavar='DIR', help='folder of a BERT, Contriever or sentence transformer')
    models.add_argument('--layer_norm', choices=('true', 'second_moment'),
                        help="the retriever's layer norm; released Atlas checkpoints need second_moment (default: the folder's setting)")
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    _add_inputs(parser.add_argument_group('inputs', 'one of --inputs, --data and --random'))
    _add_comparison(parser.add_argument_group('comparison'))
    parser.add_argument('--out', required=True, metavar='FILE.npz', help='file to write our quantities to, named <batch>/<quantity>')
    parser.add_argument('--report', metavar='FILE.html', help='HTML page to write, with both tables')
    cli_options.add_json(parser)


def _add_inputs(group) -> None:
    group.add_argument('--inputs', metavar='FILE.npz', help='token arrays, batches first (atlas_jax/compare/inputs.py)')
    group.add_argument('--data', metavar='FILE.jsonl', help='questions with answers; needs --index')
    group.add_argument('--index', metavar='DIR', help='finds the passages for the questions')
    group.add_argument('--store', metavar='DIR', help='store of its passages (default: where they were when it was built)')
    cli_options.add_force(group)
    group.add_argument('--random', type=_size, metavar='BxNxL', help='random tokens: batch x passages x tokens a passage, such as 4x10x162')
    group.add_argument('--batch_size', type=cli_options.positive, default=4, metavar='N', help='questions a batch (default 4)')
    group.add_argument('--n_context', type=cli_options.positive, default=10, metavar='N', help='passages a question (default 10)')
    group.add_argument('--batches', type=cli_options.positive, default=1, metavar='N', help='batches of --data or --random (default 1)')


def _add_comparison(group) -> None:
    group.add_argument('--against', default='torch', metavar='torch|FILE.npz',
                       help='side to compare with: PyTorch, or recorded quantities (default torch)')
    group.add_argument('--gold_score_mode', default='pdist', metavar='MODE',
                       help='distillation loss: pdist, emdr, loop or adist (default pdist)')
    group.add_argument('--temperature_gold', type=float, default=0.01, metavar='T', help='divides the gold scores (default 0.01)')
    group.add_argument('--temperature_score', type=float, default=0.01, metavar='T', help="divides the retriever's scores (default 0.01)")
    group.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='dtype of both sides (default float32)')
    group.add_argument('--max_length', type=cli_options.count, default=12, metavar='N',
                       help='length of generated sequences with the start token; 0 generates none (default 12)')
    group.add_argument('--grads', action='store_true', help='compare gradients too')
    group.add_argument('--rtol', type=float, metavar='R', help='allowed relative difference (default: 1e-5, gradients 5e-5, or three times '
                       'PyTorch\'s own float32 error)')
    group.add_argument('--rounds', type=cli_options.count, default=3, metavar='N', help='train steps to time on each side (default 3)')
    group.add_argument('--variant', default='tuned', metavar='NAME',
                       help='PyTorch implementation to compare with: original_512, original_200, '
                       'original_longest, tuned, tuned_compiled, flat, flat_compiled (default tuned)')
    group.add_argument('--repaired', action='store_true', help='give PyTorch our allocator settings, and flush-denormal')


def _compare(options: argparse.Namespace) -> None:
    _check_inputs(options)
    from atlas_jax.compare import comparison as compare
    from atlas_jax.compare.pytorch import variants
    variants.variant(options.variant)  # a misspelt name is refused before models are loaded
    cli_options.keep_programs(options)
    models = compare.Models(options.reader, options.retriever, options.model, options.layer_norm)
    # The flags are named as the fields of Options, which checks them.
    names = ('gold_score_mode', 'temperature_gold', 'temperature_score', 'dtype', 'max_length', 'grads', 'rtol', 'rounds', 'variant',
             'repaired')
    settings = compare.Options(**{name: getattr(options, name) for name in names})
    inputs = options.inputs
    if options.random:
        batch, n_context, length = options.random
        inputs = compare.Random(batch, n_context, length, options.batches)
    elif options.data:
        inputs = _text(options)
    figures = compare.compare(models, inputs, options.out, settings, options.against, options.report)
    compare.save(options.json, figures)
    # After everything was written, so that a disagreement can be looked at.
    compare.raise_unless_agrees(figures)


def _check_inputs(options: argparse.Namespace) -> None:
    """Looks at all files before jax is imported. Raises UserError."""
    if bool(options.model) == bool(options.reader) or options.model and options.retriever:
        raise errors.ConfigError('give --model DIR, or --reader DIR and perhaps --retriever DIR')
    # Two sources would leave open which one was compared.
    if sum(bool(getattr(options, name)) for name in ('inputs', 'data', 'random')) != 1:
        raise errors.ConfigError('give one of --inputs FILE.npz, --data FILE.jsonl with --index DIR, and --random BxNxL')
    # Questions alone are no inputs: both sides read the same passages, which our index finds.
    if options.data and not options.index:
        raise errors.ConfigError('--data needs --index DIR, which finds the passages for the questions')
    for folder in (options.model, options.reader, options.retriever):
        inputs.check_model_folder(folder)
    if options.inputs:
        from atlas_jax.compare import inputs as compare_inputs
        compare_inputs.read(options.inputs)
    if options.data:
        inputs.check_index(options.index, options.store)
        inputs.check_examples(options.data, inputs.task_of(options.model, None, {}), options.batches * options.batch_size)


def _text(options: argparse.Namespace):
    from atlas_jax.compare import text as compare_text
    return compare_text.from_text(options.data, options.index, options.store, options.reader, options.retriever, options.model,
                                  options.n_context, options.batch_size, options.batches, options.force)


def _size(text: str) -> tuple[int, int, int]:
    """Parses batch x passages x tokens, such as 4x10x162, as a type of argparse."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'"{text}" is not a size; give batch x passages x tokens, such as 4x10x162')
    return int(match.group(1)), int(match.group(2)), int(match.group(3))
