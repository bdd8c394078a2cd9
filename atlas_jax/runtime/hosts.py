"""Several processes as one run: how they start and hand arrays to each other. Everything works the same with one process."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from atlas_jax import errors

_VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


def initialize(initialization_seconds: int = 300) -> None:
    """Joins the processes of a run; call it before anything touches a device.

    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who; without them jax finds it out
    from the cluster (a TPU pod, Slurm, ...).

    Raises:
      ConfigError: some of the variables are set and others not, one is no number, or the others did not come in time.
    """
    given = [os.environ.get(name) for name in _VARIABLES]
    arguments: dict[str, Any] = {}
    if any(given):
        if not all(given) or not (given[1].isdigit() and given[2].isdigit()) or int(given[2]) >= int(given[1]):
            shown = ', '.join(f'{name}={value}' for name, value in zip(_VARIABLES, given, strict=True))
            raise errors.ConfigError(f'{shown}: give all three, as host:port, a number of processes and this one\'s number from 0')
        arguments = {'coordinator_address': given[0], 'num_processes': int(given[1]), 'process_id': int(given[2])}
    if os.environ.get('JAX_PLATFORMS') == 'cpu':
        jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=initialization_seconds)
    except (RuntimeError, ValueError) as error:
        raise errors.ConfigError(f'the processes of this run did not come together: {" ".join(str(error).split())[:300]}; start the same '
                                 f'command on every host, or set {", ".join(_VARIABLES)}') from error


def is_first() -> bool:
    """Returns whether this is the process that writes what exists once, such as a manifest."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Enters and leaves the block with all processes: none leaves before all have ended it.

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


def place(tree: Any, shardings: Any) -> Any:
    """Global arrays of a tree of host arrays that every process has whole; each process copies its own shards only."""
    def put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def from_local(tree: Any, sharding: jax.sharding.Sharding, rows: int) -> Any:
    """Global arrays of `rows` rows, of a tree of host arrays with this process's rows of them (`local_rows`)."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf, (rows, *leaf.shape[1:])), tree)


def to_host(tree: Any) -> Any:
    """The whole arrays as numpy arrays, on every process; all processes must call it together."""
    def get(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(get, tree)


def local_rows(sharding: jax.sharding.Sharding, rows: int) -> np.ndarray:
    """The rows of a global array of `rows` rows that lie on this process's devices, ascending, int."""
    mine = np.zeros(rows, bool)
    for where in sharding.addressable_devices_indices_map((rows,)).values():
        mine[where[0]] = True
    return np.flatnonzero(mine)
