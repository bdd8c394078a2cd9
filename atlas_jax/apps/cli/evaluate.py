"""`atlas-jax evaluate`: evaluates a model on a file of questions or a retriever on a BEIR folder,
and shows all results of a folder side by side.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks, flags
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.runtime import notes
from atlas_jax.searchers import config

_PLAIN = ('questions', 'results', 'examples', 'n_context', 'batch_size', 'num_beams', 'quote')
_MODEL = ('model', 'reader', 'retriever')
# The ways to evaluate, and the options that each of them reads.
_WAYS = {
    'gin_file': ('index', 'abstain_below', 'force', 'multihost', 'gin_import', 'gin_search_paths',
                 'searcher', *_PLAIN, *_MODEL, 'closed_book'),
    'all': ('pool',),
    'compare': ('report',),
    'task': ('data', 'split', 'index', 'out', 'run_file', 'searcher', 'with_prompt', 'force',
             *_MODEL)}


def add_commands(commands) -> None:
    """Adds `evaluate`."""
    parser = cli_options.command(
        commands, 'evaluate', _evaluate, 'Answer a file of questions and score the answers, or '
                                         'show scores side by side.',
        'atlas-jax evaluate --model run --index index --questions test.jsonl --results '
        'results/test.jsonl\n  atlas-jax evaluate --all results')
    cli_options.add_gin(parser, required=False)
    flags.add(parser, _PLAIN)
    flags.set_macros(parser, (*_PLAIN, *_MODEL, 'searcher'), 'runs/evaluate.gin', 'evaluate')
    flags.add_closed_book(parser)
    arguments.folder(parser, '--all',
                     'show all results files of a folder on one page and in one JSON')
    arguments.file(parser, '--compare', 'compare two results files, question by question', nargs=2)
    arguments.file(parser, '--report', 'with --compare: HTML page to write, with the answers that '
                   'differ most', 'FILE.html')
    parser.add_argument('--task', choices=['retrieval'],
                        help='retrieval: evaluate the retriever only, on the BEIR folder --data')
    arguments.file(parser, '--index', 'index to retrieve from; with --gin_file, NAME=DIR for each '
                   'of several that the same questions are asked with', '[NAME=]DIR',
                   action='append', default=[])
    parser.add_argument('--abstain_below', type=float, metavar='C',
                        help='with --gin_file: count answers of less confidence (0 to 1) as '
                             'withheld; the model must be calibrated')
    arguments.switch(parser, '--pool',
                     'with --all: take all files as one evaluation, such as one subject each')
    group = parser.add_argument_group('retrieval')
    arguments.folder(group, '--data', 'BEIR folder: corpus.jsonl, queries.jsonl, qrels/')
    group.add_argument('--split', metavar='NAME', help='qrels/NAME.tsv (default test)')
    arguments.folder(group, '--out', 'folder for results.jsonl and run.trec, and for store and '
                     'index without --index')
    arguments.file(group, '--run', 'score this TREC run in place of searching', dest='run_file')
    group.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST,
                       help='search method, see docs/search.md (default exact)')
    arguments.switch(group, '--with_prompt', 'write queries as the model\'s task does')
    cli_options.add_model(parser)
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    cli_options.add_json(parser)


def _evaluate(options: argparse.Namespace) -> None:
    chosen = [way for way in _WAYS if getattr(options, way)]
    if len(chosen) != 1:
        raise errors.ConfigError('give --project, --questions, or one of --gin_file, --all, '
                                 '--compare and --task; see atlas-jax evaluate --help')
    [way] = chosen
    # Without this check an option that the way does not read would be silently ignored.
    known = {name for names in _WAYS.values() for name in names}
    if unread := [name for name in sorted(known - set(_WAYS[way])) if getattr(options, name)]:
        raise errors.ConfigError(f'--{unread[0].removesuffix("_file")} is of no use with --{way}')
    if options.gin_bindings and way != 'gin_file':
        raise errors.ConfigError(f'--gin.{options.gin_bindings[0]} needs a --gin_file')
    {'gin_file': _questions, 'all': _all, 'compare': _compare, 'task': _retrieval}[way](options)


def _questions(options: argparse.Namespace) -> None:
    options.gin_bindings = bindings_of(options)
    flags.needs_gin(options)
    file_checks.check_evaluation(cli_options.preview_gin(options))
    cli_options.join_hosts(options)
    cli_options.keep_programs(options)
    from atlas_jax.apps.gin_files import parse as gin_parse
    from atlas_jax.evaluation import evaluate
    cli_options.read_gin(options)
    given = gin_parse.arguments_of(evaluate.evaluate)
    if options.force:
        given['data'] = dataclasses.replace(given['data'], force_index=True)
    figures = evaluate.evaluate(**given)
    if notes.is_first():
        cli_options.write_json(options.json, figures)
        _print(figures)


def bindings_of(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of a command line, followed by those of --index and --abstain_below.

    Raises ConfigError: one of several indexes has no name, or a name is given twice.
    """
    # Bindings are checked with the others, and win over the files.
    named = arguments.named_folders('--index', options.index)
    indexes = [f'INDEX_DIR={named.get("", named)!r}'] if named else []
    threshold = [] if options.abstain_below is None else [
        f'ABSTAIN_BELOW={options.abstain_below!r}']
    return [*options.gin_bindings, *indexes, *threshold]


def _all(options: argparse.Namespace) -> None:
    from atlas_jax.evaluation import overview
    from atlas_jax.io import atomic
    files: Mapping[str, Any] = overview.read_folder(options.all)
    if options.pool:
        files = {'all files': overview.pooled(files)}
    summary = overview.figures_of_files(files)
    atomic.write_json(pathlib.Path(options.all) / overview.FIGURES, summary)
    cli_options.write_json(options.json, summary)
    page = overview.write(options.all, files, summary)
    for name, figures in summary['results'].items():
        for index, each in figures.get('indexes', {'': figures}).items():
            print(f'{name}{f" {index}" if index else ""}: {each["questions"]} questions')
            _print(each, '  ', macro_only=True)
    print(f'{page}: {len(files)} results, {len(summary["comparisons"])} comparisons')


def _compare(options: argparse.Namespace) -> None:
    from atlas_jax.evaluation import comparison_page, figures, overview, results
    before, after = map(results.read, options.compare)
    compared = figures.compared(before, after)
    cli_options.write_json(options.json, compared)
    if options.report:
        comparison_page.write(options.report, tuple(options.compare), before, after, compared)
    print(f'before: {options.compare[0]}\nafter:  {options.compare[1]}')
    _print_table(*overview.comparison_table(compared))


def _retrieval(options: argparse.Namespace) -> None:
    if not (options.data and options.out):
        raise errors.ConfigError('--task retrieval needs --data, a BEIR folder, and --out, a '
                                 'folder for run and results')
    if len(options.index) > 1:
        raise errors.ConfigError('--task retrieval takes one --index')
    if not options.run_file:
        file_checks.check_model(options)
    elif cli_options.names_model(options) or options.index:
        raise errors.ConfigError('--run scores an existing run: give no model and no index')
    for index in options.index:
        file_checks.check_index(index)
    from atlas_jax.evaluation import beir_folder, figures, results
    from atlas_jax.metrics import trec
    folder, out = beir_folder.read(options.data, options.split or 'test'), pathlib.Path(options.out)
    if options.run_file:
        run = beir_folder.read_run(folder, options.run_file)
    else:
        run = _searched(options, folder, out)
    rows = beir_folder.scored(folder, run)
    # trec_eval reads both files.
    trec.write_run(out / 'run.trec', run)
    trec.write_qrels(out / 'qrels.trec', folder.qrels)
    results.finish(out / 'results.jsonl', rows)
    scores = figures.of_rows(rows)
    cli_options.write_json(options.json, scores)
    _print(scores)


def _searched(options: argparse.Namespace, folder: Any, out: pathlib.Path) -> Any:
    from atlas_jax.answering import api
    from atlas_jax.evaluation import beir_retrieval
    # The index first: a wrong folder must not cost the loading of a model.
    index = api.Index.open(options.index[0], force=options.force) if options.index else None
    atlas = cli_options.load_model(options)
    index = index or beir_retrieval.open_or_build(folder, atlas, out)
    return beir_retrieval.search(atlas, folder, index, searcher=options.searcher,
                                 with_prompt=options.with_prompt)


def _print(figures: Mapping[str, Any], indent: str = '', macro_only: bool = False) -> None:
    """Prints figures with their intervals, one a line, then tables by label and by index."""
    from atlas_jax.evaluation import overview
    for name, value in figures.items():
        # Standard errors are in the JSON; here the intervals say the same.
        if not isinstance(value, int | float) or name.endswith('stderr') or (
                indent and name == 'questions'):
            continue
        bounds = figures.get(f'{name}_interval')
        shown = f'{value:.4g}' if isinstance(value, float) else f'{value}'
        interval = f'{bounds[0]:.4g} to {bounds[1]:.4g}' if bounds else ''
        print(f'{indent}{name:24}{shown:10}{interval}')
    for label, values in figures.get('by', {}).items():
        if macro_only:
            for name, each in values['macro'].items():
                print(f'{indent}{f"{name} by {label}":32}{each["mean"]:.4g} mean of '
                      f'{len(values["values"])}')
            continue
        print()
        _print_table(*overview.label_table(figures['by'], label))
    for name, each in figures.get('indexes', {}).items():
        print(f'\nindex {name}')
        _print(each, '  ', macro_only=True)
    _print_exchange(figures)


def _print_exchange(figures: Mapping[str, Any]) -> None:
    """Prints label x index tables of the main metric, and how each index differs from the first."""
    from atlas_jax.evaluation import overview
    indexes = figures.get('indexes', {})
    for label in next(iter(indexes.values())).get('by', {}) if indexes else ():
        print()
        _print_table(*overview.exchange_table(indexes, label))
    for name, each in figures.get('exchange', {}).items():
        print(f'\nbefore: index {next(iter(indexes))}; after: index {name}')
        _print_table(*overview.comparison_table(each))


def _print_table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    from atlas_jax.report import text_table
    cells = [[f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in line]
             for line in (header, *lines)]
    print('\n'.join(text_table.aligned(cells)))
