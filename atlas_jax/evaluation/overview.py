"""Turns results files into one page and one JSON file of figures; evaluates nothing again."""

import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.evaluation import figures, parts, results
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

PAGE, FIGURES = 'evaluation.html', 'evaluation.json'
_MOST_PAIRS = 45  # all pairs of ten files; each takes a table
_MOST_BARS = 60  # values of a label in one chart: MMLU has 57 subjects
_DIFFERENCES = ('After minus before, question by question. p is the two-sided p-value of a '
                'randomization test; none is corrected for the number of comparisons.')


def read_folder(folder: str | os.PathLike) -> dict[str, list[Row]]:
    """Returns the rows of every results file in a folder and its subfolders, by path.

    Other JSON-lines files are skipped.

    Raises InputFileError: no such folder, no results in it, or a results file with a broken line.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise errors.InputFileError(folder, 'no such folder',
                                    remedy='give the folder of results_files')
    files = {file.relative_to(folder).as_posix(): results.read(file)
             for file in sorted(folder.rglob('*.jsonl'))
             if file.is_file() and results.is_results(file)}
    if not files:
        raise errors.InputFileError(folder, 'no results in it',
                                    remedy='write some with `atlas-jax evaluate` and RESULTS_FILE')
    return files


def pooled(files: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Returns the rows of all files as one evaluation; MMLU, for example, has a file per subject.

    Raises ConfigError: the files have different metrics.
    """
    if len({tuple(figures.metrics_of(rows)) for rows in files.values()}) > 1:
        raise errors.ConfigError('the files have different metrics, so they are not parts of one '
                                 'evaluation; leave --pool out')
    # Questions of different files have the same numbers.
    return [{**row, 'example_id': f'{name}:{row["example_id"]}'}
            for name, rows in files.items() for row in rows]


def figures_of_files(files: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Returns each file's figures (`results`), and `comparisons` of files with the same questions.
    """
    return {
        'results': {name: figures.complete(rows) for name, rows in files.items()},
        'comparisons': [
            {'before': first, 'after': second,
             'metrics': figures.compared(files[first], files[second])}
            for first, second in itertools.islice(_pairs(files), _MOST_PAIRS)]}


def write(folder: str | os.PathLike, files: Mapping[str, Sequence[Row]],
          found: Mapping[str, Any]) -> pathlib.Path:
    """Writes the page of the figures that `figures_of_files` returned, and returns its path.

    Raises DiskFullError.
    """
    path = pathlib.Path(folder) / PAGE
    html.write_page(
        path, 'Evaluation',
        html.paragraph('A mean stands with its 95 % bootstrap interval over the questions that '
                       'were asked.'),
        html.section('All results', _means_of_files(files)),
        _comparisons(found['comparisons']),
        *(_file(name, rows, found['results'][name]) for name, rows in files.items()))
    return path


def comparison_section(*tables: html.Part) -> html.Part:
    """Returns the section of differences: how to read them, and the tables."""
    return html.section('Differences', html.paragraph(_DIFFERENCES), *tables)


def comparison_table(
        compared: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of a comparison that `figures.compared` returned."""
    return ['metric', 'before', 'after', 'difference', '95 % interval', 'p'], [
        [name, float(each['before']), float(each['after']), float(each['difference']),
         f'{each["interval"][0]:+.3f} to {each["interval"][1]:+.3f}', f'{each["p_value"]:.4f}']
        for name, each in compared.items()]


def label_table(by: Mapping[str, Any], label: str) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of the figures by one label: a row a value, then their mean."""
    metrics, lines = list(by[label]['macro']), []
    for value, each in by[label]['values'].items():
        lines.append([value, each['questions'],
                      *(parts.with_interval(each, name) for name in metrics)])
    macro = [parts.with_interval({'mean': each['mean'], 'mean_interval': each['interval']}, 'mean')
             for each in by[label]['macro'].values()]
    return [label, 'questions', *metrics], [*lines, ['mean of these', len(lines), *macro]]


def exchange_table(indexes: Mapping[str, Mapping[str, Any]],
                   label: str) -> tuple[list[str], list[list[Any]]]:
    """Returns (header, rows) of the main metric by label and index, for the same questions."""
    main = next(name for name in next(iter(indexes.values())) if name in results.METRICS)
    by_index = [each.get('by', {}).get(label, {}).get('values', {}) for each in indexes.values()]
    lines = [
        [value, *(parts.with_interval(found[value], main) if value in found else ''
                  for found in by_index)]
        for value in dict.fromkeys(value for found in by_index for value in found)]
    everything = [parts.with_interval(each, main) for each in indexes.values()]
    return [f'{main} by {label}', *indexes], [*lines, ['all', *everything]]


def _means_of_files(files: Mapping[str, Sequence[Row]]) -> html.Part:
    # A table for each set of metrics, so that no cell is empty.
    metrics = {name: tuple(figures.metrics_of(rows)) for name, rows in files.items()}
    return html.group(*(
        html.table(['results', 'questions', *names],
                   [[f'{file} {index}'.strip(), len(part),
                     *(figures.mean_text([row[name] for row in part]) for name in names)]
                    for file, rows in files.items() if metrics[file] == names
                    for index, part in figures.by_index(rows).items()])
        for names in dict.fromkeys(metrics.values())))


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> html.Part:
    if not comparisons:
        return html.Part('')
    return comparison_section(*(
        html.group(html.paragraph(f'before: {pair["before"]}; after: {pair["after"]}'),
                   html.table(*comparison_table(pair['metrics'])))
        for pair in comparisons))


def _file(name: str, rows: Sequence[Row], found: Mapping[str, Any]) -> html.Part:
    """Returns the section of one results file."""
    found_parts = []
    if 'indexes' in found:
        for label in next(iter(found['indexes'].values())).get('by', {}):
            found_parts.append(html.table(*exchange_table(found['indexes'], label)))
        for index, each in found['exchange'].items():
            first = next(iter(found['indexes']))
            found_parts += [html.paragraph(f'before: index {first}; after: index {index}'),
                            html.table(*comparison_table(each))]
    for index, part in figures.by_index(rows).items():
        each = found['indexes'][index] if 'indexes' in found else found
        body = [parts.means(each), parts.recall({'': each}), parts.calibration({'': each}),
                *(_label(each['by'], label, figures.metrics_of(rows))
                  for label in each.get('by', {}))]
        found_parts += [html.section(f'Index {index}', *body, level=3)] if index else body
        found_parts.append(parts.examples(parts.extremes(part), level=3))
    return html.section(name, *found_parts)


def _label(by: Mapping[str, Any], label: str, metrics: Sequence[str]) -> html.Part:
    """Returns the table of one label, and bars of the main metric unless there are too many."""
    values, bars = by[label]['values'], html.Part('')
    if metrics and len(values) <= _MOST_BARS:
        main = metrics[0]
        bars = html.bar_chart(
            f'{main} by {label}', main, {value: each[main] for value, each in values.items()},
            {value: each['stderr'] for value, each in values.items() if 'stderr' in each})
    return html.group(html.table(*label_table(by, label)), bars)


def _pairs(files: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, str]]:
    """Yields pairs of files with the same questions and a metric in common, one index each."""
    questions = {name: frozenset(map(figures.question_key, rows)) for name, rows in files.items()
                 if len(figures.by_index(rows)) == 1}
    for first, second in itertools.combinations(questions, 2):
        if questions[first] == questions[second] and set(figures.metrics_of(files[first])) & set(
                figures.metrics_of(files[second])):
            yield first, second
