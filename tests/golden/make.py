"""Writes the golden files: the shape, the axes and the sharding of every parameter, for three sizes on a mesh of 64 devices.

    python -m tests.golden.make

Run it after a change that is meant to move parameters, and look at the difference before you commit it: run folders and checkpoints written
before hold the old names and shapes.
"""

import json
import pathlib
from typing import Any

import flax.linen as nn
import jax

from atlas_jax import partitioning
from atlas_jax.apps.gin_files import parse
from atlas_jax.models import parameters

SIZES = ('tiny', 'base', 'xxl')
MESH_SHAPE = (1, 16, 4)  # data, fsdp, model: both axes that weights lie over
_FOLDER = pathlib.Path(__file__).parent


def path_of(size: str) -> pathlib.Path:
    """Returns the golden file of a size, a name of gin_configs/models."""
    return _FOLDER / f'{size}.json'


def parameters_of(size: str) -> dict[str, dict[str, Any]]:
    """Describes every parameter of a size by its path; nothing is allocated."""
    parse.parse([f'models/{size}.gin'])
    config = parse.value_of('MODEL')
    mesh = partitioning.make_abstract_mesh(MESH_SHAPE)
    boxes, shardings = parameters.abstract_params(config), parameters.param_shardings(config, mesh)
    leaves, _ = jax.tree_util.tree_flatten_with_path(boxes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    found = {}
    for (path, box), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        name = '/'.join(key.key for key in path)
        found[name] = {'shape': list(box.value.shape), 'dtype': str(box.value.dtype), 'axes': list(box.names),
                       'sharding': list(sharding.spec)}
    return found


def text_of(described: dict[str, dict[str, Any]]) -> str:
    """Returns the golden file's text: JSON with one line a parameter, so that a difference shows which changed."""
    lines = [f'  {json.dumps(name)}: {json.dumps(values)}' for name, values in sorted(described.items())]
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def main() -> None:
    """Writes all golden files."""
    for size in SIZES:
        path_of(size).write_text(text_of(parameters_of(size)), encoding='utf-8')


if __name__ == '__main__':
    main()
