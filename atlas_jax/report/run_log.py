"""What a run records of itself: a row of metrics a step, as JSON lines, for TensorBoard, and in memory."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from atlas_jax.io import atomic
from atlas_jax.report import tensorboard

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'


class RunLog:
    """Metrics of every step. Rows after a restored step are dropped, for they are trained again. Process 0 alone writes."""

    def __init__(self, folder: pathlib.Path, step: int):
        """Goes on from `step`; 0 begins anew."""
        self.path, self.rows = folder / METRICS_FILE, []
        self._writes = jax.process_index() == 0
        self._events: tensorboard.EventFile | None = None
        if step and self.path.is_file():
            lines = self.path.read_text(encoding='utf-8').splitlines(keepends=True)
            # A killed run may leave half a line at the end.
            rows = [json.loads(line) for line in lines if line.endswith('\n')]
            self.rows = [row for row in rows if row['step'] <= step]
        if self._writes:
            self._write_all()
            with atomic.disk_full_is_a_user_error(folder):
                self._events = tensorboard.EventFile(folder / TENSORBOARD_FOLDER)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a step's row; it has `step`, and scalars."""
        self.rows.append(row)
        if not self._writes:
            return
        with atomic.disk_full_is_a_user_error(self.path):
            with open(self.path, 'a', encoding='utf-8') as file:
                file.write(json.dumps(row) + '\n')
            self._events.write(row['step'], {name: value for name, value in row.items() if name != 'step'})

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Adds scalars to the row of the step that was appended last, and writes the file anew."""
        self.rows[-1] |= scalars
        if self._writes:
            self._write_all()
            self._events.write(step, scalars)

    def _write_all(self) -> None:
        with atomic.writing(self.path) as file:
            file.writelines(json.dumps(row) + '\n' for row in self.rows)


def parameter_overview(params: Any, depth: int = 2) -> str:
    """A table of the parameters, one line for each part `depth` levels down: number, share, bytes, dtype, bytes on one device."""
    parts: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(getattr(key, 'key', key)) for key in path]
        parts.setdefault('/'.join(names[:depth]), []).append(leaf)
    every = [leaf for leaves in parts.values() for leaf in leaves]
    total, width = sum(_size(leaf) for leaf in every), max(len(name) for name in parts)
    lines = [f'{"parameters":{width}}  {"number":>14}  share  {"MiB":>9}  {"MiB a device":>12}  dtype']
    for name, leaves in [*parts.items(), ('all', every)]:
        number, dtypes = sum(_size(leaf) for leaf in leaves), ', '.join(sorted({str(leaf.dtype) for leaf in leaves}))
        lines.append(f'{name:{width}}  {number:14,}  {number / total:5.0%}  {_mib(leaves):9.1f}  {_mib(leaves, on_one_device=True):12.1f}'
                     f'  {dtypes}')
    return '\n'.join(lines)


def _size(leaf: Any) -> int:
    return int(np.prod(leaf.shape))


def _mib(leaves: list[Any], on_one_device: bool = False) -> float:
    def shape(leaf: Any) -> tuple[int, ...]:
        return leaf.sharding.shard_shape(leaf.shape) if on_one_device and isinstance(leaf, jax.Array) else leaf.shape

    return sum(int(np.prod(shape(leaf))) * leaf.dtype.itemsize for leaf in leaves) / 2**20
