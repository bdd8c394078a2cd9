"""How a train step is laid out in memory and time; what it computes stays the same up to rounding."""

import dataclasses

import jax.numpy as jnp

from atlas_jax import errors
from atlas_jax.nn import layer_scan

DTYPES = ('float32', 'bfloat16')
ATTENTION = ('auto', 'plain', 'flash')


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Options that trade memory against time and rounding.

    Attributes:
      accumulation_steps: micro-batches an update; the run's batch_size is that of one of them.
      average_accumulated: divide the gradients by accumulation_steps; the original sums without dividing, so the joint clip sees the sum.
      remat: what the backward pass computes again: none, dots (all but the products with weights), full (every layer).
      attention: of the encoders: plain, flash (nn/flash_attention.py: a kernel for TPUs and passages of at most 512 tokens; interpreted,
        and so very slow, elsewhere), or auto: flash on a TPU where passages fit it. In training the two drop other probabilities.
      compute_dtype: of activations and of the weights as layers see them; None keeps the models' own.
      param_dtype: of the stored weights. bfloat16 halves them and their gradients; updates are then rounded stochastically, or small
        ones would be lost. Moments are float32 either way.
    """

    accumulation_steps: int = 1
    average_accumulated: bool = False
    remat: str = 'none'
    attention: str = 'auto'
    compute_dtype: str | None = None
    param_dtype: str = 'float32'

    def __post_init__(self):
        for name, valid in (('remat', layer_scan.REMAT), ('attention', ATTENTION), ('compute_dtype', (None, *DTYPES)),
                            ('param_dtype', DTYPES)):
            if getattr(self, name) not in valid:
                choices = ', '.join(str(choice) for choice in valid)
                raise errors.ConfigError(f'StepConfig.{name} is "{getattr(self, name)}"; choose one of {choices}')
        if self.accumulation_steps < 1:
            raise errors.ConfigError(f'StepConfig.accumulation_steps is {self.accumulation_steps}; it must be at least 1')

    @property
    def param_type(self) -> jnp.dtype:
        """param_dtype as a dtype."""
        return jnp.dtype(self.param_dtype)
