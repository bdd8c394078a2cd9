"""Names of the ways in which PyTorch can run the same computation, and a check that PyTorch is
installed. Imports nothing slow.
"""

import dataclasses
import importlib.util

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run the computation.

    Attributes:
      pad_to: length to which retriever queries, retriever passages and reader passages are padded
        (the former two at most to the retriever's positions); None pads to the longest of the
        batch.
      share_states: True takes gold scores from the encoder states of the training forward pass;
        False runs the encoder again.
      attention: implementation of Hugging Face's modules, 'eager' or 'sdpa'.
      flat: True pads only in attention, with our own loops over Hugging Face's layers (flat.py).
      compiled: True runs through torch.compile.
      fused_adamw: True runs AdamW in one kernel.
      sorted_embedding: True embeds passages in the order of their lengths.
    """

    pad_to: int | None = None
    share_states: bool = True
    attention: str = 'sdpa'
    flat: bool = False
    compiled: bool = False
    fused_adamw: bool = True
    sorted_embedding: bool = True


# The original runs the encoder again for gold scores, with eager attention and AdamW that is not
# fused.
_ORIGINAL = Variant(share_states=False, attention='eager', fused_adamw=False,
                    sorted_embedding=False)
VARIANTS = {
    'original_512': dataclasses.replace(_ORIGINAL, pad_to=512),
    'original_200': dataclasses.replace(_ORIGINAL, pad_to=200),
    'original_longest': _ORIGINAL,
    'tuned': Variant(),
    'tuned_compiled': Variant(compiled=True),
    'flat': Variant(flat=True),
    'flat_compiled': Variant(flat=True, compiled=True),
}


def variant(name: str) -> Variant:
    """Returns the variant of this name. Raises ConfigError for an unknown one."""
    if name not in VARIANTS:
        raise errors.ConfigError(f'PyTorch variant "{name}" is unknown; choose one of '
                                 f'{", ".join(VARIANTS)}')
    return VARIANTS[name]


def require_torch() -> None:
    """Raises ConfigError, which names the extra, unless PyTorch and transformers are installed."""
    # find_spec imports nothing, so a command that only reads its options stays fast.
    missing = [name for name in ('torch', 'transformers') if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.ConfigError(f'{" and ".join(missing)} not installed, and the PyTorch side '
                                 'needs it; pip install "atlas-jax[torch]"')
