"""The processes of one program under jax.distributed: who writes, and what happens to all when one fails."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from atlas_jax import errors


def is_first() -> bool:
    """Whether this is the process that writes what there is one of."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All processes enter; none leaves before all have ended the block.

    Raises UserError in every process when the block has failed in one; that one raises its own error. Without this the others would wait
    for it for ever.
    """
    problem = None
    try:
        yield
    except Exception as error:
        problem = error
        raise
    finally:
        if jax.process_count() > 1:
            failed = np.flatnonzero(multihost_utils.process_allgather(np.array(problem is not None)))
            if problem is None and len(failed):
                raise errors.UserError(f'process {failed[0]} of {jax.process_count()} failed; its own message says why')
