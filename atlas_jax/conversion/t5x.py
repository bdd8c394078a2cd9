"""T5X checkpoints of a T5: opened in all their layouts, and written in T5X's own, layers apart or scanned.

T5X's names are ours but for scanned layers: `encoder/encoder/X` holds all layers of `encoder/layers_n/X`, on axis 1. Heads are joined to
one axis or apart: [embed, heads * kv] or [embed, heads, kv].
"""

import dataclasses
import pathlib
import re

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import t5_sizes, t5x_files, t5x_writing, weights
from atlas_jax.models import t5

_SCANNED = re.compile(r'(encoder/encoder|decoder/decoder)/(.+)')
_ATTENTION = re.compile(r'attention/(query|key|value|out)/kernel$')
_RELPOS = re.compile(r'(encoder|decoder)/layers_\d+/(relpos_bias/rel_embedding)')
# (name in the checkpoint, layer to take on axis 1 or None)
_Place = tuple[str, int | None]


def open_t5(folder: pathlib.Path) -> weights.Weights:
    """Opens the folder checkpoint_<step>, as `of_checkpoint`. Raises ModelFolderError for a broken or incomplete one too."""
    return of_checkpoint(t5x_files.Checkpoint(folder))


def of_checkpoint(checkpoint: t5x_files.Checkpoint) -> weights.Weights:
    """Weights of a checkpoint.

    Sizes come from the shapes; what they do not say is T5's own (t5_sizes.py).

    Raises ModelFolderError for position biases that differ between layers, and a parameter that is missing, unknown or mis-shaped.
    """
    places = _places(checkpoint)
    found = {path: _joined(path, _shape(checkpoint, place[0])) for path, place in places.items()}
    config = t5_sizes.infer(checkpoint.path, found)
    expected = weights.expected_shapes(config)
    weights.check(checkpoint.path, found, expected, 'the sizes of its other parameters')
    return weights.Weights(config, expected, lambda path: _take(checkpoint, places[path]).reshape(expected[path]))


def write(folder: pathlib.Path, opened: weights.Weights, scan: bool = False, dtype: str = 'float32', step: int = 0) -> None:
    """Writes a checkpoint of version 3, one array in memory at a time.

    Args:
      folder: becomes the checkpoint_<step> that T5X reads.
      scan: all layers of a parameter in one array, heads apart, as T5X's scalable_t5; else T5X's minimal names.
      dtype: float32 or bfloat16.

    Raises DiskFullError, and ConfigError for a model that would be another one when it is read again: the format has no configuration.
    """
    _check_defaults(opened)
    if scan:
        arrays = {_scanned_name(path): _scanned(opened.config, opened, path, paths) for path, paths in opened.stacked().items()}
    else:
        arrays = {path: (opened.shapes[path], lambda path=path: opened.read(path)) for path in opened.order()}
    t5x_writing.write(folder, arrays, dtype, step)


def _check_defaults(opened: weights.Weights) -> None:
    inferred = t5_sizes.infer('', opened.shapes)
    for field in dataclasses.fields(inferred):
        wanted, found = getattr(opened.config, field.name), getattr(inferred, field.name)
        if wanted != found and field.name not in ('dropout_rate', 'dtype'):
            raise errors.ConfigError(f'{field.name} is {wanted}, which a T5X checkpoint cannot say: it would be read as {found}; convert '
                                     'the reader to another kind')


def _places(checkpoint: t5x_files.Checkpoint) -> dict[str, _Place]:
    """Our path -> where it lies; layers that each have a position bias must have the same, and the first serves."""
    places: dict[str, _Place] = {}
    for name in sorted(checkpoint.names()):
        scanned = _SCANNED.fullmatch(name)
        if not scanned:
            _add(checkpoint, places, name, (name, None))
            continue
        shape = checkpoint.shape(name)
        if len(shape) < 2:
            raise errors.ModelFolderError(f'{checkpoint.path}: {name} has shape {list(shape)}, expected the layers on axis 1')
        for layer in range(shape[1]):
            _add(checkpoint, places, f'{scanned[1].split("/")[0]}/layers_{layer}/{scanned[2]}', (name, layer))
    return places


def _add(checkpoint: t5x_files.Checkpoint, places: dict[str, _Place], path: str, place: _Place) -> None:
    relpos = _RELPOS.fullmatch(path)
    if relpos:
        path = f'{relpos[1]}/{relpos[2]}'
        if path in places and not np.array_equal(_take(checkpoint, places[path]), _take(checkpoint, place)):
            raise errors.ModelFolderError(f'{checkpoint.path}: the layers have position biases of their own ({place[0]}); a T5 shares one '
                                          'among its layers, and only that is supported')
    if path in places and not relpos:
        raise errors.ModelFolderError(f'{checkpoint.path}: both {places[path][0]} and {place[0]} hold {path}')
    places.setdefault(path, place)


def _take(checkpoint: t5x_files.Checkpoint, place: _Place) -> np.ndarray:
    return checkpoint.read(place[0]) if place[1] is None else checkpoint.read_layer(*place)


def _shape(checkpoint: t5x_files.Checkpoint, name: str) -> tuple[int, ...]:
    """Of one layer."""
    shape = checkpoint.shape(name)
    return shape[:1] + shape[2:] if _SCANNED.fullmatch(name) else shape


def _joined(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with heads and their dimensions on one axis, where it has them apart."""
    attention = _ATTENTION.search(path)
    if not attention or len(shape) != 3:
        return shape
    # [heads, kv, embed] or [embed, heads, kv]
    return (shape[0] * shape[1], shape[2]) if attention[1] == 'out' else (shape[0], shape[1] * shape[2])


def _scanned_name(path: str) -> str:
    """`encoder/layers/X` and `encoder/relpos_bias/X` as T5X names them where layers are scanned."""
    return re.sub(r'^(encoder|decoder)/(?:layers/|(?=relpos_bias/))', r'\1/\1/', path)


def _scanned(config: t5.T5Config, opened: weights.Weights, path: str, paths: list[str]) -> tuple[tuple[int, ...], t5x_writing.Read]:
    """Shape of a parameter with its layers on axis 1, and what reads it."""
    side, shape = path.split('/')[0], opened.shapes[paths[0]]
    if '/relpos_bias/' in path:  # one for all layers, which T5X repeats
        paths = paths * (config.num_encoder_layers if side == 'encoder' else config.num_decoder_layers)
    elif '/layers/' not in path:
        return shape, lambda: opened.read(paths[0])
    attention, heads = _ATTENTION.search(path), (config.num_heads, config.head_dim)
    if attention:
        shape = (*heads, shape[1]) if attention[1] == 'out' else (shape[0], *heads)
    stacked_shape = (shape[0], len(paths), *shape[1:])

    def read() -> np.ndarray:
        stacked = np.empty(stacked_shape, np.float32)
        for layer, name in enumerate(paths):
            stacked[:, layer] = opened.read(name).reshape(shape)
        return stacked

    return stacked_shape, read
