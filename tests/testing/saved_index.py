"""Files as the original saves an index: torch.save of a half-precision tensor [dim, rows], and pickles of lists of dicts."""

import pathlib
import pickle
import zipfile

import numpy as np


def tensor_file(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes torch.save(tensor) of a float16 array, as PyTorch does, without PyTorch."""
    def put(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP

    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    storage = b'(' + put('storage') + b'ctorch\nHalfStorage\n' + put('0') + put('cpu') + put(array.size) + b'tQ'
    arguments = b'(' + storage + put(0) + put(array.shape) + put(strides) + b'\x89ccollections\nOrderedDict\n)Rt'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n' + arguments + b'R.')
        archive.writestr('x/data/0', np.ascontiguousarray(array).tobytes())


def write(folder: pathlib.Path, embeddings: np.ndarray, passages: list[dict], bounds: list[int]) -> pathlib.Path:
    """Writes embeddings [rows, dim] and passages in shards that end at `bounds`."""
    folder.mkdir()
    for number, (start, stop) in enumerate(zip([0, *bounds], [*bounds, len(passages)], strict=True)):
        tensor_file(folder / f'embeddings.{number}.pt', embeddings[start:stop].astype(np.float16).T)
        (folder / f'passages.{number}.pt').write_bytes(pickle.dumps(passages[start:stop], pickle.HIGHEST_PROTOCOL))
    return folder
