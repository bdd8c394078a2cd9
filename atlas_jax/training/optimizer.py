"""AdamW or Adafactor for reader and retriever with their own learning rates, one schedule and one joint clip, as the original trains."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from atlas_jax import errors, types

OPTIMIZERS = ('adamw', 'adafactor')
SCHEDULES = ('linear', 'cosine', 'fixed')
_FLOOR = 0.1  # the factor that linear starts from, and that linear and cosine reach at schedule_steps


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Joint AdamW or Adafactor for reader and retriever; defaults are the original's. Every parameter is decayed.

    Attributes:
      learning_rate: peak rate of the reader.
      retriever_learning_rate: peak rate of the retriever.
      schedule: linear, cosine or fixed.
      warmup_steps: updates in which the rates rise to their peak.
      total_steps: updates of the run, warm-up included.
      scheduler_steps: updates that the schedule is made for, where the run is to stop before or after its end; None is total_steps.
      weight_decay: decay of every parameter, times its learning rate.
      clip: bound of the joint gradient norm of reader and retriever; 0 does not clip.
      beta1, beta2: decay rates of AdamW's first and second moment.
      epsilon: number added to AdamW's denominator.
      optimizer: adamw, or adafactor, which keeps factored second moments and no first ones: a few megabytes for the largest reader, where
        AdamW takes eight bytes a parameter. The root mean square of its updates is the learning rate at most, so AdamW's rates serve.
    """

    learning_rate: float = 1e-4
    retriever_learning_rate: float = 1e-5
    schedule: str = 'cosine'
    warmup_steps: int = 1000
    total_steps: int = 1000
    weight_decay: float = 0.1
    clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    optimizer: str = 'adamw'
    scheduler_steps: int | None = None

    def __post_init__(self):
        for name, valid in (('schedule', SCHEDULES), ('optimizer', OPTIMIZERS)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'OptimizerConfig.{name} is "{getattr(self, name)}"; choose one of {", ".join(valid)}')
        for name, least in (('warmup_steps', 0), ('total_steps', 1), ('learning_rate', 0), ('retriever_learning_rate', 0), ('clip', 0),
                            ('weight_decay', 0)):
            if not least <= getattr(self, name) < math.inf:
                raise errors.ConfigError(f'OptimizerConfig.{name} is {getattr(self, name)}; it must be finite and at least {least}')
        if self.schedule_steps < 1:
            raise errors.ConfigError(f'OptimizerConfig.scheduler_steps is {self.scheduler_steps}; it must be at least 1, or None')
        # A decay of 1 never learns the moment, and AdamW would divide by 1 - 1.
        for name in ('beta1', 'beta2'):
            if not 0 <= getattr(self, name) < 1:
                raise errors.ConfigError(f'OptimizerConfig.{name} is {getattr(self, name)}; it must be at least 0 and below 1')
        if not 0 < self.epsilon < math.inf:
            raise errors.ConfigError(f'OptimizerConfig.epsilon is {self.epsilon}; it must be finite and greater than 0')

    def warning(self) -> str | None:
        """Returns a line about a warm-up that is not over at the end of the run; None where it is."""
        if self.warmup_steps <= self.total_steps:
            return None
        share = float(schedule_factor(self, self.total_steps))
        return (f'OptimizerConfig.warmup_steps is {self.warmup_steps}, and total_steps {self.total_steps}: the learning rates end at '
                f'{share:.0%} of their peak')

    @property
    def schedule_steps(self) -> int:
        """The updates at whose end the schedule has fallen to its floor."""
        return self.total_steps if self.scheduler_steps is None else self.scheduler_steps


def schedule_factor(config: OptimizerConfig, updates_done: Any) -> Any:
    """Returns the factor on the learning rate after `updates_done` updates; scalar int32 or int in, float32 out.

    linear: 0.1 to 1 over the warm-up, then down to 0.1 at schedule_steps and on to 0. cosine: 0 to 1, then 0.1 + 0.9 cos(pi/2 s), held at
    0.1 past schedule_steps (the original's turns negative there). fixed: 0 to 1, then 1.
    """
    step = jnp.asarray(updates_done, jnp.float32)
    ramp = jnp.minimum(step / max(config.warmup_steps, 1), 1.0) if config.warmup_steps else jnp.ones_like(step)
    progress = (step - config.warmup_steps) / max(config.schedule_steps - config.warmup_steps, 1)
    if config.schedule == 'linear':
        falling = jnp.maximum(0.0, 1.0 - (1 - _FLOOR) * progress)
        return jnp.where(step < config.warmup_steps, _FLOOR + (1 - _FLOOR) * ramp, jnp.minimum(falling, 1.0))
    if config.schedule == 'cosine':
        falling = _FLOOR + (1 - _FLOOR) * jnp.cos(math.pi / 2 * jnp.clip(progress, 0.0, 1.0))
        return jnp.where(step < config.warmup_steps, ramp, falling)
    return ramp


def learning_rates(config: OptimizerConfig, updates_done: Any) -> dict[str, Any]:
    """`learning_rate` (the reader's) and `retriever_learning_rate` of the next update; scalars float32."""
    factor = schedule_factor(config, updates_done)
    return {name: getattr(config, name) * factor for name in ('learning_rate', 'retriever_learning_rate')}


def make_optimizer(config: OptimizerConfig, train_retriever: bool = True, freeze_retriever_steps: int = 0) -> optax.GradientTransformation:
    """Returns the optimiser over `{'reader', 'retriever'}`, and 'passage_encoder' where it is trained, which goes with the retriever.

    Without `train_retriever` the retriever stays as it is, else it does so in the first `freeze_retriever_steps` updates.

    It works in float32 whatever the dtype of parameters and gradients: moments are float32, and so are the updates.
    """
    transform = _adamw if config.optimizer == 'adamw' else _adafactor
    retriever = frozen_for(transform(config, config.retriever_learning_rate, freeze_retriever_steps), freeze_retriever_steps)
    transforms = {'reader': transform(config, config.learning_rate), 'retriever': retriever if train_retriever else optax.set_to_zero()}
    clip = _clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return _in_float32(optax.chain(clip, optax.partition(transforms, _part_of)))


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """optax's, by one factor for all: its quotients XLA does not fuse with what reads them, and writes all gradients once more."""
    def clip(gradients: Any, _: Any) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(gradients))  # 1 too where all gradients are 0
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def _part_of(params: Any) -> dict[str, str]:
    return {name: 'reader' if name == 'reader' else 'retriever' for name in params}


def apply_updates(params: Any, updates: Any, key: jax.Array | None) -> Any:
    """Adds updates to parameters, trees of arrays [...]; bfloat16 ones are rounded at random.

    Rounding up or down is right on average. Rounding to the nearest would lose small updates.
    """
    # One key a leaf: the same random bits in two leaves would round them alike.
    leaves, structure = jax.tree.flatten(params)
    rounds = any(leaf.dtype == jnp.bfloat16 for leaf in leaves)
    keys = jax.random.split(types.required(key), len(leaves)) if rounds else [None] * len(leaves)
    moved = [_moved(*parts) for parts in zip(leaves, jax.tree.leaves(updates), keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def _moved(param: jax.Array, update: jax.Array, key: jax.Array | None) -> jax.Array:
    moved = param.astype(jnp.float32) + update
    if param.dtype != jnp.bfloat16:
        return moved.astype(param.dtype)
    # bfloat16 is the upper half of a float32: adding random lower halves before the cut carries as often as the lower half is large.
    lower = jax.random.bits(types.required(key), moved.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(moved, jnp.uint32) + lower
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    # An infinity with random lower bits would become a NaN.
    return jnp.where(jnp.isfinite(moved), rounded, moved.astype(jnp.bfloat16))


def _adamw(config: OptimizerConfig, learning_rate: float, updates_before: int = 0) -> optax.GradientTransformation:
    return optax.adamw(lambda count: learning_rate * schedule_factor(config, count + updates_before), b1=config.beta1, b2=config.beta2,
                       eps=config.epsilon, weight_decay=config.weight_decay)


def _adafactor(config: OptimizerConfig, learning_rate: float, updates_before: int = 0) -> optax.GradientTransformation:
    """Shazeer and Stern 2018 without relative step sizes: the learning rate and the decay mean what they mean in AdamW."""
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.add_decayed_weights(config.weight_decay),
                       optax.scale_by_learning_rate(lambda count: learning_rate * schedule_factor(config, count + updates_before)))


def _in_float32(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    def update(gradients, state, params):
        return transformation.update(cast(gradients), state, cast(params))

    return optax.GradientTransformation(lambda params: transformation.init(cast(params)), update)


class FrozenState(NamedTuple):
    """`updates_done` scalar int32, and the state of the transformation that waits."""

    updates_done: jax.Array
    inner: Any


def frozen_for(transformation: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Updates nothing, moments and counters included, in the first `steps` updates; then it is `transformation`.

    Its own counters start at 0 when it sets in. In graph: nothing compiles again.
    """
    if steps == 0:
        return transformation

    def init(params: Any) -> FrozenState:
        return FrozenState(jnp.zeros((), jnp.int32), transformation.init(params))

    def update(gradients: Any, state: FrozenState, params: Any = None) -> tuple[Any, FrozenState]:
        # In graph and not in Python, so that the step is one program before and after.
        frozen = state.updates_done < steps
        updates, inner = transformation.update(gradients, state.inner, params)
        updates = jax.tree.map(lambda new: jnp.where(frozen, jnp.zeros_like(new), new), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state.inner, inner)
        return updates, FrozenState(state.updates_done + 1, inner)

    return optax.GradientTransformation(init, update)
