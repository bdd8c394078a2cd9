"""Token streams for tests, the recorded numbers, and the measure of error."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import types
from atlas_jax.nn import token_stream

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'
# A program that runs a few times on tiny sizes is not worth optimising. Compiling the query-side train step took 13 s with XLA's defaults,
# 6.2 s with few passes of LLVM, 3.4 s with the older emitters of fusions as well (CPU seconds, jax 0.10.2).
QUICK_TO_COMPILE = {'xla_llvm_disable_expensive_passes': True, 'xla_backend_optimization_level': 0}
if jax.__version_info__ < (0, 11):  # jax 0.12 has no other emitters, and refuses the option
    QUICK_TO_COMPILE['xla_cpu_use_fusion_emitters'] = False
# The same, for XLA_FLAGS of a process that a test starts.
QUICK_FLAGS = ' '.join(f'--{name}={str(value).lower()}' for name, value in QUICK_TO_COMPILE.items())


def error(found, expected) -> float:
    """max |found - expected| / max |expected|, in float64."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.isfinite(found).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def flat(tokens, lengths, streams: int = 1, spare: int = 3, longest: int | None = None) -> types.TokenStream:
    """Passages tokens [passages, width] of these lengths [passages] in `streams` streams, with `spare` tokens free in the fullest."""
    tokens, lengths = np.asarray(tokens), np.asarray(lengths).reshape(streams, -1)
    by_stream = tokens.reshape(streams, -1, tokens.shape[-1])
    return token_stream.pack(jnp.asarray(by_stream), jnp.asarray(lengths), int(lengths.sum(axis=-1).max()) + spare,
                             tokens.shape[-1] if longest is None else longest)


def padded(tokens, lengths) -> types.TokenStream:
    """The padded layout: every passage is a stream of its own, as wide as the longest."""
    tokens = np.asarray(tokens)
    return token_stream.pack(jnp.asarray(tokens)[:, None], jnp.asarray(lengths)[:, None], tokens.shape[-1], tokens.shape[-1])


def random_passages(lengths, vocab_size: int, width: int, seed: int = 0) -> np.ndarray:
    """[passages, width] int32 random tokens from 3 up, 0 past each length."""
    tokens = np.random.default_rng(seed).integers(3, vocab_size, (len(lengths), width))
    return np.where(np.arange(width) < np.asarray(lengths)[:, None], tokens, 0).astype(np.int32)


def perturbed(params, seed: int = 0):
    """The tree with small random values added, so that zeros and ones of an initialiser hide nothing."""
    leaves, tree = jax.tree.flatten(params)
    generator = np.random.default_rng(seed)
    return tree.unflatten([np.asarray(leaf + 0.1 * generator.standard_normal(leaf.shape), np.float32) for leaf in leaves])
