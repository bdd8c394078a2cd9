"""The token arrays of a comparison: read from a file and checked, or drawn at random. text.py makes
them from real text.

The first axis of every array is the batches:

    reader_ids, reader_mask            [batches, batch, n, length]   reader inputs, one for each
                                                                     passage
    query_mask_reader                  [batches, batch, length]      1 on the query at the start of
                                                                     reader inputs
    query_ids, query_mask              [batches, batch, length]      the retriever's queries
    passage_ids, passage_mask          [batches, batch, m, length]   the retriever's passages, m <=
                                                                     n
    target_ids, target_mask            [batches, batch, length]      the reader's targets
    labels, decoder_input_ids          [batches, batch, length]      targets with -100 on padding;
                                                                     targets shifted right

Ids and masks are integers; a mask is 1 on the tokens of a row, which come first.
"""

import os
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.io import atomic, npz

Arrays = dict[str, np.ndarray]

# Number of axes of each part; reader inputs and passages have an axis of passages.
_PARTS = {'reader': 4, 'query': 3, 'passage': 4, 'target': 3}


def read(path: str | os.PathLike, needs_retriever: bool = False,
         needs_targets: bool = False) -> Arrays:
    """Reads and checks the arrays of an npz file; returns them as int32, with targets in all their
    forms.

    Args:
      path: the npz file.
      needs_retriever: True requires queries and passages.
      needs_targets: True requires targets.

    Raises:
      InputFileError: an array is missing or wrong; the message names its key.
    """
    try:
        arrays = npz.read(path)
    except (OSError, ValueError) as error:
        raise errors.InputFileError(path, str(error), remedy='write it with numpy.savez') from error
    return check(arrays, path, needs_retriever, needs_targets)


def write(path: str | os.PathLike, arrays: Arrays) -> None:
    """Writes arrays as an npz file, atomically. Raises DiskFullError."""
    named: dict[str, Any] = dict(arrays)  # numpy's stub mistakes keywords for its own options
    with atomic.writing(path, 'wb') as file:
        np.savez(file, **named)


def check(arrays: Arrays, path: str | os.PathLike, needs_retriever: bool = False,
          needs_targets: bool = False) -> Arrays:
    """Checks arrays in memory as `read` does; errors name `path`. Raises InputFileError."""
    # All arrays are checked, also unneeded ones, because the code below computes with them.
    for name, values in arrays.items():
        if values.dtype.kind not in 'iufb':
            raise errors.InputFileError(path, f'an array of {values.dtype}', field=name,
                                        remedy='expected integers')
    arrays = _with_targets(dict(arrays), path)
    # Half of a part is an error, even if the part is not needed.
    needed = ['reader']
    if needs_retriever or 'query_ids' in arrays or 'passage_ids' in arrays:
        needed += ['query', 'passage']
    if needs_targets or 'target_ids' in arrays:
        needed.append('target')
    checked = {
        name: values for part in needed for name, values in _part(arrays, part, path).items()}
    batches = checked['reader_ids'].shape[:2]
    for name, values in checked.items():
        if values.shape[:2] != batches:
            raise errors.InputFileError(
                path, f'its first two axes are {list(values.shape[:2])}, '
                f'those of reader_ids {list(batches)}', field=name,
                remedy='they are batches and examples in every array')
    # The reader gives every passage its gold score.
    passages, read = checked.get('passage_ids'), checked['reader_ids']
    if passages is not None and passages.shape[2] > read.shape[2]:
        raise errors.InputFileError(
            path, f'{passages.shape[2]} passages an example, but reader_ids has {read.shape[2]}',
            field='passage_ids', remedy='the reader has to score each of them')
    if 'target_ids' in checked:
        checked['decoder_input_ids'] = _shifted(checked, arrays, path)
    if 'query_mask_reader' in arrays:
        checked['query_mask_reader'] = np.asarray(arrays['query_mask_reader'], np.int32)
    return checked


def random(batch: int, n: int, length: int, batches: int, reader_vocab: int,
           retriever_vocab: int | None, target_length: int = 16, seed: int = 0) -> Arrays:
    """Draws random tokens: passages of `length` tokens plus or minus a fifth, queries of an eighth
    of it, and targets of 2 to `target_length`.
    """
    generator = np.random.default_rng(seed)

    def rows(shape: tuple[int, ...], low: int, high: int, vocab: int,
             last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        # Lengths are [batches, batch, n] or [batches, batch]; mask and ids have an axis of tokens.
        lengths = generator.integers(low, high + 1, shape)
        mask = (np.arange(high) < lengths[..., None]).astype(np.int32)
        # Ids start at 3: 0 to 2 are a T5's padding, end and unknown token.
        ids = np.where(mask > 0, generator.integers(min(3, vocab - 1), vocab, (*shape, high)),
                       0).astype(np.int32)
        if last is not None:
            # A reader input and a target end in eos, which is 1.
            np.put_along_axis(ids, lengths[..., None] - 1, last, axis=-1)
        return ids, mask

    low, high, query = max(1, round(0.8 * length)), max(1, round(1.2 * length)), max(2, length // 8)
    arrays: Arrays = {}
    arrays['reader_ids'], arrays['reader_mask'] = rows((batches, batch, n), low, high, reader_vocab,
                                                       last=1)
    arrays['target_ids'], arrays['target_mask'] = rows((batches, batch), min(2, target_length),
                                                       target_length, reader_vocab, last=1)
    if retriever_vocab is not None:
        arrays['query_ids'], arrays['query_mask'] = rows((batches, batch), min(2, query), query,
                                                         retriever_vocab)
        arrays['passage_ids'], arrays['passage_mask'] = rows((batches, batch, n), low, high,
                                                             retriever_vocab)
    return check(arrays, 'random inputs')


def _with_targets(arrays: Arrays, path: str | os.PathLike) -> Arrays:
    """Makes target_ids and target_mask from labels; if the arrays have both, they must agree."""
    if 'labels' not in arrays:
        return arrays
    labels = arrays['labels']
    # Hugging Face's labels have -100 on padding, because PyTorch's cross entropy ignores it.
    ids, mask = np.where(labels >= 0, labels, 0), (labels >= 0).astype(np.int32)
    if 'target_ids' in arrays:
        given = arrays.get('target_mask', np.zeros(0))
        if np.array_equal(given, mask) and np.array_equal(
                np.where(mask > 0, arrays['target_ids'], 0), ids):
            return {**arrays, 'target_ids': ids, 'target_mask': mask}
        raise errors.InputFileError(path, 'differs from target_ids and target_mask', field='labels',
                                    remedy='leave one of the two out')
    return {**arrays, 'target_ids': ids, 'target_mask': mask}


def _part(arrays: Arrays, part: str, path: str | os.PathLike) -> Arrays:
    """Checks ids and mask of one part: key, shape, tokens at the start of each row, no empty row.
    Raises InputFileError.
    """
    names = (f'{part}_ids', f'{part}_mask')
    for name in names:
        if name not in arrays:
            there = ', '.join(sorted(arrays)) or 'no arrays'
            raise errors.InputFileError(path, f'there is no {name}', field=name,
                                        remedy=f'it has {there}')
        if arrays[name].ndim != _PARTS[part] or not np.issubdtype(arrays[name].dtype, np.integer):
            raise errors.InputFileError(
                path, f'{arrays[name].ndim} axes of {arrays[name].dtype}', field=name,
                remedy=f'expected {_PARTS[part]} axes of integers: batches, examples, …, tokens')
    ids, mask = (np.asarray(arrays[name], np.int32) for name in names)
    if ids.shape != mask.shape:
        raise errors.InputFileError(path, f'shape {list(mask.shape)}, but {names[0]} has '
                                          f'{list(ids.shape)}', field=names[1])
    # Other programs' masks may hold any nonzero number.
    lengths = (mask != 0).sum(axis=-1)
    # Both sides need tokens at the start: one works with lengths, the other with masks.
    holes = (mask != 0) != (np.arange(mask.shape[-1]) < lengths[..., None])
    if holes.any():
        place = ', '.join(str(i) for i in np.argwhere(holes)[0][:-1])
        raise errors.InputFileError(path, f'row ({place}) has its tokens not all at the start',
                                    field=names[1], remedy='move the padding to the end of the row')
    if lengths.size == 0 or (lengths == 0).any():
        place = ', '.join(str(i) for i in (np.argwhere(lengths == 0)[0] if lengths.size else ()))
        raise errors.InputFileError(path, f'row ({place}) is empty', field=names[1],
                                    remedy='every row needs a token')
    return {names[0]: np.where(mask != 0, ids, 0), names[1]: (mask != 0).astype(np.int32)}


def _shifted(checked: Arrays, arrays: Arrays, path: str | os.PathLike) -> np.ndarray:
    """Returns the targets shifted right behind the start token.

    Raises InputFileError if decoder_input_ids is given and differs.
    """
    # A T5 decoder starts with the padding token, 0.
    start = np.zeros_like(checked['target_ids'][..., :1])  # [batches, batch, 1]
    shifted = np.concatenate([start, checked['target_ids'][..., :-1]], axis=-1)
    # Compared on target tokens only: tokens behind the end do not matter.
    given = arrays.get('decoder_input_ids')
    if given is not None and not (given.shape == shifted.shape and np.array_equal(
            given * checked['target_mask'], shifted * checked['target_mask'])):
        raise errors.InputFileError(path, 'not the targets moved right by one with 0 before them',
                                    field='decoder_input_ids', remedy='leave it out')
    return shifted
