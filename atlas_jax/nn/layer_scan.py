"""Layers as a loop in the program: one layer is compiled, not one after another.

A stack of layers has its parameters either apart (`layers_0`, `layers_1`, ..., T5X's unscanned names) or together (`layers`, every array
with the layers first). `stack_layers` and `unstack_layers` convert without loss; models run from both, and stack what comes apart.

A loop's backward pass stacks what every layer keeps into one array and takes it out again. On a CPU that costs more than compiling
the layers one by one does (a sixth of a step against four seconds, eight layers of size small; an eighth and 1.5 of 21 GB, 24 layers of
size large), so up to 24 are unrolled there (`unroll_on`).
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning

Array = jax.Array

REMAT = ('none', 'dots', 'full')
_UNROLLED_ON_CPU = 24
TOGETHER = 'layers'
_APART = re.compile(r'layers_(\d+)')


def stack_layers(params: Any) -> Any:
    """Parameters with every run of `layers_<i>` put together as `layers`; leaves may be arrays, shapes or boxes with axis names."""
    if not isinstance(params, dict):
        return params
    apart = sorted((name for name in params if _APART.fullmatch(name)), key=lambda name: int(name.removeprefix('layers_')))
    rest = {name: stack_layers(value) for name, value in params.items() if name not in apart}
    if not apart:
        return rest
    return {**rest, TOGETHER: jax.tree.map(_stack, *(params[name] for name in apart), is_leaf=_is_box)}


def unstack_layers(params: Any) -> Any:
    """The inverse of `stack_layers`, for arrays."""
    if not isinstance(params, dict):
        return params
    result = {name: unstack_layers(value) for name, value in params.items() if name != TOGETHER}
    if TOGETHER in params:
        result |= {f'layers_{i}': layer for i, layer in enumerate(split(params[TOGETHER]))}
    return result


def split(together: Any) -> list[Any]:
    """Arrays with the layers first, as a list of each layer's own."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(jax.tree.leaves(together)[0].shape[0])]


def scan_layers(layer: nn.Module, params: Any, call: Callable[..., tuple[Array, Any]], hidden: Array, per_layer: Any = None, *,
                dropout_key: Array | None = None, remat: str = 'none', unroll: int = 1) -> tuple[Array, Any]:
    """Applies `call(layer, hidden, inputs of the layer)` with the parameters of each layer in turn.

    Args:
      layer: an unbound module (parent=None), the same for every layer.
      params: of the whole stack, layers together or apart, beside other parameters.
      call: (bound layer, hidden, its slice of `per_layer`) -> (hidden of the same shape and dtype, output).
      hidden: what goes from layer to layer.
      per_layer: a tree of arrays with the layers first, or None.
      dropout_key: split among the layers; None switches dropout off.
      remat: what the backward pass computes again: 'none', 'dots' (all but the weights' products), 'full' (the whole layer). Gathered
        weights are always gathered again.
      unroll: layers in one turn of the loop.

    Returns:
      hidden, and the outputs with the layers first.
    """
    together = layer_params(params)
    keys = None if dropout_key is None else jax.random.split(dropout_key, jax.tree.leaves(together)[0].shape[0])
    run = nn.apply(call, layer)

    def body(hidden: Array, slices: tuple[Any, Any, Array | None]) -> tuple[Array, Any]:
        own_params, inputs, key = slices
        rngs = None if key is None else {'dropout': key}
        hidden, output = run({'params': own_params}, partitioning.spread(hidden), inputs, rngs=rngs)
        return partitioning.spread(hidden), output

    return jax.lax.scan(rematerialised(body, remat), hidden, (together, per_layer, keys), unroll=unroll)


def run_layers(layer: nn.Module, params: Any, call: Callable[..., tuple[Array, Any]], hidden: Array,
               per_layer: Iterable[Any]) -> tuple[Array, Any]:
    """`scan_layers` without a loop, a gradient or dropout: from arrays that each layer has to itself.

    For what is itself the body of a loop: taking a layer out of stacked arrays would copy it in every turn.

    Args:
      params: of the whole stack, layers apart.
      per_layer: what each layer gets.
    """
    run, outputs = nn.apply(call, layer), []
    for i, inputs in enumerate(per_layer):
        hidden, output = run({'params': params[f'{TOGETHER}_{i}']}, partitioning.spread(hidden), inputs)
        outputs.append(output)
    return partitioning.spread(hidden), jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def unroll_on(device: jax.Device) -> int:
    """Layers in one turn of the loop, for a device of this kind."""
    return _UNROLLED_ON_CPU if device.platform == 'cpu' else 1


def rematerialised(body: Callable, remat: str) -> Callable:
    """The body of a loop over layers that keeps for its gradient what `remat` says. Raises ConfigError for an unknown policy."""
    if remat not in REMAT:
        raise errors.ConfigError(f'remat is "{remat}"; choose one of {", ".join(REMAT)}')
    if remat == 'none' and jax.sharding.get_abstract_mesh().empty:
        return body  # nothing is gathered, so everything may be kept
    policies = {'none': _all_but_gathered, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
                'full': jax.checkpoint_policies.nothing_saveable}
    return jax.checkpoint(body, policy=policies[remat], prevent_cse=False)


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    # Gathered weights would stand in memory for all layers at once. What partitioning.whole does is cheap to do again.
    return primitive.name not in ('sharding_constraint', 'optimization_barrier', 'convert_element_type')


def layer_params(params: Any) -> Any:
    """The parameters of a stack's layers, layers first."""
    if TOGETHER in params:
        return params[TOGETHER]
    return stack_layers({name: params[name] for name in params if _APART.fullmatch(name)})[TOGETHER]


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _stack(*leaves: Any) -> Any:
    first = leaves[0]
    if _is_box(first):
        return first.replace(value=_stack(*(leaf.value for leaf in leaves)), names=('layers', *first.names))
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return np.stack(leaves) if isinstance(first, np.ndarray) else jnp.stack(leaves)
