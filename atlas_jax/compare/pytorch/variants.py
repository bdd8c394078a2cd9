"""Names the ways in which PyTorch may run the same computation, and says whether PyTorch is installed; imports nothing heavy."""

import dataclasses
import importlib.util

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run the computation.

    Attributes:
      pad_to: length to which retriever queries, retriever passages and reader passages are padded (at most the retriever's positions for
        the former two); None pads to the longest of the batch.
      share_states: gold scores use the encoder states of the training forward; without it the encoder runs again for them.
      attention: implementation of Hugging Face's modules, 'eager' or 'sdpa'.
      flat: pads nothing outside attention, by our own loops over Hugging Face's layers (flat.py).
      compiled: runs through torch.compile.
      fused_adamw: AdamW in one kernel.
      sorted_embedding: embeds passages in the order of their lengths.
    """

    pad_to: int | None = None
    share_states: bool = True
    attention: str = 'sdpa'
    flat: bool = False
    compiled: bool = False
    fused_adamw: bool = True
    sorted_embedding: bool = True


# The original's ways: the encoder runs again for gold scores, attention is eager, AdamW is not fused.
_ORIGINAL = Variant(share_states=False, attention='eager', fused_adamw=False, sorted_embedding=False)
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
        raise errors.ConfigError(f'PyTorch variant "{name}" is unknown; choose one of {", ".join(VARIANTS)}')
    return VARIANTS[name]


def require_torch() -> None:
    """Checks that PyTorch and transformers are installed. Raises ConfigError, which names the extra, if one is missing."""
    # find_spec imports nothing: a command that only reads its options stays fast.
    missing = [name for name in ('torch', 'transformers') if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.ConfigError(f'{" and ".join(missing)} not installed, and the PyTorch side needs it; pip install "atlas-jax[torch]"')
