"""All results of a folder, or two of them: one page and one JSON of figures; nothing is evaluated again."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.evaluation import figures, parts, results
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

PAGE, FIGURES = 'evaluation.html', 'evaluation.json'
_MOST_PAIRS = 45  # those of ten files; every pair costs a table
_MOST_BARS = 60  # values of a label in one chart: MMLU has 57 subjects


def read_folder(folder: str | os.PathLike) -> dict[str, list[Row]]:
    """Returns the rows of each results file in a folder and the folders in it, by path; other JSON lines are passed over.

    Raises InputFileError: no such folder, no results in it, or a results file with a broken line.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise errors.InputFileError(folder, 'no such folder', remedy='give the folder of results_files')
    found = {file.relative_to(folder).as_posix(): results.read(file) for file in sorted(folder.rglob('*.jsonl'))
             if file.is_file() and results.is_results(file)}
    if not found:
        raise errors.InputFileError(folder, 'no results in it', remedy='write some with `atlas-jax evaluate` and RESULTS_FILE')
    return found


def pooled(files: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Returns the rows of all files as those of one evaluation, such as one of MMLU's subjects each.

    Raises ConfigError: they have different metrics.
    """
    if len({tuple(figures.metrics_of(rows)) for rows in files.values()}) > 1:
        raise errors.ConfigError('the files have different metrics, so they are not parts of one evaluation; leave --pool out')
    # Questions of different files have the same numbers.
    return [{**row, 'example_id': f'{name}:{row["example_id"]}'} for name, rows in files.items() for row in rows]


def of_files(files: Mapping[str, Sequence[Row]], by: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the figures of each file (`results`), and of each pair over the same questions the comparison (`comparisons`)."""
    found: dict[str, Any] = {'results': {name: figures.complete(rows, *([] if by is None else [by])) for name, rows in files.items()},
                             'comparisons': []}
    for first, second in itertools.islice(_pairs(files), _MOST_PAIRS):
        found['comparisons'].append({'before': first, 'after': second, 'metrics': figures.compared(files[first], files[second])})
    return found


def write(folder: str | os.PathLike, files: Mapping[str, Sequence[Row]], found: Mapping[str, Any]) -> pathlib.Path:
    """Writes the page of the figures that `of_files` returned, and returns its path. Raises DiskFullError."""
    page = html.Report('Evaluation')
    page.paragraph('A mean stands with its 95 % bootstrap interval over the questions that were asked.')
    page.section('All results')
    _overview(page, files)
    if found['comparisons']:
        page.section('Differences')
        page.paragraph('After minus before, question by question. p is the two-sided p-value of a randomization test; none is corrected '
                       'for the number of comparisons.')
        for pair in found['comparisons']:
            page.paragraph(f'before: {pair["before"]}; after: {pair["after"]}')
            page.table(*comparison_table(pair['metrics']))
    for name, rows in files.items():
        _file(page, name, rows, found['results'][name])
    path = pathlib.Path(folder) / PAGE
    page.write(path)
    return path


def comparison_table(compared: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of a comparison that `figures.compared` returned."""
    return ['metric', 'before', 'after', 'difference', '95 % interval', 'p'], [
        [name, float(each['before']), float(each['after']), float(each['difference']),
         f'{each["interval"][0]:+.3f} to {each["interval"][1]:+.3f}', f'{each["p_value"]:.4f}'] for name, each in compared.items()]


def label_table(by: Mapping[str, Any], label: str) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of the figures by one label: each value, and the mean over the values."""
    metrics = list(by[label]['macro'])
    lines = [[value, each['questions'], *(_mean(each[name], each.get(f'{name}_interval')) for name in metrics)]
             for value, each in by[label]['values'].items()]
    macro = ['mean of these', len(lines), *(_mean(each['mean'], each['interval']) for each in by[label]['macro'].values())]
    return [label, 'questions', *metrics], [*lines, macro]


def exchange_table(indexes: Mapping[str, Mapping[str, Any]], label: str) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of the main metric by label and index, all of the same questions."""
    main = next(name for name in next(iter(indexes.values())) if name in results.METRICS)
    by_index = [each.get('by', {}).get(label, {}).get('values', {}) for each in indexes.values()]
    lines = [[value, *(_mean(found[value][main], found[value].get(f'{main}_interval')) if value in found else '' for found in by_index)]
             for value in dict.fromkeys(value for found in by_index for value in found)]
    everything = ['all', *(_mean(each[main], each.get(f'{main}_interval')) for each in indexes.values())]
    return [f'{main} by {label}', *indexes], [*lines, everything]


def _mean(mean: float, interval: Sequence[float] | None) -> str:
    return f'{mean:.3f}' + (f' ({interval[0]:.3f} to {interval[1]:.3f})' if interval else '')


def _overview(page: html.Report, files: Mapping[str, Sequence[Row]]) -> None:
    # One table for files with the same metrics: a cell without a value would say nothing.
    for names in dict.fromkeys(tuple(figures.metrics_of(rows)) for rows in files.values()):
        chosen = {name: rows for name, rows in files.items() if tuple(figures.metrics_of(rows)) == names}
        lines = [[f'{file} {index}'.strip(), len(part), *(figures.shown([row[name] for row in part]) for name in names)]
                 for file, rows in chosen.items() for index, part in figures.by_index(rows).items()]
        page.table(['results', 'questions', *names], lines)


def _file(page: html.Report, name: str, rows: Sequence[Row], found: Mapping[str, Any]) -> None:
    page.section(name)
    metrics = figures.metrics_of(rows)
    if 'indexes' in found:
        for label in next(iter(found['indexes'].values())).get('by', {}):
            page.table(*exchange_table(found['indexes'], label))
        for index, each in found['exchange'].items():
            page.paragraph(f'before: index {next(iter(found["indexes"]))}; after: index {index}')
            page.table(*comparison_table(each))
    for index, each in found.get('indexes', {'': found}).items():
        if index:
            page.section(f'Index {index}', level=3)
        parts.means(page, each)
        parts.recall(page, {'': each})
        parts.calibration(page, {'': each})
        for label, values in each.get('by', {}).items():
            page.table(*label_table(each['by'], label))
            if metrics and len(values['values']) <= _MOST_BARS:
                main = metrics[0]
                page.bar_chart(f'{main} by {label}', main, {value: every[main] for value, every in values['values'].items()},
                               {value: every['stderr'] for value, every in values['values'].items() if 'stderr' in every})
        parts.examples(page, parts.extremes(figures.by_index(rows)[index]), level=3)


def _pairs(files: Mapping[str, Sequence[Row]]):
    """Yields the pairs of files whose questions are the same, of one index each, with a metric in common."""
    asked = {name: frozenset((str(row['example_id']), row['question']) for row in rows) for name, rows in files.items()
             if len(figures.by_index(rows)) == 1}
    for first, second in itertools.combinations(asked, 2):
        if asked[first] == asked[second] and set(figures.metrics_of(files[first])) & set(figures.metrics_of(files[second])):
            yield first, second
