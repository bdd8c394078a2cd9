"""Token arrays as PyTorch tensors, padded the way a variant does."""

import dataclasses

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Token rows and their mask, [..., length] int64."""

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def flat(self) -> 'Rows':
        """The same as [rows, length]."""
        return Rows(self.ids.reshape(-1, self.ids.shape[-1]), self.mask.reshape(-1, self.mask.shape[-1]))


def rows(ids: np.ndarray, mask: np.ndarray, length: int | None, device: torch.device) -> Rows:
    """Rows of this length; None takes the longest row.

    Args:
      ids, mask: [..., width] int; prefix masks.
      length: at least the longest row.

    Raises ValueError for a row longer than `length`.
    """
    longest = int(mask.sum(axis=-1).max())
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f'a row has {longest} tokens, more than the {length} it is to be padded to')
    width = min(ids.shape[-1], length)
    missing = [(0, 0)] * (ids.ndim - 1) + [(0, length - width)]

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.pad(values[..., :width].astype(np.int64), missing)).to(device)

    return Rows(tensor(np.where(mask > 0, ids, 0)), tensor(mask > 0))
