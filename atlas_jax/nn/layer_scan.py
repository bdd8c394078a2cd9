"""A stack of equal layers as a loop in the program: XLA compiles one layer instead of all.

A stack has its parameters either apart (`layers_0`, `layers_1`, ..., T5X's unscanned names) or
together (`layers`, every array with the layers first). `stack_layers` and `unstack_layers` convert
without loss. Models run from both, and stack parameters that come apart.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning
from atlas_jax.nn import layers as layers_lib

Array = jax.Array

# Remat policies of a model. With encoder_dots and encoder_mlp the encoder's layers keep these
# products, and the decoder's layers are computed again.
REMAT = ('none', 'dots', 'encoder_dots', 'encoder_mlp', 'full')
# A loop's backward pass stacks the values that the layers keep, and slices them again. On a CPU
# that costs more than compiling each layer: a sixth of a step against four seconds (8 layers, size
# small), an eighth of a step and 1.5 of 21 GB (24 layers, size large).
_UNROLLED_ON_CPU = 24
TOGETHER = 'layers'
_APART = re.compile(r'layers_(\d+)')


def stack_layers(params: Any) -> Any:
    """Puts every run of `layers_<i>` together as `layers`, the layers first: n leaves [...] become
    [n, ...].

    Args:
      params: nested dicts; leaves may be arrays, shapes or boxes with axis names.
    """
    if not isinstance(params, dict):
        return params
    apart = sorted((name for name in params if _APART.fullmatch(name)),
                   key=lambda name: int(name.removeprefix('layers_')))
    rest = {name: stack_layers(value) for name, value in params.items() if name not in apart}
    if not apart:
        return rest
    return {
        **rest, TOGETHER: jax.tree.map(_stack, *(params[name] for name in apart), is_leaf=_is_box)}


def unstack_layers(params: Any) -> Any:
    """Takes every `layers` apart into `layers_<i>`: arrays or shapes [n, ...] become n leaves
    [...]. The inverse of `stack_layers`.
    """
    if not isinstance(params, dict):
        return params
    result = {name: unstack_layers(value) for name, value in params.items() if name != TOGETHER}
    if TOGETHER in params:
        result |= {f'layers_{i}': layer for i, layer in enumerate(split(params[TOGETHER]))}
    return result


def views_apart(params: Any) -> Any:
    """Takes every `layers` apart like `unstack_layers`, for arrays of one CPU: the leaves are numpy
    views of the same memory.

    An unrolled loop copies each layer out of stacked arrays before it multiplies. For the few
    tokens of one question the copies take as long as the products. With views the encoder takes 26
    ms instead of 59, the decoder 23 instead of 53 (closed book, size small).
    """
    return unstack_layers(jax.tree.map(np.asarray, params))


def split(together: Any) -> list[Any]:
    """Splits a tree of arrays or shapes [layers, ...] into a list of each layer's own tree of
    arrays or shapes [...].
    """
    def of_layer(leaf: Any, i: int) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if isinstance(
            leaf, jax.ShapeDtypeStruct) else leaf[i]

    num_layers = jax.tree.leaves(together)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: of_layer(leaf, i), together) for i in range(num_layers)]


def scan_layers(layer: nn.Module, params: Any, call: Callable[..., tuple[Any, Any]], hidden: Any,
                per_layer: Any = None, *, dropout_key: Array | None = None, remat: str = 'none',
                unroll: int = 1, split: bool = False) -> tuple[Any, Any]:
    """Applies `call(layer, hidden, inputs of the layer)` with the parameters of each layer in turn.

    Args:
      layer: an unbound module (parent=None) for all layers. Its weights are gathered once, however
        often `call` calls it.
      params: the parameters of the whole stack, layers together or apart; there may be others.
      call: (bound layer, hidden, its slice of `per_layer`) -> (hidden of the same shapes and
        dtypes, output).
      hidden: a tree of arrays [streams or batch, ...] that goes from layer to layer.
      per_layer: a tree of arrays [layers, ...], or None.
      dropout_key: split among the layers; None switches dropout off.
      remat: the part that the backward pass computes again: 'none', 'dots' (all but products with
        weights), 'mlp' (all but the products inside the MLP) or 'full' (the whole layer). Weights
        are always gathered again.
      unroll: number of layers in one turn of the loop.
      split: True if the layers are split, so that the devices of the mesh axis `model` have the
        same states (partitioning.spread).

    Returns:
      hidden, with the same shapes; and the outputs, a tree of arrays [layers, ...].

    Raises ConfigError: an unknown policy in `remat`.
    """
    together = layer_params(params)
    # Split before the loop, so that a layer's dropout does not depend on the unrolling.
    keys = None if dropout_key is None else jax.random.split(dropout_key,
                                                             jax.tree.leaves(together)[0].shape[0])
    run = nn.apply(call, layer, mutable=[layers_lib.GATHERED])

    def body(hidden: Any, slices: tuple[Any, Any, Array | None]) -> tuple[Any, Any]:
        own_params, inputs, key = slices
        rngs = None if key is None else {'dropout': key}
        (hidden, output), _ = run({'params': own_params}, _spread(hidden, split), inputs, rngs=rngs)
        return _spread(hidden, split), output

    return jax.lax.scan(rematerialised(body, remat), hidden, (together, per_layer, keys),
                        unroll=unroll)


def run_layers(layer: nn.Module, params: Any, call: Callable[..., tuple[Array, Any]], hidden: Array,
               per_layer: Iterable[Any], split: bool = False) -> tuple[Array, Any]:
    """Applies `call` layer by layer like `scan_layers`, without a loop, remat or dropout. Each
    layer has its own arrays.

    Use it in the body of another loop: there, slicing a layer out of stacked arrays would copy it
    in every turn.

    Args:
      layer, call, hidden, split: see `scan_layers`.
      params: the parameters of the whole stack, layers apart.
      per_layer: the inputs of each layer.

    Returns:
      The same as `scan_layers`.
    """
    # Spread like `scan_layers`, so that both give the same layouts on several devices.
    run, outputs = nn.apply(call, layer), []
    for i, inputs in enumerate(per_layer):
        hidden, output = run({'params': params[f'{TOGETHER}_{i}']}, _spread(hidden, split), inputs)
        outputs.append(output)
    return _spread(hidden, split), jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def unroll_on(platform: str) -> int:
    """Returns how many layers one turn of the loop should have on a platform (jax's name)."""
    return _UNROLLED_ON_CPU if platform == 'cpu' else 1


def rematerialised(body: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Wraps the body of a loop over layers with a remat policy (`scan_layers`).

    Raises ConfigError: an unknown policy.
    """
    if remat not in _POLICIES:
        raise errors.ConfigError(f'remat is "{remat}"; choose one of {", ".join(_POLICIES)}')
    if remat == 'none' and jax.sharding.get_abstract_mesh().empty:
        return body  # without a mesh nothing is gathered, so everything may be kept
    return jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=False)


def encoder_policy(remat: str) -> str:
    """Returns the policy of the encoder's layers (`scan_layers`) for a name of REMAT."""
    return remat.removeprefix('encoder_')


def decoder_policy(remat: str) -> str:
    """Returns the policy of the decoder's layers (`scan_layers`) for a name of REMAT."""
    return 'full' if remat.startswith('encoder_') else remat


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    # Otherwise the gathered weights of all layers would be in memory at once. The operations of
    # partitioning.whole are cheap to repeat.
    return primitive.name not in ('sharding_constraint', 'optimization_barrier',
                                  'convert_element_type')


_POLICIES = {
    'none': _all_but_gathered, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'mlp': jax.checkpoint_policies.save_only_these_names(layers_lib.MLP),
    'full': jax.checkpoint_policies.nothing_saveable}


def layer_params(params: Any) -> Any:
    """Returns the parameters of a stack's layers, each [layers, ...], whether they come together or
    apart.
    """
    if TOGETHER in params:
        return params[TOGETHER]
    return stack_layers({name: params[name] for name in params if _APART.fullmatch(name)})[TOGETHER]


def _spread(hidden: Any, split: bool) -> Any:
    return jax.tree.map(lambda states: partitioning.spread(states, split), hidden)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _stack(*leaves: Any) -> Any:
    """Stacks leaves with one shape [...] to [layers, ...]: boxes, shapes, numpy or jax arrays."""
    first = leaves[0]
    if _is_box(first):
        return first.replace(value=_stack(*(leaf.value for leaf in leaves)),
                             names=('layers', *first.names))
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    # numpy stays on the host: checkpoints are stacked there, before anything lies on a device
    return np.stack(leaves) if isinstance(first, np.ndarray) else jnp.stack(leaves)
