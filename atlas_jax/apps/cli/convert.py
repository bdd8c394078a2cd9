"""`atlas-jax convert`: writes a model as another kind of checkpoint."""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options

_PURPOSE = ('Convert a model into another kind: Hugging Face folders, T5X checkpoints, original '
            'Atlas checkpoints and runs of atlas_jax are read, and recognised by their files. '
            'Original checkpoints are never unpickled.')


def add_commands(commands) -> None:
    """Adds `convert`."""
    parser = cli_options.command(commands, 'convert', _convert, _PURPOSE,
                                 'atlas-jax convert checkpoint_1100000 --to hf --out t5-large '
                                 '--tokenizer spiece.model')
    parser.add_argument('source', metavar='SOURCE',
                        help='folder of the model, or an original model.pth.tar')
    parser.add_argument('--to', required=True, choices=('hf', 't5x', 'atlas_jax'),
                        help='kind to write')
    arguments.folder(parser, '--out', 'folder to write; it must not exist yet', required=True)
    parser.add_argument('--part', choices=('reader', 'retriever', 'both'),
                        help='part to write of a model that has both (default: all that the kind '
                             'can hold)')
    arguments.folder(parser, '--retriever',
                     'second source: a retriever for a source that is a reader')
    arguments.switch(parser, '--scan', 'T5X only: all layers of a parameter in one array')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32',
                        help='dtype of the written parameters (default float32)')
    parser.add_argument('--reader_tokenizer', '--tokenizer', metavar='DIR',
                        help='folder of the T5 tokenizer, or its spiece.model (default: the one '
                             'beside the reader)')
    arguments.folder(parser, '--retriever_tokenizer', 'folder of the BERT tokenizer; with an '
                     'original checkpoint, optionally also of the BERT\'s config.json (default: '
                     'the one beside the retriever)')
    cli_options.add_no_verify(parser)


def _convert(options: argparse.Namespace) -> None:
    if pathlib.Path(options.out).exists():
        raise errors.ConfigError(f'{options.out}: exists already; give a folder that does not '
                                 'exist yet')
    for source in (options.source, options.retriever, options.reader_tokenizer,
                   options.retriever_tokenizer):
        file_checks.check_model_folder(source)
    from atlas_jax.conversion import convert
    # Parameters are converted one at a time: an 11B model needs the memory of its largest matrix.
    written = convert.convert(arguments.as_options(convert.Request, options))
    parts = ', '.join(f'{name} with {len(part.shapes)} parameters'
                      for name, part in written.items())
    print(f'{options.out}: {parts}')
    # Loss and temperatures belong to a run, not to a model, so they are printed and not written.
    if options.to == 'atlas_jax' and (hint := convert.distillation_hint(options.source)):
        bindings = ' '.join(f'--gin.DistillConfig.{name}={value!r}' for name, value in hint.items())
        print(f'it was trained with {bindings}; all its options are in '
              f'{options.out}/{convert.OPTIONS_FILE}')
