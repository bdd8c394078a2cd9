"""The parameters of reader and retriever together: how they start, their shapes, and how they lie on a mesh."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.models import contriever, t5
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn import layer_scan, token_stream


def init_params(config: AtlasConfig, key: jax.Array) -> dict[str, Any]:
    """Returns random parameters, layers together ([layers, ...]), boxed with their logical axis names."""
    reader_key, retriever_key = jax.random.split(key)
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), 1, 1)
    reader = t5.T5(config.reader)
    params = {'reader': reader.init(reader_key, stream, jnp.zeros((1, 1), jnp.int32))['params'],
              'retriever': contriever.Contriever(config.retriever).init(retriever_key, stream)['params']}
    return layer_scan.stack_layers(params)


def param_shardings(config: AtlasConfig, mesh: jax.sharding.Mesh) -> Any:
    """Returns the NamedShardings of {'reader', 'retriever'} by the table in partitioning.py."""
    return partitioning.tree_shardings(mesh, abstract_params(config))


@functools.lru_cache(maxsize=8)
def abstract_params(config: AtlasConfig) -> dict[str, Any]:
    """Returns the shapes of {'reader', 'retriever'}, boxed with their logical axis names."""
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def abstract_param_items(config: AtlasConfig, mesh: jax.sharding.Mesh, passage_encoder: bool) -> dict[str, Any]:
    """Returns shapes and shardings of a checkpoint's params item, with or without a passage encoder."""
    params = with_shardings(nn.unbox(abstract_params(config)), param_shardings(config, mesh))
    return params | ({'passage_encoder': params['retriever']} if passage_encoder else {})


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Returns a tree of shapes, each with its sharding."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)
