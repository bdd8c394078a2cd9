"""AdamW or Adafactor for reader and retriever: two learning rates, one schedule, one joint clip, as
in the original.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from atlas_jax import types
from atlas_jax.options import CheckedOptions, option

OPTIMIZERS = ('adamw', 'adafactor')
SCHEDULES = ('linear', 'cosine', 'fixed')
# the factor that linear starts from, and that linear and cosine reach at schedule_steps
_FLOOR = 0.1


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(CheckedOptions):
    """The optimiser of reader and retriever; defaults are the original's.

    Attributes:
      learning_rate: peak rate of the reader.
      retriever_learning_rate: peak rate of the retriever.
      schedule: linear, cosine or fixed.
      warmup_steps: number of updates in which the rates rise to their peak.
      total_steps: number of updates of the run, warm-up included.
      scheduler_steps: number of updates that the schedule spans, if the run stops before or after
        its end; None is total_steps.
      weight_decay: decay of every parameter, multiplied by its learning rate.
      clip: bound of the joint gradient norm of reader and retriever; 0 does not clip.
      beta1, beta2: decay rates of AdamW's first and second moment.
      epsilon: number added to AdamW's denominator.
      optimizer: adamw, or adafactor, which keeps factored second moments and no first moments: a
        few megabytes for the largest reader, where AdamW takes eight bytes per parameter. The root
        mean square of its updates is at most the learning rate, so AdamW's rates serve.
    """

    learning_rate: float = option(1e-4, least=0)
    retriever_learning_rate: float = option(1e-5, least=0)
    schedule: str = option('cosine', choices=SCHEDULES)
    warmup_steps: int = option(1000, least=0)
    total_steps: int = option(1000, least=1)
    weight_decay: float = option(0.1, least=0)
    clip: float = option(1.0, least=0)
    # A decay of 1 never learns the moment, and AdamW would divide by 1 - 1.
    beta1: float = option(0.9, least=0, below=1)
    beta2: float = option(0.999, least=0, below=1)
    epsilon: float = option(1e-6, above=0)
    optimizer: str = option('adamw', choices=OPTIMIZERS)
    scheduler_steps: int | None = option(None, least=1)

    def warning(self) -> str | None:
        """Returns a warning if the warm-up is longer than the run, else None."""
        if self.warmup_steps <= self.total_steps:
            return None
        share = float(schedule_factor(self, self.total_steps))
        return (f'OptimizerConfig.warmup_steps is {self.warmup_steps}, and total_steps '
                f'{self.total_steps}: the learning rates end at {share:.0%} of their peak')

    @property
    def schedule_steps(self) -> int:
        """Number of updates after which the schedule is at its floor."""
        return self.total_steps if self.scheduler_steps is None else self.scheduler_steps


def schedule_factor(config: OptimizerConfig, updates_done: Any) -> Any:
    """Returns the factor on the learning rate after `updates_done` updates; scalar int32 or int in,
    float32 out.

    linear rises from 0.1 to 1 over the warm-up, then falls to 0.1 at schedule_steps and on to 0.
    cosine rises from 0 to 1, then follows 0.1 + 0.9 cos(pi/2 s), and stays at 0.1 after
    schedule_steps (the original turns negative there). fixed rises from 0 to 1 and stays there.
    """
    step = jnp.asarray(updates_done, jnp.float32)
    ramp = jnp.minimum(step / max(config.warmup_steps, 1),
                       1.0) if config.warmup_steps else jnp.ones_like(step)
    progress = (step - config.warmup_steps) / max(config.schedule_steps - config.warmup_steps, 1)
    if config.schedule == 'linear':
        falling = jnp.maximum(0.0, 1.0 - (1 - _FLOOR) * progress)
        return jnp.where(step < config.warmup_steps, _FLOOR + (1 - _FLOOR) * ramp,
                         jnp.minimum(falling, 1.0))
    if config.schedule == 'cosine':
        falling = _FLOOR + (1 - _FLOOR) * jnp.cos(math.pi / 2 * jnp.clip(progress, 0.0, 1.0))
        return jnp.where(step < config.warmup_steps, ramp, falling)
    return ramp


def learning_rates(config: OptimizerConfig, updates_done: Any) -> dict[str, Any]:
    """Returns `learning_rate` (the reader's) and `retriever_learning_rate` of the next update,
    scalars float32.
    """
    factor = schedule_factor(config, updates_done)
    return {
        name: getattr(config, name) * factor
        for name in ('learning_rate', 'retriever_learning_rate')}


def make_optimizer(config: OptimizerConfig, train_retriever: bool = True,
                   freeze_retriever_steps: int = 0) -> optax.GradientTransformation:
    """Returns the optimiser of {'reader', 'retriever'}. A trained 'passage_encoder' is updated like
    the retriever.

    Moments and updates are float32, whatever the dtype of parameters and gradients.

    Args:
      config: rates, schedule, optimiser.
      train_retriever: False never updates the retriever.
      freeze_retriever_steps: number of first updates that leave the retriever unchanged.
    """
    transform = _adamw if config.optimizer == 'adamw' else _adafactor
    retriever = frozen_for(
        transform(config, config.retriever_learning_rate, freeze_retriever_steps),
        freeze_retriever_steps)
    transforms = {
        'reader': transform(config, config.learning_rate),
        'retriever': retriever if train_retriever else optax.set_to_zero()}
    clip = _clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return _in_float32(optax.chain(clip, optax.partition(transforms, _part_of)))


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Clips like optax, but multiplies by one factor: XLA does not fuse optax's quotients with
    their readers, and writes all gradients a second time.
    """
    def clip(gradients: Any, _: Any) -> Any:
        # also 1 if all gradients are 0
        factor = jnp.minimum(1.0, limit / optax.tree.norm(gradients))
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def _part_of(params: Any) -> dict[str, str]:
    return {name: 'reader' if name == 'reader' else 'retriever' for name in params}


def apply_updates(params: Any, updates: Any, key: jax.Array | None) -> Any:
    """Adds updates to parameters, both trees of arrays [...]; rounds bfloat16 parameters at random.

    Random rounding is right on average. Rounding to the nearest would lose small updates.
    """
    # One key per leaf: the same random bits would round two leaves alike.
    leaves, structure = jax.tree.flatten(params)
    rounds = any(leaf.dtype == jnp.bfloat16 for leaf in leaves)
    keys = jax.random.split(types.required(key), len(leaves)) if rounds else [None] * len(leaves)
    moved = [_moved(*parts) for parts in zip(leaves, jax.tree.leaves(updates), keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def _moved(param: jax.Array, update: jax.Array, key: jax.Array | None) -> jax.Array:
    moved = param.astype(jnp.float32) + update
    if param.dtype != jnp.bfloat16:
        return moved.astype(param.dtype)
    # bfloat16 is the upper half of a float32. Adding random bits to the lower half before the cut
    # carries with a probability in proportion to that half.
    lower = jax.random.bits(types.required(key), moved.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(moved, jnp.uint32) + lower
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    # An infinity with random lower bits would become a NaN.
    return jnp.where(jnp.isfinite(moved), rounded, moved.astype(jnp.bfloat16))


def _adamw(config: OptimizerConfig, learning_rate: float,
           updates_before: int = 0) -> optax.GradientTransformation:
    return optax.adamw(
        lambda count: learning_rate * schedule_factor(config, count + updates_before),
        b1=config.beta1, b2=config.beta2, eps=config.epsilon, weight_decay=config.weight_decay)


def _adafactor(config: OptimizerConfig, learning_rate: float,
               updates_before: int = 0) -> optax.GradientTransformation:
    """Shazeer and Stern 2018 without relative step sizes: learning rate and decay mean the same as
    in AdamW.
    """
    return optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(
            lambda count: learning_rate * schedule_factor(config, count + updates_before)))


def _in_float32(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    def update(gradients, state, params):
        return transformation.update(cast(gradients), state, cast(params))

    return optax.GradientTransformation(lambda params: transformation.init(cast(params)), update)


class FrozenState(NamedTuple):
    """The state of `frozen_for`: `updates_done` scalar int32, and the transformation's state."""

    updates_done: jax.Array
    inner: Any


def frozen_for(transformation: optax.GradientTransformation,
               steps: int) -> optax.GradientTransformation:
    """Changes nothing in the first `steps` updates, neither moments nor counters; then applies
    `transformation`, whose counters start at 0.
    """
    if steps == 0:
        return transformation

    def init(params: Any) -> FrozenState:
        return FrozenState(jnp.zeros((), jnp.int32), transformation.init(params))

    def update(gradients: Any, state: FrozenState, params: Any = None) -> tuple[Any, FrozenState]:
        # In graph, so that the step is one program before and after.
        frozen = state.updates_done < steps
        updates, inner = transformation.update(gradients, state.inner, params)
        updates = jax.tree.map(lambda new: jnp.where(frozen, jnp.zeros_like(new), new), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state.inner, inner)
        return updates, FrozenState(state.updates_done + 1, inner)

    return optax.GradientTransformation(init, update)
