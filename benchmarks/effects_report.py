"""The page of `effects.py --report`: tables and pictures, from the rows of effects.py alone."""

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import effects_rows
from effects_rows import (
    MODES,
    REFRESHED,
    WAYS,
    Measure,
    Row,
    difference,
    exact_match,
    matching,
    ndcg,
    recall_1,
    summary,
)

# What a row of other than full size says of it; rows of different sizes never stand in one table.
_SIZES = {'questions': 'questions a set', 'steps_given': 'updates a training', 'search_set': 'passages and questions a searched set',
          'countries': 'countries'}
_NOT_YET = 'Not yet run.'


def write(page: pathlib.Path, rows: Sequence[Row]) -> None:
    """Fills the places between the marks `<!-- a -->` and `<!-- /a -->` of a page, and writes its pictures beside it.

    Raises ValueError: the page lacks the marks of an experiment.
    """
    text = page.read_text(encoding='utf-8')
    for letter, make in TABLES.items():
        found = [row for row in rows if row['experiment'] == letter]
        parts = [part for sizes in _sizes_of(found) for part in (_caption(sizes), *make(_of_sizes(found, sizes)))]
        name, draw, shown = PICTURES.get(letter, ('', None, ''))
        if draw is not None and draw(rows, page.parent / f'evidence-{name}.svg'):
            parts.append(f'![{shown}](evidence-{name}.svg)')
        filled = '\n\n'.join(filter(None, parts))
        text, count = re.subn(rf'(<!-- {letter} -->\n).*?(<!-- /{letter} -->)', lambda match, new=filled or _NOT_YET:
                              f'{match[1]}\n{new}\n\n{match[2]}', text, flags=re.DOTALL)
        if not count:
            raise ValueError(f'{page}: has no place <!-- {letter} --> … <!-- /{letter} -->')
    page.write_text(text, encoding='utf-8')


def _sizes_of(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Returns the different sizes of rows, the full one first."""
    found = {json.dumps({name: row['setting'][name] for name in _SIZES if name in row['setting']}) for row in rows}
    return [json.loads(sizes) for sizes in sorted(found, key=lambda text: (len(text), text))]


def _of_sizes(rows: Iterable[Row], sizes: dict[str, Any]) -> list[Row]:
    return [row for row in rows if {name: row['setting'][name] for name in _SIZES if name in row['setting']} == sizes]


def _caption(sizes: dict[str, Any]) -> str:
    return f'At reduced size ({", ".join(f"{value} {_SIZES[name]}" for name, value in sizes.items())}):' if sizes else ''


def _table(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    shown = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(str(cell) for cell in line)} |' for line in shown)


def _cell(rows: Sequence[Row], measure: Measure, seeds: int) -> str:
    """Returns the mean; `seeds` of its line are named where it has fewer."""
    return _noted(summary(rows, measure), seeds) if rows else '–'


def _apart(before: Sequence[Row], after: Sequence[Row], measure: Measure, seeds: int) -> str:
    """Returns the paired difference; bold where its interval leaves out 0. `seeds` of its line are named where it has fewer."""
    if not all(effects_rows.paired(before, after)):
        return '–'
    found = difference(before, after, measure)
    return f'**{_noted(found, seeds)}**' if found.low > 0 or found.high < 0 else _noted(found, seeds)


def _beside(before: Sequence[Row], mine: Sequence[Row], *measures: Measure) -> Iterable[str]:
    """Yields the mean and what it is less than before, of each measure; nothing for the rows themselves."""
    for measure in measures:
        yield _cell(mine, measure, len(mine))
        yield '' if mine == before else _apart(before, mine, measure, len(mine))


def _noted(found: effects_rows.Summary, seeds: int) -> str:
    return f'{found}; {found.seeds} of {seeds} seeds' if found.seeds < seeds else str(found)


def _of_outcome(name: str) -> Measure:
    return lambda row: row['outcomes'][name]


def _stale_recall_1(row: Row) -> Sequence[float]:
    return effects_rows.recall_at(row['outcomes']['stale_rank'], 1)


def _all_recall_1(row: Row) -> Sequence[float]:
    """Returns R@1 of each question of both halves."""
    return effects_rows.recall_at([*row['outcomes']['dev_rank'], *row['outcomes']['gold_rank']], 1)


def _mean(rows: Sequence[Row], figure: str) -> str:
    values = [row['figures'][figure] for row in rows if row['figures'].get(figure) is not None]
    return effects_rows.written(sum(values) / len(values), 2) if values else '–'


def _by(rows: Iterable[Row], name_of: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Returns the rows by a name, in the order of the first of each."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name_of(row), []).append(row)
    return found


def _by_number(rows: Iterable[Row], field: str) -> dict[str, list[Row]]:
    """Returns the rows by a number of their settings, least first; "all" is the greatest."""
    found = _by(rows, lambda row: str(row['setting'][field]))
    return {name: found[name] for name in sorted(found, key=lambda name: float('inf') if name == 'all' else int(name))}


def _described(row: Row) -> str:
    setting = row['setting']
    if setting['name'] == 'untrained' and 'start' in setting:
        return 'random weights'
    if setting['name'] in ('untrained', 'then joint mlm'):
        return setting['name'] if 'after' not in setting else f'{setting["name"]}, {setting["mlm_steps"]} updates of 4'
    titles = (f' of {setting["words"][0]} to {setting["words"][1]} words, titles before {setting["with_title"]:.0%}'
              if 'with_title' in setting else '')
    return (f'{setting["name"]}{titles}; rate {setting["learning_rate"]:g}, {setting["total_steps"]} updates of '
            f'{setting["batch_size"]}' + (f'; {setting["old_weight"]:.0%} old weights' if setting.get('old_weight') else ''))


def _tables_a(rows: Sequence[Row]) -> Iterable[str]:
    dev = matching(rows, 'a', on='dev', start=None)
    before = matching(dev, 'a', name='untrained')
    if tried := [row for row in dev if row not in before]:
        passages, questions = (tried[0]['figures'][name] for name in ('passages', 'questions'))
        yield f'Settings on dev ({questions:,} questions, {passages:,} passages), one seed; {len(tried)} were tried:'
        yield _table(['retriever', 'R@1', 'minus untrained', 'nDCG@10 minus untrained'],
                     [[_described(row), _cell([row], recall_1, 1), *('' if row in before else _apart(before, [row], measure, 1)
                                                                     for measure in (recall_1, ndcg))]
                      for row in (*before, *tried)])
    nothing = _by(matching(rows, 'a', on='dev', start='random'), _described)
    if len(nothing) > 1:
        first = next(iter(nothing.values()))
        yield 'From random weights, the same questions and passages:'
        yield _table(['retriever', 'seeds', 'R@1', 'minus random', 'nDCG@10', 'minus random'],
                     [[name, len(mine), *_beside(first, mine, recall_1, ndcg)] for name, mine in nothing.items()])
    places = [name for name in ('test', 'squad', 'pubmed') if matching(rows, 'a', on=name)]
    if not places:
        return
    counts = {name: matching(rows, 'a', on=name)[0]['figures'] for name in places}
    yield ('The best of them, on ' + '; '.join(f'{name}: {count["questions"]:,} questions, {count["passages"]:,} passages'
                                               for name, count in counts.items()) + '. "All" are the questions of dev and test.')
    found = _by((row for row in rows if row['setting']['on'] != 'dev'), _described)
    measured = [(place, name, measure) for place in places for name, measure in (
        (('R@1', recall_1), ('nDCG@10', ndcg), ('R@1, all', _all_recall_1)) if place == 'test' else (('nDCG@10', ndcg),))]

    def line(name: str, mine: Sequence[Row]) -> Iterable[str]:
        seeds = len({row['seed'] for row in mine})
        yield from (name, str(seeds))
        for place, _, measure in measured:
            here, untrained = (matching(each, 'a', on=place) for each in (mine, found.get('untrained', [])))
            yield _cell(here, measure, seeds)
            yield '' if name == 'untrained' else _apart(untrained, here, measure, seeds)

    header = ['retriever', 'seeds', *(cell for place, name, _ in measured for cell in (f'{place} {name}', 'minus untrained'))]
    yield _table(header, [list(line(name, mine)) for name, mine in found.items()])


def _tables_b(rows: Sequence[Row]) -> Iterable[str]:
    def place(row: Row) -> tuple[int, int]:
        """Returns where the row stands: first by the way, then by the loss."""
        way = row['setting']['retriever']
        return ('frozen', 'query_side', 'joint', REFRESHED).index(way), MODES.index(row['setting'].get('loss', MODES[0]))

    for name, mine in _by(rows, lambda row: row['setting']['set']).items():
        fixed = matching(mine, 'b', retriever='frozen')
        count = len(exact_match(mine[0]))
        yield f'{name}, {count} test questions:'
        named = _by(sorted(mine, key=place), lambda row: f'{row["setting"]["retriever"]}/{row["setting"].get("loss", "–")}')
        yield _table(['retriever', 'loss', 'seeds', 'exact match', 'minus fixed', 'R@1', 'minus fixed', 'CPU s an update'],
                     [[*way.split('/'), len(each), *_beside(fixed, each, exact_match, recall_1), _mean(each, 'cpu_seconds_a_step')]
                      for way, each in named.items()])


def _tables_c(rows: Sequence[Row]) -> Iterable[str]:
    counts = _by_number(rows, 'examples')
    seeds = {count: len({row['seed'] for row in mine}) for count, mine in counts.items()}
    yield 'Exact match:'
    yield _table(['examples', 'seeds', *WAYS],
                 [[count, seeds[count], *(_cell(matching(mine, 'c', retriever=way), exact_match, seeds[count]) for way in WAYS)]
                  for count, mine in counts.items()])
    yield 'Differences:'
    pairs = (('closed book', 'query_side'), ('frozen', 'query_side'), ('query_side', 'joint'), ('query_side', 'pre-trained, query_side'),
             ('joint', 'pre-trained, joint'))
    last = ('frozen', 'pre-trained, query_side')
    yield _table(['examples', *(f'{after} minus {before}' for before, after in pairs), f'R@1: {last[1]} minus {last[0]}'],
                 [[count, *(_apart(matching(mine, 'c', retriever=before), matching(mine, 'c', retriever=after), measure, seeds[count])
                            for (before, after), measure in (*((pair, exact_match) for pair in pairs), (last, recall_1)))]
                  for count, mine in counts.items()])


def _tables_d(rows: Sequence[Row]) -> Iterable[str]:
    if years := [row for row in rows if 'trained_in' in row['setting']]:
        yield f'Offices that changed hands between the editions, {len(years[0]["outcomes"]["of_2014"])} questions:'
        named = _by(years, lambda row: f'{row["setting"]["trained_in"]}/{row["setting"]["index"]}')
        yield _table(['trained in', 'index of', 'seeds', 'right in 2014', 'right in 2025'],
                     [[*name.split('/'), len(mine), *(_cell(mine, _of_outcome(year), len(mine)) for year in ('of_2014', 'of_2025'))]
                      for name, mine in named.items()])
    if refreshed := [row for row in rows if 'refresh' in row['setting']]:
        named = _by(refreshed, lambda row: row['setting']['refresh'])
        never = named.get('never', [])
        yield 'Joint training, by refresh of the index:'
        yield _table(['index', 'seeds', 'exact match', 'minus never', 'R@1', 'minus never', 'R@1 in the first index',
                      'CPU s an update', 'training, CPU s'],
                     [[name, len(mine), *_beside(never, mine, exact_match, recall_1),
                       _cell(mine, _stale_recall_1, len(mine)), _mean(mine, 'cpu_seconds_a_step'), _mean(mine, 'training_cpu_seconds')]
                      for name, mine in named.items()])


def _tables_e(rows: Sequence[Row]) -> Iterable[str]:
    exact = matching(rows, 'e', searcher='exact')
    asked = sorted({row['setting']['answered_with'] for row in exact})
    seeds = len({row['seed'] for row in exact})
    if exact:
        yield 'Exact match by passages read in training (rows) and in answering (columns):'
        yield _table(['trained with', *map(str, asked), 'CPU s an update'],
                     [[read, *(_cell(matching(mine, 'e', answered_with=count), exact_match, seeds) for count in asked),
                       _mean(mine, 'cpu_seconds_a_step')]
                      for read, mine in _by_number(exact, 'n_context').items()])
    others = [row for row in rows if row['setting']['searcher'] != 'exact']
    if others:
        first = others[0]['setting']
        same = matching(exact, 'e', n_context=first['n_context'], answered_with=first['answered_with'])
        yield f'Searchers, {first["answered_with"]} passages:'
        yield _table(['searcher', 'seeds', 'exact match', 'minus exact search', 'R@1', 'minus exact search'],
                     [[name, len(mine), *_beside(same, mine, exact_match, recall_1)] for name, mine in
                      {'exact': same, **_by(others, lambda row: row['setting']['searcher'])}.items() if mine])


TABLES = {'a': _tables_a, 'b': _tables_b, 'c': _tables_c, 'd': _tables_d, 'e': _tables_e}


def _line(field: Any, points: Sequence[tuple[float, effects_rows.Summary]], **looks: Any) -> None:
    """Draws means with their intervals."""
    means = [each.mean for _, each in points]
    below, above = ([abs(each.mean - bound(each)) for _, each in points] for bound in (lambda each: each.low, lambda each: each.high))
    field.errorbar([place for place, _ in points], means, yerr=[below, above], capsize=2, marker='o', **looks)


def _canvas() -> tuple[Any, Any]:
    import matplotlib
    matplotlib.use('Agg')
    matplotlib.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': 'effects', 'font.size': 9}  # text as text; the same file every time
    from matplotlib import pyplot
    canvas, field = pyplot.subplots(figsize=(6, 3.4), layout='constrained')
    field.grid(True, alpha=.3)
    return canvas, field


def _largest(rows: Sequence[Row], letter: str) -> list[Row]:
    """Returns the rows of an experiment of the fullest size that there is."""
    found = matching(rows, letter)
    return _of_sizes(found, _sizes_of(found)[0]) if found else []


def _draw_examples(rows: Sequence[Row], path: pathlib.Path) -> bool:
    mine = _largest(rows, 'c')
    if not mine:
        return False
    canvas, field = _canvas()
    for way in WAYS:
        named = _by_number(matching(mine, 'c', retriever=way), 'examples')
        if named:
            # All of the Factbook's training questions.
            _line(field, [(576 if name == 'all' else int(name), summary(each, exact_match)) for name, each in named.items()], label=way)
    field.set(xscale='log', xlabel='training examples', ylabel='exact match')
    field.set_xticks([8, 16, 64, 256, 576], ['8', '16', '64', '256', 'all'])
    field.minorticks_off()
    field.legend()
    canvas.savefig(path, metadata={'Date': None})
    return True


def _draw_refresh(rows: Sequence[Row], path: pathlib.Path) -> bool:
    mine = [row for row in _largest(rows, 'd') if 'refresh' in row['setting']]
    if not mine:
        return False
    canvas, field = _canvas()
    for name, each in _by(mine, lambda row: row['setting']['refresh']).items():
        seconds = [row['figures']['training_cpu_seconds'] for row in each if row['figures'].get('training_cpu_seconds')]
        if seconds:
            _line(field, [(sum(seconds) / len(seconds), summary(each, exact_match))], label=name)
    field.set(xlabel='processor seconds of training', ylabel='exact match')
    field.legend()
    canvas.savefig(path, metadata={'Date': None})
    return True


def _draw_contexts(rows: Sequence[Row], path: pathlib.Path) -> bool:
    mine = matching(_largest(rows, 'e'), 'e', searcher='exact')
    if not mine:
        return False
    canvas, field = _canvas()
    for read, each in _by_number(mine, 'n_context').items():
        named = _by_number(each, 'answered_with')
        _line(field, [(int(count), summary(of_count, exact_match)) for count, of_count in named.items()], label=f'trained with {read}')
    field.set(xscale='log', xlabel='passages read in answering', ylabel='exact match')
    field.set_xticks([1, 2, 5, 10, 20, 40], ['1', '2', '5', '10', '20', '40'])
    field.minorticks_off()
    field.legend(fontsize=7)
    canvas.savefig(path, metadata={'Date': None})
    return True


# By letter: the file's name, what draws it where there are rows, and what it shows.
PICTURES = {'c': ('examples', _draw_examples, 'exact match by the number of training examples'),
            'd': ('refresh', _draw_refresh, 'exact match over processor seconds of training, by how the index is refreshed'),
            'e': ('contexts', _draw_contexts, 'exact match by passages read in answering, a line for each number in training')}
