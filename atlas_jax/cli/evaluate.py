"""`atlas-jax evaluate`: a model on a file of questions, a retriever on a BEIR folder, and all results of a folder side by side."""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options
from atlas_jax.searchers import config

_PLAIN, _MODEL = ('questions', 'results', 'examples', 'n_context', 'batch_size', 'num_beams', 'quote'), ('model', 'reader', 'retriever')
# The ways to evaluate, and the options that each of them takes.
_WAYS = {'gin_file': ('index', 'abstain_below', 'force', 'multihost', 'gin_import', 'gin_search_paths', 'searcher', *_PLAIN, *_MODEL,
                      'closed_book'),
         'all': ('pool',), 'compare': ('report',),
         'task': ('data', 'split', 'index', 'out', 'run_file', 'searcher', 'with_prompt', 'force', *_MODEL)}


def add_commands(commands) -> None:
    """Adds `evaluate`."""
    parser = cli_options.command(
        commands, 'evaluate', _evaluate, 'Answer a file of questions and score the answers, or show scores side by side.',
        'atlas-jax evaluate --model run --index index --questions test.jsonl --results results/test.jsonl\n'
        '  atlas-jax evaluate --all results')
    cli_options.add_gin(parser, required=False)
    flags.add(parser, _PLAIN)
    flags.set_macros(parser, (*_PLAIN, *_MODEL, 'searcher'), 'runs/evaluate.gin', 'evaluate')
    flags.add_closed_book(parser)
    parser.add_argument('--all', metavar='DIR', help='show all results files of a folder on one page and in one JSON')
    parser.add_argument('--compare', nargs=2, metavar='FILE', help='compare two results files, question by question')
    parser.add_argument('--report', metavar='FILE.html', help='with --compare: HTML page to write, with the answers that differ most')
    parser.add_argument('--task', choices=['retrieval'], help='retrieval: evaluate the retriever alone, on the BEIR folder --data')
    parser.add_argument('--index', action='append', default=[], metavar='[NAME=]DIR', help='index to retrieve from; with --gin_file, '
                        'NAME=DIR for each of several that the same questions are asked with')
    parser.add_argument('--abstain_below', type=float, metavar='C', help='with --gin_file: count answers of less confidence (0 to 1) as '
                        'withheld; the model must be calibrated')
    parser.add_argument('--pool', action='store_true', help='with --all: take all files as one evaluation, such as one subject each')
    group = parser.add_argument_group('retrieval')
    group.add_argument('--data', metavar='DIR', help='BEIR folder: corpus.jsonl, queries.jsonl, qrels/')
    group.add_argument('--split', metavar='NAME', help='qrels/NAME.tsv (default test)')
    group.add_argument('--out', metavar='DIR', help='folder for results.jsonl and run.trec, and for store and index without --index')
    group.add_argument('--run', metavar='FILE', dest='run_file', help='score this TREC run in place of searching')
    group.add_argument('--searcher', choices=config.IN_GRAPH + config.ON_HOST, help='search method, see docs/search.md (default exact)')
    group.add_argument('--with_prompt', action='store_true', help='write queries as the model\'s task does')
    cli_options.add_model(parser)
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    cli_options.add_json(parser)


def _evaluate(options: argparse.Namespace) -> None:
    chosen = [way for way in _WAYS if getattr(options, way)]
    if len(chosen) != 1:
        raise errors.ConfigError('give --project, --questions, or one of --gin_file, --all, --compare and --task; see '
                                 'atlas-jax evaluate --help')
    known = {name for names in _WAYS.values() for name in names}
    # An option that nobody reads would be ignored without a word.
    if unread := [name for name in sorted(known) if getattr(options, name) and name not in _WAYS[chosen[0]]]:
        raise errors.ConfigError(f'--{unread[0].removesuffix("_file")} is of no use with --{chosen[0]}')
    if options.gin_bindings and chosen != ['gin_file']:
        raise errors.ConfigError(f'--gin.{options.gin_bindings[0]} needs a --gin_file')
    {'gin_file': _questions, 'all': _all, 'compare': _compare, 'task': _retrieval}[chosen[0]](options)


def _questions(options: argparse.Namespace) -> None:
    options.gin_bindings = bindings_of(options)
    flags.needs_gin(options)
    inputs.check_evaluation(cli_options.preview_gin(options))
    cli_options.join_hosts(options)
    cli_options.keep_programs(options)
    from atlas_jax import evaluate
    from atlas_jax.gin_files import parse as gin_parse
    cli_options.read_gin(options)
    # Results go to the file that the configuration names; the figures also here.
    arguments = gin_parse.arguments_of(evaluate.evaluate)
    if options.force:
        arguments['data'] = dataclasses.replace(arguments['data'], force_index=True)
    figures = evaluate.evaluate(**arguments)
    if not cli_options.is_first():
        return
    cli_options.write_json(options.json, figures)
    _print(figures)


def bindings_of(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of a command line, those of its flags last. Raises ConfigError: several without a name, or a name twice."""
    # As a binding, so that it is checked with the others, and wins over the files.
    indexes = [f'INDEX_DIR={_named(options.index)!r}'] if options.index else []
    threshold = [] if options.abstain_below is None else [f'ABSTAIN_BELOW={options.abstain_below!r}']
    return [*options.gin_bindings, *indexes, *threshold]


def _named(given: Sequence[str]) -> str | dict[str, str]:
    """Returns the folder, or folders by name. Raises ConfigError: several without a name, or a name twice."""
    if len(given) == 1 and '=' not in given[0]:
        return given[0]
    named: dict[str, str] = {}
    for text in given:
        name, separator, folder = text.partition('=')
        if not (name and separator and folder) or name in named:
            raise errors.ConfigError(f'--index {text}: give each of several indexes as NAME=DIR, with a name of its own')
        named[name] = folder
    return named


def _all(options: argparse.Namespace) -> None:
    from atlas_jax.evaluation import overview
    from atlas_jax.io import atomic
    files: Mapping[str, Any] = overview.read_folder(options.all)
    if options.pool:
        files = {'all files': overview.pooled(files)}
    found = overview.of_files(files)
    atomic.write_json(pathlib.Path(options.all) / overview.FIGURES, found)
    cli_options.write_json(options.json, found)
    page = overview.write(options.all, files, found)
    for name, figures in found['results'].items():
        for index, each in figures.get('indexes', {'': figures}).items():
            print(f'{name}{f" {index}" if index else ""}: {each["questions"]} questions')
            _print(each, '  ', macro_only=True)
    print(f'{page}: {len(files)} results, {len(found["comparisons"])} comparisons')


def _compare(options: argparse.Namespace) -> None:
    from atlas_jax.evaluation import comparison, figures, overview, results
    before, after = map(results.read, options.compare)
    compared = figures.compared(before, after)
    cli_options.write_json(options.json, compared)
    if options.report:
        comparison.write(options.report, tuple(options.compare), before, after, compared)
    print(f'before: {options.compare[0]}\nafter:  {options.compare[1]}')
    _print_table(*overview.comparison_table(compared))


def _retrieval(options: argparse.Namespace) -> None:
    if not (options.data and options.out):
        raise errors.ConfigError('--task retrieval needs --data, a BEIR folder, and --out, a folder for run and results')
    if len(options.index) > 1:
        raise errors.ConfigError('--task retrieval takes one --index')
    if not options.run_file:
        inputs.check_model(options)
    elif options.model or options.reader or options.retriever or options.index:
        raise errors.ConfigError('--run scores a run that is there: give no model and no index')
    inputs.check_index(options.index[0] if options.index else None)
    from atlas_jax.evaluation import beir, figures, results
    from atlas_jax.metrics import trec
    folder, out = beir.read(options.data, options.split or 'test'), pathlib.Path(options.out)
    run = beir.read_run(folder, options.run_file) if options.run_file else _searched(options, folder, out)
    rows = beir.scored(folder, run)
    # The same judgments in TREC's format: trec_eval reads both files.
    trec.write_run(out / 'run.trec', run)
    trec.write_qrels(out / 'qrels.trec', folder.qrels)
    results.finish(out / 'results.jsonl', rows)
    found = figures.of_rows(rows)
    cli_options.write_json(options.json, found)
    _print(found)


def _searched(options: argparse.Namespace, folder: Any, out: pathlib.Path) -> Any:
    from atlas_jax import api
    from atlas_jax.evaluation import retrieval
    # An index that is there is opened first: a wrong folder must not cost the loading of a model.
    index = api.Index.open(options.index[0], force=options.force) if options.index else None
    atlas = cli_options.load_model(options)
    return retrieval.search(atlas, folder, index or retrieval.open_or_build(folder, atlas, out), searcher=options.searcher,
                            with_prompt=options.with_prompt)


def _print(figures: Mapping[str, Any], indent: str = '', macro_only: bool = False) -> None:
    """Prints figures with their intervals, a line each, then tables by label and by index."""
    for name, value in figures.items():
        # An interval says what a standard error does; the JSON has both.
        if isinstance(value, int | float) and not name.endswith('stderr') and not (indent and name == 'questions'):
            bounds = figures.get(f'{name}_interval')
            shown = f'{value:.4g}' if isinstance(value, float) else f'{value}'
            print(f'{indent}{name:24}{shown:10}' + (f'{bounds[0]:.4g} to {bounds[1]:.4g}' if bounds else ''))
    from atlas_jax.evaluation import overview
    for label, values in figures.get('by', {}).items():
        if macro_only:
            for name, each in values['macro'].items():
                print(f'{indent}{f"{name} by {label}":32}{each["mean"]:.4g} mean of {len(values["values"])}')
            continue
        print()
        _print_table(*overview.label_table(figures['by'], label))
    for name, each in figures.get('indexes', {}).items():
        print(f'\nindex {name}')
        _print(each, '  ', macro_only=True)
    _print_exchange(figures)


def _print_exchange(figures: Mapping[str, Any]) -> None:
    """Prints label x index tables of the main metric, and the difference that each index makes."""
    from atlas_jax.evaluation import overview
    indexes = figures.get('indexes', {})
    for label in next(iter(indexes.values())).get('by', {}) if indexes else ():
        print()
        _print_table(*overview.exchange_table(indexes, label))
    for name, each in figures.get('exchange', {}).items():
        print(f'\nbefore: index {next(iter(indexes))}; after: index {name}')
        _print_table(*overview.comparison_table(each))


def _print_table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    cells = [[f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in line] for line in (header, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    for line in cells:
        print('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
