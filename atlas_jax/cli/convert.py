"""`atlas-jax convert`: writes a model as another kind of checkpoint."""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options

_PURPOSE = """Convert a model into another kind: Hugging Face folders, T5X checkpoints, original Atlas checkpoints and runs of atlas_jax \
are read, and recognised by their files. Original checkpoints are never unpickled."""


def add_commands(commands) -> None:
    """Adds `convert`."""
    parser = cli_options.command(commands, 'convert', _convert, _PURPOSE,
                                 'atlas-jax convert checkpoint_1100000 --to hf --out t5-large --tokenizer spiece.model')
    parser.add_argument('source', metavar='SOURCE', help='folder of the model, or an original model.pth.tar')
    parser.add_argument('--to', required=True, choices=('hf', 't5x', 'atlas_jax'), help='kind to write')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write; it must not exist yet')
    parser.add_argument('--part', choices=('reader', 'retriever', 'both'),
                        help='part to write of a model that has both (default: all that the kind can hold)')
    parser.add_argument('--retriever', metavar='DIR', help='second source, for a retriever beside a reader')
    parser.add_argument('--scan', action='store_true', help='T5X only: all layers of a parameter in one array')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32',
                        help='dtype of the written parameters (default float32)')
    parser.add_argument('--reader_tokenizer', '--tokenizer', metavar='DIR', help='folder of the T5 tokenizer, or its spiece.model '
                        '(default: what lies with the reader)')
    parser.add_argument('--retriever_tokenizer', metavar='DIR', help='folder of the BERT tokenizer; for an original checkpoint it may have '
                        'the config.json of the BERT too (default: what lies with the retriever)')
    cli_options.add_no_verify(parser)


def _convert(options: argparse.Namespace) -> None:
    if pathlib.Path(options.out).exists():
        raise errors.ConfigError(f'{options.out}: exists already; give a folder that does not exist yet')
    for source in (options.source, options.retriever, options.reader_tokenizer, options.retriever_tokenizer):
        inputs.check_model_folder(source)
    from atlas_jax.conversion import convert
    # A parameter at a time, so that an 11B model needs the memory of its largest matrix.
    written = convert.convert(convert.Request(
        options.source, options.to, options.out, options.part, options.retriever, options.scan, options.dtype, options.reader_tokenizer,
        options.retriever_tokenizer))
    print(f'{options.out}: {", ".join(f"{name} with {len(part.shapes)} parameters" for name, part in written.items())}')
    # Loss and temperatures are part of a run and not of a model, so they are told and not written.
    if options.to == 'atlas_jax' and (hint := convert.distillation_hint(options.source)):
        bindings = ' '.join(f'--gin.DistillConfig.{name}={value!r}' for name, value in hint.items())
        print(f'it was trained with {bindings}; all its options are in {options.out}/{convert.OPTIONS_FILE}')
