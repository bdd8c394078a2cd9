"""What a sentence-transformers folder adds to a BERT folder: where the BERT lies, how it is pooled, whether it is normalised."""

import dataclasses
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files
from atlas_jax.io import atomic

_POOLING_KEYS = {'average': 'pooling_mode_mean_tokens', 'sqrt': 'pooling_mode_mean_sqrt_len_tokens', 'cls': 'pooling_mode_cls_token'}


@dataclasses.dataclass(frozen=True)
class Description:
    """What a folder says.

    bert_folder: where config.json and the weights lie.
    pooling, normalize: as in ContrieverConfig; None where the folder is silent.
    """

    bert_folder: pathlib.Path
    pooling: str | None = None
    normalize: bool | None = None


def describe(folder: pathlib.Path) -> Description:
    """Reads modules.json and the pooling's config.json; a folder without modules.json is a plain BERT folder.

    Raises ModelFolderError for a module that is not Transformer, Pooling or Normalize, and for another pooling than mean,
    sum / sqrt(length) and first token.
    """
    path = folder / 'modules.json'
    if not path.is_file():
        return Description(folder)
    bert_folder, pooling, normalize = folder, None, False
    modules = hf_files.read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise errors.ModelFolderError(f'{path}: expected a list of objects; copy the folder again')
    for module in modules:
        kind, place = str(module.get('type')).rsplit('.', 1)[-1], folder / str(module.get('path', ''))
        if kind == 'Transformer':
            bert_folder = place
        elif kind == 'Pooling':
            pooling = _pooling(place / 'config.json')
        elif kind == 'Normalize':
            normalize = True
        else:
            raise errors.ModelFolderError(f'{path}: module {kind!r} is not supported; a retriever is a Transformer, a Pooling and perhaps '
                                          'a Normalize')
    return Description(bert_folder, pooling, normalize)


def _pooling(path: pathlib.Path) -> str:
    options = hf_files.read_json(path)
    if not isinstance(options, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object; copy the folder again')
    found = sorted(key for key, on in options.items() if key.startswith('pooling_mode_') and on is True)
    for pooling, key in _POOLING_KEYS.items():
        if found == [key]:
            return pooling
    raise errors.ModelFolderError(f'{path}: pools by {", ".join(found) or "nothing"}; exactly one of '
                                  f'{", ".join(_POOLING_KEYS.values())} must be true')


def write(folder: pathlib.Path, emb_dim: int, pooling: str, normalize: bool) -> None:
    """Writes modules.json and 1_Pooling/config.json beside a BERT's own files, so that sentence-transformers loads the retriever."""
    options: dict[str, Any] = {'word_embedding_dimension': emb_dim, 'pooling_mode_max_tokens': False}
    options.update({key: name == pooling for name, key in _POOLING_KEYS.items()})
    atomic.write_json(folder / '1_Pooling' / 'config.json', options)
    parts = [('Transformer', ''), ('Pooling', '1_Pooling')] + [('Normalize', '2_Normalize')] * normalize
    modules = [{'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
               for i, (kind, path) in enumerate(parts)]
    atomic.write_json(folder / 'modules.json', modules)
