"""The train state: parameters, optimiser moments, step; how it starts and how it lies on the mesh."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from atlas_jax import partitioning
from atlas_jax.models import contriever, t5
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn import token_stream


@struct.dataclass
class TrainState:
    """Everything a step changes, and the frozen passage encoder beside it.

    step             scalar int32, updates done
    params           {'reader', 'retriever'}, float32 master weights
    optimizer_state  optax
    passage_encoder  the encoder that made the index, where only the query side is trained; else None
    """

    step: jax.Array
    params: dict[str, Any]
    optimizer_state: optax.OptState
    passage_encoder: Any = None


def init_params(config: AtlasConfig, key: jax.Array) -> dict[str, Any]:
    """Random parameters, boxed with their logical axis names."""
    reader_key, retriever_key = jax.random.split(key)
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), 1, 1)
    reader = t5.T5(config.reader)
    return {'reader': reader.init(reader_key, stream, jnp.zeros((1, 1), jnp.int32))['params'],
            'retriever': contriever.Contriever(config.retriever).init(retriever_key, stream)['params']}


def param_shardings(config: AtlasConfig, mesh: jax.sharding.Mesh) -> Any:
    """NamedShardings of {'reader', 'retriever'} by the table in partitioning.py."""
    return partitioning.tree_shardings(mesh, abstract_params(config))


@functools.lru_cache(maxsize=8)
def abstract_params(config: AtlasConfig) -> dict[str, Any]:
    """Shapes of {'reader', 'retriever'}, boxed with their logical axis names."""
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def create(params: dict[str, Any], config: AtlasConfig, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, *,
           keep_passage_encoder: bool = False, passage_encoder: Any = None) -> TrainState:
    """A state at step 0 on the mesh.

    Args:
      params: {'reader', 'retriever'} as unboxed arrays (host or device).
      config: the model.
      optimizer: its moments are laid out like the parameters they belong to.
      mesh: devices.
      keep_passage_encoder: store the frozen passage encoder too (query-side training).
      passage_encoder: that encoder, where it is no longer the same as the retriever; default a copy of the retriever.
    """
    shardings = param_shardings(config, mesh)
    # may_alias: the step donates its state, and must not take the caller's arrays with it.
    params = jax.device_put(params, shardings, may_alias=False)
    frozen = None
    if keep_passage_encoder and passage_encoder is not None:
        frozen = jax.device_put(passage_encoder, shardings['retriever'], may_alias=False)
    elif keep_passage_encoder:
        frozen = jax.tree.map(jnp.copy, params['retriever'])
    optimizer_state = jax.jit(optimizer.init, out_shardings=_optimizer_shardings(optimizer, params, shardings, mesh))(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), partitioning.replicated(mesh))
    return TrainState(step=step, params=params, optimizer_state=optimizer_state, passage_encoder=frozen)


def abstract(config: AtlasConfig, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, *,
             keep_passage_encoder: bool = False) -> TrainState:
    """The state's shapes with their shardings, to restore into or to compile for."""
    shardings = param_shardings(config, mesh)
    params = _with_shardings(nn.unbox(abstract_params(config)), shardings)
    moments = jax.eval_shape(optimizer.init, params)
    moments = _with_shardings(moments, _optimizer_shardings(optimizer, params, shardings, mesh))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(mesh))
    return TrainState(step=step, params=params, optimizer_state=moments,
                      passage_encoder=params['retriever'] if keep_passage_encoder else None)


def abstract_param_items(config: AtlasConfig, mesh: jax.sharding.Mesh, passage_encoder: bool) -> dict[str, Any]:
    """Shapes and shardings of a checkpoint's params item, with or without a frozen passage encoder."""
    params = _with_shardings(nn.unbox(abstract_params(config)), param_shardings(config, mesh))
    return params | ({'passage_encoder': params['retriever']} if passage_encoder else {})


def to_items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as the items of a checkpoint: (params, optimizer)."""
    params = dict(state.params)
    if state.passage_encoder is not None:
        params['passage_encoder'] = state.passage_encoder
    return params, {'step': state.step, 'moments': state.optimizer_state}


def from_items(params: dict[str, Any], optimizer: dict[str, Any]) -> TrainState:
    """The inverse of to_items."""
    params = dict(params)
    frozen = params.pop('passage_encoder', None)
    return TrainState(step=optimizer['step'], params=params, optimizer_state=optimizer['moments'], passage_encoder=frozen)


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)


def _optimizer_shardings(optimizer: optax.GradientTransformation, params: Any, shardings: Any, mesh: jax.sharding.Mesh) -> Any:
    """Moments lie like the parameter whose path ends theirs; counters are replicated."""
    by_path = {jax.tree_util.keystr(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def place(path, leaf):
        for start in range(len(path)):
            tail = jax.tree_util.keystr(path[start:])
            if shapes.get(tail) == leaf.shape:
                return by_path[tail]
        return partitioning.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params))
