"""The code of a row: its principal components in a few bits each, which a scan compares with
queries.

Rows are centred and rotated to their principal components. Each bit goes to the component where it
reduces the weighted error most. A component gets zero to six bits and a uniform quantiser with one
step. Rounding shortens a row r to its code y; the row's factor |r|² / ⟨y, r⟩ corrects that. So
factor · ⟨y, query⟩ estimates the inner product with the row, less the inner product with the mean,
which is the same for all rows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors
from atlas_jax.searchers import exact

Array = jax.Array
WEIGHTS = ('variance', 'deviation')
ROWS_OF_A_WORD = 32
# The best uniform quantiser of a standard normal variable (Max 1960) by number of bits: the
# remaining variance, and the step.
_LEFT = (1.0, .3634, .1188, .03744, .01154, .00349, .00104)
_STEPS = (0.0, 1.596, .9957, .5860, .3352, .1881, .1041)
MOST_BITS = len(_STEPS) - 1
# The factor of a row that equals the mean: its estimate is 0, and factor 0 would mark no row.
_TINY = 1e-30
_ENCODED_ROWS = 8192  # at a time: before packing, every bit of a row takes a whole word


@dataclasses.dataclass(frozen=True)
class Code:
    """A fitted code.

    mean    [dim] float32
    basis   [dim, components] float32, the components with most bits first
    steps   [components] float32, steps of the quantisers
    planes  number of components with a first bit, a second, ...
    """

    mean: np.ndarray
    basis: np.ndarray
    steps: np.ndarray
    planes: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits of a row."""
        return sum(self.planes)

    @property
    def turn(self) -> np.ndarray:
        """Components times their steps, [dim, components] float32; queries are multiplied by it."""
        return self.basis * self.steps


def fit(sample: np.ndarray, bits: int, weight: str) -> Code:
    """Fits a code to a sample of rows.

    Args:
      sample: [n, dim] float32, as `normalised` returns them; n at least dim.
      bits: bits of a row, at most MOST_BITS for each dimension.
      weight: weights a component's error by its variance or by its standard deviation (WEIGHTS).
        The deviation spreads the bits over more components.

    Raises ConfigError: too few rows, or too many bits.
    """
    rows, dim = sample.shape
    if rows < dim:
        raise errors.ConfigError(f'{rows} passages are too few to fit a code of {dim} numbers; it '
                                 f'needs {dim}. Search so few exactly')
    if not 1 <= bits <= MOST_BITS * dim:
        raise errors.ConfigError(f'{bits / 8:g} bytes a row for embeddings of {dim} numbers; a '
                                 f'number gets at most {MOST_BITS} bits, so choose from 1 to '
                                 f'{MOST_BITS * dim // 8} bytes')
    mean = sample.mean(axis=0)
    centred = sample - mean
    variances, components = np.linalg.eigh((centred.T @ centred / rows).astype(np.float64))
    variances, components = np.maximum(variances[::-1], 0), components[:, ::-1]
    given = _shared(bits, variances, variances if weight == 'variance' else np.sqrt(variances))
    # Most bits first, so that every plane covers the first components.
    order = np.argsort(-given, kind='stable')[:np.count_nonzero(given)]
    given = given[order]
    # Rows are divided by the steps, so a component without variance has a step too.
    steps = np.asarray(_STEPS)[given] * np.sqrt(variances[order]) + 1e-12
    planes = tuple(int(np.count_nonzero(given > plane)) for plane in range(given.max()))
    return Code(mean.astype(np.float32), np.ascontiguousarray(components[:, order], np.float32),
                steps.astype(np.float32), planes)


def _shared(bits: int, variances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns bits [dim] int of each component. Each bit goes where it reduces variance * weight
    most.
    """
    given, errors_ = np.zeros(len(variances), np.int64), variances * weights
    gains = errors_ * (_LEFT[0] - _LEFT[1])
    for _ in range(bits):
        chosen = int(np.argmax(gains))
        given[chosen] += 1
        count = given[chosen]
        gains[chosen] = -1 if count == MOST_BITS else (
            errors_[chosen] * (_LEFT[count] - _LEFT[count + 1]))
    return given


def normalised(vectors: np.ndarray, metric: str) -> np.ndarray:
    """Returns vectors [n, dim] float32, with unit length for cosine."""
    if metric != 'cosine':
        return vectors.astype(np.float32, copy=False)
    return np.asarray(exact.prepare_queries(jnp.asarray(vectors), metric))


def encode(code: Code, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encodes rows.

    Args:
      code: the code.
      vectors: [n, dim] float32, as `normalised` returns them.

    Returns:
      words [ceil(n / 32), bits] uint32 and factors [n] float32; bits behind the last row are 0.
    """
    words, factors = [], []
    size = min(_ENCODED_ROWS, -(-len(vectors) // ROWS_OF_A_WORD) * ROWS_OF_A_WORD)
    for start in range(0, len(vectors), max(size, 1)):
        part = vectors[start:start + size]
        # All parts have one shape, so they share one program.
        packed, scaled = _encode(code.mean, code.basis, code.steps,
                                 np.pad(part, ((0, size - len(part)), (0, 0))), len(part),
                                 planes=code.planes)
        words.append(np.asarray(packed)[:-(-len(part) // ROWS_OF_A_WORD)])
        factors.append(np.asarray(scaled)[:len(part)])
    if not words:
        return np.zeros((0, code.bits), np.uint32), np.zeros(0, np.float32)
    return np.concatenate(words), np.concatenate(factors)


@functools.partial(jax.jit, static_argnames='planes')
def _encode(mean: Array, basis: Array, steps: Array, vectors: Array, count: int,
            planes: tuple[int, ...]) -> tuple[Array, Array]:
    # [rows, components]
    rows = jnp.matmul(vectors - mean, basis, precision=jax.lax.Precision.HIGHEST)
    bits = (np.arange(planes[0])[:, None] < np.asarray(planes)).sum(axis=1)
    half = (2.0 ** (bits - 1)).astype(np.float32)
    numbers = jnp.clip(jnp.floor(rows / steps), -half, half - 1)
    coded = (numbers + .5) * steps
    shortened = jnp.sum(coded * rows, axis=1)
    factors = jnp.where(shortened > 0,
                        jnp.sum(rows * rows, axis=1) / jnp.where(shortened > 0, shortened, 1), 0)
    numbers = jnp.where(jnp.arange(len(vectors))[:, None] < count, numbers + half,
                        0).astype(jnp.uint32)
    # [rows, bits] by planes, then [words, 32, bits] to [words, bits]
    columns = jnp.concatenate([
        (numbers[:, :width] >> plane) & 1 for plane, width in enumerate(planes)], axis=1)
    columns = columns.reshape(-1, ROWS_OF_A_WORD, columns.shape[1])
    return (jnp.sum(columns << jnp.arange(ROWS_OF_A_WORD, dtype=jnp.uint32)[:, None], axis=1,
                    dtype=jnp.uint32), jnp.maximum(factors, _TINY))


def decode(words: Array, planes: tuple[int, ...]) -> Array:
    """Returns the codes of words [n, bits] uint32 in steps, [components, 32 * n] float32: odd
    halves, ..., -1/2, 1/2, ...

    Components come first, because the bits of a column then lie beside each other. On a CPU this
    makes unpacking fast.
    """
    columns = words.T  # [bits, n]
    first = np.concatenate([[0], np.cumsum(planes)])
    shifts = jnp.arange(ROWS_OF_A_WORD, dtype=jnp.uint32)
    parts = []
    # Components with the same number of bits are unpacked together.
    for count in range(len(planes), 0, -1):
        start, stop = planes[count] if count < len(planes) else 0, planes[count - 1]
        if start < stop:
            numbers = jnp.zeros((), jnp.int32)
            for plane in range(count):
                # [components, n, 32]
                bits = columns[first[plane] + start:first[plane] + stop, :, None] >> shifts
                numbers = numbers + ((bits & 1).astype(jnp.int32) << plane)
            parts.append(numbers.astype(jnp.float32) - (2.0 ** (count - 1) - .5))
    return jnp.concatenate(parts).reshape(planes[0], -1)
