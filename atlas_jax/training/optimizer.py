"""AdamW for reader and retriever with their own learning rates, one schedule and one joint clip, as the original trains."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import optax

from atlas_jax import errors

SCHEDULES = ('linear', 'cosine', 'fixed')
_FLOOR = 0.1  # the factor that linear starts from, and that linear and cosine reach at total_steps


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Joint AdamW; defaults are the original's.

    `schedule` is linear, cosine or fixed; `clip` bounds the joint gradient norm of reader and retriever; every parameter is decayed.
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

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise errors.ConfigError(f'OptimizerConfig.schedule is "{self.schedule}"; choose one of {", ".join(SCHEDULES)}')
        for name, least in (('warmup_steps', 0), ('total_steps', 1), ('learning_rate', 0), ('retriever_learning_rate', 0), ('clip', 0)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'OptimizerConfig.{name} is {getattr(self, name)}; it must be at least {least}')


def schedule_factor(config: OptimizerConfig, updates_done: Any) -> Any:
    """The factor on the learning rate after `updates_done` updates; scalar int32 or int in, float32 out.

    linear: 0.1 to 1 over the warm-up, then down to 0.1 at total_steps and on to 0. cosine: 0 to 1, then 0.1 + 0.9 cos(pi/2 s), held at
    0.1 past total_steps (the original's turns negative there). fixed: 0 to 1, then 1.
    """
    step = jnp.asarray(updates_done, jnp.float32)
    ramp = jnp.minimum(step / max(config.warmup_steps, 1), 1.0) if config.warmup_steps else jnp.ones_like(step)
    progress = (step - config.warmup_steps) / max(config.total_steps - config.warmup_steps, 1)
    if config.schedule == 'linear':
        falling = jnp.maximum(0.0, 1.0 - (1 - _FLOOR) * progress)
        return jnp.where(step < config.warmup_steps, _FLOOR + (1 - _FLOOR) * ramp, jnp.minimum(falling, 1.0))
    if config.schedule == 'cosine':
        falling = _FLOOR + (1 - _FLOOR) * jnp.cos(math.pi / 2 * jnp.clip(progress, 0.0, 1.0))
        return jnp.where(step < config.warmup_steps, ramp, falling)
    return ramp


def make_optimizer(config: OptimizerConfig, train_retriever: bool = True) -> optax.GradientTransformation:
    """The optimiser over `{'reader': ..., 'retriever': ...}`; without `train_retriever` the retriever stays as it is."""
    def adamw(learning_rate: float) -> optax.GradientTransformation:
        return optax.adamw(lambda count: learning_rate * schedule_factor(config, count), b1=config.beta1, b2=config.beta2,
                           eps=config.epsilon, weight_decay=config.weight_decay)

    transforms = {'reader': adamw(config.learning_rate),
                  'retriever': adamw(config.retriever_learning_rate) if train_retriever else optax.set_to_zero()}
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, optax.partition(transforms, {'reader': 'reader', 'retriever': 'retriever'}))
