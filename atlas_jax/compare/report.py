"""The tables of a comparison, for the terminal and as a page."""

import os
from collections.abc import Sequence
from typing import Any

from atlas_jax.compare.differences import Difference, summarised
from atlas_jax.report import html


def as_text(rows: Sequence[Difference], figures: dict[str, Any], variant: str, repaired: bool) -> str:
    """Both tables for a terminal."""
    lines = _aligned([('quantity', 'largest difference', 'relative', 'allowed', '', 'where'), *map(_row, rows)])
    lines += ['', 'all agree' if figures['agrees'] else 'THEY DIFFER']
    if 'ratio' in figures:
        lines += ['', *_aligned([('', 'step', 'reader tokens/s', 'peak memory', 'runs on'), *_sides(figures, variant, repaired)])]
    return '\n'.join(lines)


def write_page(path: str | os.PathLike, rows: Sequence[Difference], figures: dict[str, Any], variant: str, repaired: bool) -> None:
    """Writes a self-contained HTML page: summary, sides, every single quantity."""
    page = html.Report('Comparison with PyTorch' if figures['against'] == 'torch' else f'Comparison with {figures["against"]}')
    page.paragraph('Every quantity agrees within what is allowed.' if figures['agrees'] else 'Some differ by more than is allowed.')
    page.section('Differences')
    page.paragraph('Relative: largest difference over the largest value. Allowed: 1e-5 for outputs and 5e-5 for gradients, or three times '
                   'the float32 error of the other side where its float64 values are known.')
    header = ('quantity', 'largest difference', 'relative', 'allowed', '', 'where')
    page.table(header, [_row(row) for row in summarised(list(rows))])
    if 'ratio' in figures:
        page.section('Speed and memory')
        page.table(('', 'step', 'reader tokens/s', 'peak memory', 'runs on'), _sides(figures, variant, repaired))
        page.bar_chart('Seconds of a train step', 'seconds', {'atlas_jax': figures['ours']['step_seconds'],
                                                              f'PyTorch, {variant}': figures['theirs']['step_seconds']})
    single = [row for row in rows if row.quantity.startswith('grads/')]
    if single:
        page.section('Gradients of every parameter')
        page.table(header, [_row(row) for row in single])
    page.write(path)


def _row(row: Difference) -> tuple[str, ...]:
    verdict = 'ok' if row.agrees else 'DIFFERS'
    if row.quantity == 'generated':
        return row.quantity, f'{row.absolute:.0f} tokens', '', 'identical', verdict, '' if row.agrees else row.where
    return row.quantity, f'{row.absolute:.2e}', f'{row.relative:.2e}', f'{row.allowed:.2e}', verdict, row.where


def _sides(figures: dict[str, Any], variant: str, repaired: bool) -> list[tuple[str, ...]]:
    ratio = figures['ratio']
    named = (('ours', 'atlas_jax'), ('theirs', f'PyTorch, {variant}{" (allocator, flush-denormal)" if repaired else ""}'))
    rows = []
    for key, name in named:
        side = figures[key]
        memory = side.get('device_bytes', side['peak_bytes']) / 2**20
        rows.append((name, f'{side["step_seconds"]:.3f} s', f'{side["tokens_per_second"]:.0f}', f'{memory:.0f} MiB', _place(side)))
    memory_ratio = ratio.get('device_bytes', ratio.get('peak_bytes'))
    return [*rows, ('ratio', f'{ratio["step_seconds"]:.2f} ×', '', f'{memory_ratio:.2f} ×', 'theirs / ours')]


def _place(side: dict[str, Any]) -> str:
    allocator = 'allocator tuned' if side['allocator'] else 'allocator as it is'
    return f'{side["device"]}, {side["version"]}, {allocator}'


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
