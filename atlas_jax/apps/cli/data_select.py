"""`atlas-jax data few_shot` and `atlas-jax data check`: choose a few examples, and find duplicates
and leaks.
"""

import argparse
import pathlib

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options


def add_commands(group) -> None:
    """Adds `few_shot` and `check` to the commands of `data`."""
    parser = cli_options.command(
        group, 'few_shot', _few_shot, 'Choose a few examples, by a seed or from a list, and write '
                                      'them with a list of them (FILE.ids).',
        'atlas-jax data few_shot --from train.jsonl --to few.jsonl --n 64 --seed 0')
    arguments.file(parser, '--from', 'JSON lines, compressed or not; files, folders or quoted '
                   'patterns', dest='files', nargs='+', required=True)
    arguments.file(parser, '--to', 'file to write; with --split a folder', required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    arguments.number(how, '--n', 'draw N examples; with --per N for each value')
    arguments.file(how, '--ids', 'take the examples of a list: FILE.ids of an earlier choice, '
                   'examples such as train.64-shot.jsonl, or JSON with row numbers such as FiD\'s '
                   'dataindex')
    arguments.number(parser, '--seed', 'seed of the draw (default 0)', kind=arguments.count,
                     metavar='S')
    parser.add_argument('--per', metavar='FIELD',
                        help='draw N for each value of this field, such as label, subject or group')
    parser.add_argument('--list', metavar='NAME',
                        help='which list of an --ids file that has several')
    parser.add_argument('--split', metavar='FIELD',
                        help='write a file for each value of this field, such as subject')

    parser = cli_options.command(
        group, 'check', _check, 'Find near-duplicates and 13-word leaks between training data, '
                                'test questions and passages.',
        'atlas-jax data check --train train.jsonl --test test.jsonl --store STORE --to report')
    for side, what in (('train', 'examples or texts to learn from'), ('test', 'test questions'),
                       ('passages', 'passages')):
        arguments.file(parser, f'--{side}', f'JSON lines of {what}; files, folders or quoted '
                       'patterns', nargs='+', action='extend', default=[])
    arguments.folder(parser, '--store', 'passages from `atlas-jax data passages`')
    parser.add_argument('--near', type=float, default=0.8, metavar='SIMILARITY',
                        help='least similarity of near-duplicates, 0.3 to 1 (default 0.8); 0 does '
                             'not look for them')
    arguments.folder(parser, '--to',
                     'folder for report.json, and for found.jsonl, which lists all rows found')
    arguments.switch(parser, '--remove', 'write copies of the training files and passages without '
                     'these rows to DIR')


def _check(options: argparse.Namespace) -> None:
    sides = (options.train, options.test, options.passages)
    texts = bool(options.passages or options.store)
    if not options.test and (texts or not options.train):
        raise errors.ConfigError('give --test with --train, --passages or --store, or --train or '
                                 '--test alone')
    if options.remove and not options.to:
        raise errors.ConfigError('--remove needs --to DIR; no input is written over')
    file_checks.check_store(options.store)
    from atlas_jax.apps.datasets import contamination
    from atlas_jax.corpus import store as corpus_store
    folder = pathlib.Path(options.to) if options.to else None
    if options.remove:
        contamination.check_folder(pathlib.Path(options.to), options.train, options.passages,
                                   store=pathlib.Path(options.store) if options.store else None)
    store = corpus_store.PassageStore.open(options.store) if options.store else None
    report = contamination.check(*sides, store, options.near, show_progress=True)
    print(report.as_text())
    if folder is None:
        return
    contamination.write(report, folder)
    print(f'{folder / contamination.FOUND_FILE}: {len(report.found)} rows')
    if options.remove:
        copies = contamination.remove(report, folder, options.train, options.passages, store)
        for file, (kept, left_out) in copies.items():
            print(f'{file}: {kept} rows kept, {left_out} left out')


def _few_shot(options: argparse.Namespace) -> None:
    _refuse_unread(options)
    from atlas_jax.apps.datasets import few_shot
    out, split = pathlib.Path(options.to), options.split or ''
    ids_file = pathlib.Path(options.ids) if options.ids else None
    # Before the files are read, which may take minutes.
    few_shot.check_output(options.files, out, split, ids_file)
    if ids_file:
        chosen = few_shot.by_list(options.files, ids_file, options.list or '', label='choosing')
    else:
        chosen = few_shot.by_seed(options.files, options.n, options.seed or 0, options.per or '',
                                  label='choosing')
    for file, count in few_shot.write(chosen, options.files, out, split).items():
        print(f'{file}: {count} examples, listed in {few_shot.ids_file_of(file)}')


def _refuse_unread(options: argparse.Namespace) -> None:
    """Raises ConfigError: the chosen way, --n or --ids, does not read one of the options."""
    for name in ('seed', 'per') if options.ids else ('list',):
        if getattr(options, name) is not None:
            raise errors.ConfigError(f'--{name} goes with {"--n" if options.ids else "--ids"}; '
                                     'leave it out')
