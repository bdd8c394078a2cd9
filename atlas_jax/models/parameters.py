"""Parameters of reader and retriever together: their shapes and shardings."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh

from atlas_jax import partitioning
from atlas_jax.models import contriever, t5
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn import layer_scan

_FIRST_LAYER = 'layers_0'


def param_shardings(config: AtlasConfig, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the NamedShardings of {'reader', 'retriever'} by the table in partitioning.py."""
    return partitioning.tree_shardings(mesh, abstract_params(config))


def abstract_params(config: AtlasConfig) -> dict[str, Any]:
    """Returns the shapes of {'reader', 'retriever'}, boxed with their logical axis names."""
    return layer_scan.stack_layers({
        'reader': abstract_part(config.reader), 'retriever': abstract_part(config.retriever)})


# Cached, because loading, placing and saving all call it.
@functools.lru_cache(maxsize=64)
def abstract_part(config: t5.T5Config | contriever.ContrieverConfig) -> dict[str, Any]:
    """Returns the shapes of one model's parameters, layers apart, boxed with their logical axis
    names.
    """
    # Only one layer of each stack is traced: tracing eight took a second of every command.
    if isinstance(config, t5.T5Config):
        reader = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
        # A key made outside would cost a compilation.
        shapes = jax.eval_shape(lambda: t5.init_params(reader, jax.random.key(0)))
        layers = {'encoder': config.num_encoder_layers, 'decoder': config.num_decoder_layers}
        return shapes | {name: _repeated(shapes[name], count) for name, count in layers.items()}
    retriever = dataclasses.replace(config, num_layers=1)
    return _repeated(jax.eval_shape(lambda: contriever.init_params(retriever, jax.random.key(0))),
                     config.num_layers)


def _repeated(tree: Any, layers: int) -> Any:
    """Repeats the only layer of every stack in nested dicts; 0 layers remove it."""
    if not isinstance(tree, dict):
        return tree
    rest = {name: _repeated(value, layers) for name, value in tree.items() if name != _FIRST_LAYER}
    return rest | ({f'layers_{i}': tree[_FIRST_LAYER]
                    for i in range(layers)} if _FIRST_LAYER in tree else {})


def abstract_param_items(config: AtlasConfig, mesh: Mesh | AbstractMesh,
                         passage_encoder: bool) -> dict[str, Any]:
    """Returns the shapes, with shardings, of the item `params` of a checkpoint, with or without a
    passage encoder.
    """
    params = with_shardings(nn.unbox(abstract_params(config)), param_shardings(config, mesh))
    if passage_encoder:  # it has the retriever's architecture
        params['passage_encoder'] = params['retriever']
    return params


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Returns a tree of shapes, each with its sharding."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes, shardings)
