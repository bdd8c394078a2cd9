"""Several processes as one run: how they start, wait for each other and share arrays. All functions
also work with one process.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from atlas_jax import errors

_VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')

Tree = TypeVar('Tree')


def initialize(initialization_seconds: int = 300) -> None:
    """Joins the processes of a run; call it before anything uses a device.

    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID identify
    the process; without them jax asks the cluster (a TPU pod, Slurm, ...).

    Raises:
      ConfigError: only some of the variables are set, a number is invalid, or not all processes
        started within `initialization_seconds`.
    """
    arguments = _arguments()
    if os.environ.get('JAX_PLATFORMS') == 'cpu':
        # Collectives between processes on CPUs need an implementation; gloo comes with jax.
        jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=initialization_seconds)
    except (RuntimeError, ValueError) as error:
        # jax's message has several lines and a trace.
        raise errors.ConfigError(
            'the processes of this run did not come together: '
            f'{" ".join(str(error).split())[:300]}; start the same '
            f'command on every host, or set {", ".join(_VARIABLES)}') from error


def _arguments() -> dict[str, Any]:
    """Returns the arguments of jax.distributed.initialize from the variables; {} without them.

    Raises ConfigError.
    """
    address, count, number = given = [os.environ.get(name) or '' for name in _VARIABLES]
    if not any(given):
        return {}
    if not address or not count.isdigit() or not number.isdigit() or int(number) >= int(count):
        shown = ', '.join(f'{name}={os.environ.get(name)}' for name in _VARIABLES)
        raise errors.ConfigError(f'{shown}: give all three, as host:port, a number of processes '
                                 'and this one\'s number from 0')
    return {'coordinator_address': address, 'num_processes': int(count), 'process_id': int(number)}


def is_first() -> bool:
    """Returns whether this is process 0, which alone writes shared files such as a manifest."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Keeps all processes together: none leaves the block before all have finished it.

    If the block fails in one process, that process raises its own error. Without this the others
    would wait for it for ever.

    Raises UserError: the block failed in another process.
    """
    problem = None
    try:
        yield
    except Exception as error:
        problem = error
        raise
    finally:
        if jax.process_count() > 1:
            failed = np.flatnonzero(multihost_utils.process_allgather(
                np.array(problem is not None)))
            if problem is None and len(failed):
                raise errors.UserError(f'process {failed[0]} of {jax.process_count()} failed; its '
                                       'own message says why')


def place(tree: Any, shardings: Any) -> Any:
    """Returns global arrays for a tree of host arrays that every process has whole; each process
    copies only its own shards.

    `shardings` is one sharding, or a tree of shardings.
    """
    def put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            # No process has the whole array, so only a program can move it.
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def join_rows(trees: Sequence[Tree], sharding: jax.sharding.Sharding) -> Tree:
    """Concatenates trees of global arrays [rows, ...] along their rows, laid out by `sharding`.

    Corresponding arrays may differ in width and in the size of their dtype; narrower arrays are
    padded with 0.
    """
    def join(*columns: jax.Array) -> jax.Array:
        if columns[0].ndim == 1:
            return jnp.concatenate(columns)
        width = max(column.shape[1] for column in columns)
        dtype = max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)
        return jnp.concatenate([
            jnp.pad(column.astype(dtype), ((0, 0), (0, width - column.shape[1])))
            for column in columns])

    # One program, since no process has all rows and no device should ever hold them all.
    return jax.jit(lambda *trees: jax.tree.map(join, *trees), out_shardings=sharding)(*trees)


def from_local(tree: Any, sharding: jax.sharding.Sharding, rows: int) -> Any:
    """Returns global arrays [rows, ...] for a tree of host arrays [this process's rows, ...]; see
    `local_rows`.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf,
                                                            (rows, *leaf.shape[1:])), tree)


def own_rows(array: jax.Array) -> np.ndarray:
    """Returns this process's rows of a global array [rows, ...], the inverse of `from_local`; waits
    until they are computed.
    """
    if array.is_fully_addressable:
        return jax.device_get(array)
    # Several devices may hold the same rows.
    parts = {
        shard.index[0].indices(len(array))[0]: shard.data for shard in array.addressable_shards}
    return np.concatenate([jax.device_get(parts[start]) for start in sorted(parts)])


def gather(values: np.ndarray) -> np.ndarray:
    """Returns the arrays of all processes, [processes, ...]. All processes must call it together,
    with arrays of one shape and dtype.
    """
    return values[None] if jax.process_count() == 1 else np.asarray(
        multihost_utils.process_allgather(values))


def gather_bytes(value: bytes) -> list[bytes]:
    """Returns the bytes of all processes, in order; all processes must call it together."""
    sizes = gather(np.array(len(value), np.int64))
    # `gather` needs arrays of one shape.
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[:len(value)] = np.frombuffer(value, np.uint8)
    return [row[:size].tobytes() for row, size in zip(gather(padded), sizes.tolist(), strict=True)]


def fetch(tree: Any) -> Any:
    """Waits until the arrays are computed and returns them as numpy arrays; each array must be
    whole on this process's devices.

    The training loop reads its devices only through this function (tests/house), because a hidden
    read would make the devices wait.
    """
    return jax.device_get(tree)


def to_host(tree: Any) -> Any:
    """Returns the whole arrays as numpy arrays on every process; all processes must call it
    together.
    """
    def get(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(get, tree)


def same_everywhere(values: np.ndarray) -> np.ndarray:
    """Returns process 0's array [...] on every process. All processes must call it together, with
    arrays of one shape and dtype.
    """
    return values if jax.process_count() == 1 else np.asarray(
        multihost_utils.broadcast_one_to_all(values))


def local_rows(sharding: jax.sharding.Sharding, rows: int) -> np.ndarray:
    """Returns the numbers of the rows of a global array [rows, ...] that are on this process's
    devices, [n] int, ascending.
    """
    mine = np.zeros(rows, bool)
    for index in sharding.addressable_devices_indices_map((rows,)).values():
        assert index is not None  # every addressable device has a shard
        mine[index[0]] = True
    return np.flatnonzero(mine)
