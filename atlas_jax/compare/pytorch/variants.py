"""The ways in which PyTorch may run the same computation, from the original's to all that we know of."""

import dataclasses

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way.

    Attributes:
      pad_to: length to which retriever queries, retriever passages and reader passages are padded (at most the retriever's positions for
        the former two); None pads to the longest of the batch.
      share_states: gold scores use the encoder states of the training forward; else the encoder runs again for them.
      attention: of Hugging Face's modules, 'eager' or 'sdpa'.
      flat: no padding at all but in attention, by own loops over Hugging Face's layers.
      compiled: through torch.compile.
      fused_adamw: AdamW in one kernel.
      sorted_embedding: passages are embedded in the order of their lengths.
    """

    pad_to: int | None = None
    share_states: bool = True
    attention: str = 'sdpa'
    flat: bool = False
    compiled: bool = False
    fused_adamw: bool = True
    sorted_embedding: bool = True


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
    """The variant of this name; raises ConfigError for an unknown one."""
    if name not in VARIANTS:
        raise errors.ConfigError(f'PyTorch variant "{name}" is unknown; choose one of {", ".join(VARIANTS)}')
    return VARIANTS[name]
