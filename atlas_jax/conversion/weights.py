"""A model whose parameters are read one at a time, so that a conversion never holds them all."""

import dataclasses
import functools
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_names
from atlas_jax.models import contriever, t5

Params = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
_LAYER = re.compile(r'layers_(\d+)')


@dataclasses.dataclass(frozen=True)
class Weights:
    """A reader's or a retriever's configuration and parameters.

    config: T5Config or ContrieverConfig.
    shapes: our path, layers apart (`encoder/layers_0/mlp/wo/kernel`) -> shape; every parameter of the model and no other.
    read: our path -> that parameter, float32. Raises ModelFolderError where its file is broken.
    """

    config: t5.T5Config | contriever.ContrieverConfig
    shapes: Shapes
    read: Callable[[str], np.ndarray]

    def order(self) -> list[str]:
        """All paths, the layers of one parameter after another: sources that keep layers together read each array once in this order."""
        def key(path: str) -> tuple[str, int]:
            layer = _LAYER.search(path)
            return _LAYER.sub('layers', path), int(layer[1]) if layer else 0
        return sorted(self.shapes, key=key)

    def params(self) -> Params:
        """All parameters, a nested dict of float32 arrays, layers apart."""
        return hf_names.nest({path: self.read(path) for path in self.order()})

    def stacked_params(self) -> Params:
        """All parameters, a nested dict of float32 arrays, layers together."""
        return hf_names.nest({path: self.stack(path, paths) for path, paths in self.stacked().items()})

    def stack(self, path: str, paths: list[str]) -> np.ndarray:
        """One parameter with its layers together, layers first; `path` and `paths` are an item of `stacked`."""
        if paths == [path]:
            return self.read(path)
        array = np.empty((len(paths), *self.shapes[paths[0]]), np.float32)
        for layer, name in enumerate(paths):
            array[layer] = self.read(name)
        return array

    def stacked(self) -> dict[str, list[str]]:
        """Path with layers together (`encoder/layers/mlp/wo/kernel`) -> its paths, layer after layer."""
        groups: dict[str, list[str]] = {}
        for path in self.order():
            groups.setdefault(_LAYER.sub('layers', path), []).append(path)
        return groups


def of_params(config: t5.T5Config | contriever.ContrieverConfig, params: Params) -> Weights:
    """Weights of parameters in memory, layers together or apart."""
    views: dict[str, np.ndarray] = {}
    for path, leaf in hf_names.flatten(params).items():
        if '/layers/' in path:
            views |= {path.replace('/layers/', f'/layers_{i}/'): leaf[i] for i in range(leaf.shape[0])}
        else:
            views[path] = leaf
    return Weights(config, {path: tuple(view.shape) for path, view in views.items()}, lambda path: np.asarray(views[path], np.float32))


@functools.lru_cache(64)
def expected_shapes(config: t5.T5Config | contriever.ContrieverConfig) -> Shapes:
    """Our path, layers apart -> shape, as the model itself makes its parameters."""
    init = t5.init_params if isinstance(config, t5.T5Config) else contriever.init_params
    boxed = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return types.MappingProxyType({path: leaf.shape for path, leaf in hf_names.flatten(nn.unbox(boxed)).items()})


def check(where: Any, found: Shapes, expected: Shapes, source: str = 'config.json') -> None:
    """Compares parameters with those that the configuration asks for.

    Args:
      where: file or folder, for the message.
      found, expected: the source's name of each parameter -> shape.
      source: what the expectation comes from.

    Raises ModelFolderError naming the parameters that are missing, unknown or mis-shaped, with the shapes expected and found.
    """
    _refuse(where, 'lacks', {name: expected[name] for name in set(expected) - set(found)},
            f'expected by {source}: the weights belong to another model, or the copy is not whole')
    _refuse(where, 'has unknown', {name: found[name] for name in set(found) - set(expected)},
            f'not expected by {source}: the weights belong to another model or kind of model')
    for name in sorted(expected):
        if tuple(found[name]) != tuple(expected[name]):
            raise errors.ModelFolderError(f'{where}: {name} has shape {list(found[name])}, expected {list(expected[name])} by {source}; '
                                          'the two do not belong together')


def _refuse(where: Any, verb: str, shapes: Shapes, reason: str) -> None:
    if shapes:
        named = ', '.join(f'{name} {list(shapes[name])}' for name in sorted(shapes)[:3])
        more = f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''
        raise errors.ModelFolderError(f'{where}: {verb} parameters {named}{more}, {reason}')
