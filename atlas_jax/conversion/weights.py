"""A model whose parameters are read one at a time, so that a conversion never holds all of them."""

import dataclasses
import functools
import os
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import flax.linen as nn
import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_names
from atlas_jax.models import contriever, parameters, t5

Params = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Config = t5.T5Config | contriever.ContrieverConfig
ConfigT = TypeVar('ConfigT', bound=Config)
# Covariant: a T5's weights are also a model's weights.
_ConfigT = TypeVar('_ConfigT', bound=Config, covariant=True)
# Layers apart are `layers_<n>`, as in T5X. Layers together are `layers`, as in our checkpoints
# (nn.scan, first axis).
_LAYER = re.compile(r'layers_(\d+)')


@dataclasses.dataclass(frozen=True)
class Weights(Generic[_ConfigT]):
    """A reader's or a retriever's configuration and parameters.

    Attributes:
      config: T5Config or ContrieverConfig.
      shapes: shape of every parameter of the model by our path, layers apart
        (`encoder/layers_0/mlp/wo/kernel`).
      read: returns the parameter of a path, float32. Raises ModelFolderError if its file is broken.
    """

    config: _ConfigT
    shapes: Shapes
    read: Callable[[str], np.ndarray]

    def order(self) -> list[str]:
        """Returns all paths, the layers of a parameter one after another, so that a file that keeps
        layers together is read once.
        """
        def key(path: str) -> tuple[str, int]:
            layer = _LAYER.search(path)
            # As a number: layers_10 comes after layers_9.
            return _LAYER.sub('layers', path), int(layer[1]) if layer else 0
        return sorted(self.shapes, key=key)

    def params(self) -> Params:
        """Reads all parameters: a nested dict of float32 arrays, layers apart."""
        return hf_names.nest({path: self.read(path) for path in self.order()})

    def stacked_params(self) -> Params:
        """Reads all parameters: a nested dict of float32 arrays, layers together."""
        return hf_names.nest({
            path: self.stack(path, paths) for path, paths in self.stacked().items()})

    def stack(self, path: str, paths: list[str]) -> np.ndarray:
        """Reads one parameter with its layers together: [layers, ...]; `path` and `paths` are an
        item of `stacked`.
        """
        if paths == [path]:
            return self.read(path)
        # Filled layer by layer: stacking a list would hold the parameter twice.
        array = np.empty((len(paths), *self.shapes[paths[0]]), np.float32)
        for layer, name in enumerate(paths):
            array[layer] = self.read(name)
        return array

    def stacked(self) -> dict[str, list[str]]:
        """Returns for each path with layers together (`encoder/layers/mlp/wo/kernel`) its paths
        with layers apart, in order.
        """
        groups: dict[str, list[str]] = {}
        for path in self.order():
            groups.setdefault(_LAYER.sub('layers', path), []).append(path)
        return groups


def of_params(config: ConfigT, params: Params) -> Weights[ConfigT]:
    """Makes Weights of parameters in memory, layers together or apart."""
    views: dict[str, np.ndarray] = {}
    for path, leaf in hf_names.flatten(params).items():
        # Views, so that nothing is copied before a layer is read.
        if '/layers/' in path:
            views |= {
                path.replace('/layers/', f'/layers_{i}/'): leaf[i] for i in range(leaf.shape[0])}
        else:
            views[path] = leaf
    return Weights(config, {path: tuple(view.shape) for path, view in views.items()},
                   lambda path: np.asarray(views[path], np.float32))


def reader(found: Weights[Config]) -> Weights[t5.T5Config]:
    """Returns the same weights, typed as a reader's. Raises TypeError if they are not a T5's."""
    if not isinstance(found.config, t5.T5Config):
        raise TypeError('expected the weights of a T5, found those of a '
                        f'{type(found.config).__name__}')
    return Weights(found.config, found.shapes, found.read)


def retriever(found: Weights[Config]) -> Weights[contriever.ContrieverConfig]:
    """Returns the same weights, typed as a retriever's. Raises TypeError if they are not a
    Contriever's.
    """
    if not isinstance(found.config, contriever.ContrieverConfig):
        raise TypeError('expected the weights of a Contriever, found those of a '
                        f'{type(found.config).__name__}')
    return Weights(found.config, found.shapes, found.read)


# Cached because every opener and check calls it. Callers share the result, hence the read-only
# proxy.
@functools.lru_cache(64)
def expected_shapes(config: Config) -> Shapes:
    """Returns the shape of every parameter of the model by our path, layers apart. Allocates
    nothing: the largest reader has 44 GB of float32.
    """
    # Parameters are boxed with their logical axes.
    boxed = parameters.abstract_part(config)
    return types.MappingProxyType({
        path: leaf.shape for path, leaf in hf_names.flatten(nn.unbox(boxed)).items()})


def check(where: str | os.PathLike, found: Shapes, expected: Shapes,
          source: str = 'config.json') -> None:
    """Compares parameters with those that a configuration needs.

    Args:
      where: file or folder, for messages.
      found, expected: shape of each parameter by its name in the file.
      source: origin of the expectation, for messages.

    Raises:
      ModelFolderError: parameters are missing, unknown or mis-shaped; names them with both shapes.
    """
    # Missing ones first: a misnamed parameter is both missing and unknown, and the right name helps
    # more.
    _refuse(where, 'lacks', {name: expected[name] for name in set(expected) - set(found)},
            f'expected by {source}: the weights belong to another model, or the copy is not whole')
    _refuse(where, 'has unknown', {name: found[name] for name in set(found) - set(expected)},
            f'not expected by {source}: the weights belong to another model or kind of model')
    # One is enough: wrong sizes mostly occur together.
    for name in sorted(expected):
        if tuple(found[name]) != tuple(expected[name]):
            raise errors.ModelFolderError(f'{where}: {name} has shape {list(found[name])}, '
                                          f'expected {list(expected[name])} by {source}; '
                                          'the two do not belong together')


def _refuse(where: str | os.PathLike, verb: str, shapes: Shapes, reason: str) -> None:
    if shapes:
        named = ', '.join(f'{name} {list(shapes[name])}' for name in sorted(shapes)[:3])
        more = f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''
        raise errors.ModelFolderError(f'{where}: {verb} parameters {named}{more}, {reason}')


def infer_t5(where: str | os.PathLike, shapes: Shapes, tied: bool | None = None) -> t5.T5Config:
    """Infers a T5's configuration from the shapes of its parameters, for lack of a config.json.

    Shapes do not show the max distance, the epsilon and the activations. They are T5's own: 128,
    1e-6, and tanh-gelu if gated, else relu.

    Args:
      where: file or folder, for messages.
      shapes: shape by our path, layers apart, heads joined.
      tied: True if the output kernel is the embedding; None: True if there is no output kernel.

    Raises:
      ModelFolderError: a parameter that shows a size is missing or not a matrix, or the sizes
        contradict each other.
    """
    def need(path: str) -> tuple[int, ...]:
        shape = shapes.get(path)
        if shape is None or len(shape) != 2:
            state = 'is missing' if shape is None else f'has shape {list(shape)}'
            raise errors.ModelFolderError(f'{where}: {path} {state}, expected a matrix, as every '
                                          'T5 has; give the checkpoint of a T5')
        return shape

    def layers(side: str) -> int:
        # At least 1: a checkpoint without layers then fails with the name of a missing parameter.
        return max(
            1, len({path.split('/')[1] for path in shapes if path.startswith(f'{side}/layers_')}))

    vocab_size, emb_dim = need('token_embedder/embedding')
    # Only the position bias [heads, buckets] shows the number of heads; query is
    # [embed, heads * kv].
    num_heads, buckets = need('encoder/relpos_bias/rel_embedding')
    joined_kv = need('encoder/layers_0/attention/query/kernel')[1]
    # A gated MLP has two inputs, wi_0 and wi_1.
    gated = 'encoder/layers_0/mlp/wi_0/kernel' in shapes
    if num_heads == 0 or joined_kv % num_heads:
        raise errors.ModelFolderError(f'{where}: encoder/layers_0/attention/query/kernel has '
                                      f'{joined_kv} columns, expected a multiple of the '
                                      f'{num_heads} heads of encoder/relpos_bias/rel_embedding')
    try:
        return t5.T5Config(
            vocab_size=vocab_size, emb_dim=emb_dim, num_heads=num_heads,
            head_dim=joined_kv // num_heads,
            mlp_dim=need(f'encoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel')[1],
            num_encoder_layers=layers('encoder'), num_decoder_layers=layers('decoder'),
            mlp_activations=('gelu', 'linear') if gated else ('relu', ),
            logits_via_embedding='decoder/logits_dense/kernel' not in shapes
            if tied is None else tied, relpos_buckets=buckets)
    except errors.ConfigError as error:
        raise errors.ModelFolderError(f'{where}: its parameters describe no T5: {error}') from error
