"""Checks the files beside a tokenizer's vocabulary: their settings must be those of tokenizers/."""

import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files, known_keys
from atlas_jax.io import untrusted

CONFIG_FILE, SPECIAL_FILE = 'tokenizer_config.json', 'special_tokens_map.json'
ADDED_FILE, FAST_FILE = 'added_tokens.json', 'tokenizer.json'
_SENTINEL = '<extra_id_'


def check_bert(folder: pathlib.Path) -> None:
    """Checks the files of a BERT tokenizer.

    Raises ModelFolderError: a setting or an added token that is not supported; names it.
    """
    _check(folder, known_keys.BERT_TOKENIZER, known_keys.BERT_SPECIAL, ('T5', 'MT5'))
    path = folder / FAST_FILE
    if not path.is_file():
        return
    fast = hf_files.read_json(path)
    # Other steps would give other ids. tokenizers/bert_tokenizer.py reads the steps' settings.
    expected = {'normalizer': 'BertNormalizer', 'pre_tokenizer': 'BertPreTokenizer'}
    for step, kind in expected.items() if isinstance(fast, dict) else ():
        found = fast.get(step)
        if isinstance(found, dict) and found.get('type') != kind:
            raise errors.ModelFolderError(f'{path}: {step} is {found.get("type")!r}; only '
                                          f'{kind!r} is supported')
    if isinstance(fast, dict):
        _check_added(path, fast, known_keys.BERT_SPECIAL)


def check_t5(folder: pathlib.Path) -> None:
    """Checks the files of a T5 tokenizer.

    Raises ModelFolderError: a setting or an added token that is not supported; names it.
    """
    _check(folder, known_keys.T5_TOKENIZER, known_keys.T5_SPECIAL, ('Bert',), _SENTINEL)
    path = folder / FAST_FILE
    if path.is_file() and isinstance(fast := hf_files.read_json(path), dict):
        _check_added(path, fast, known_keys.T5_SPECIAL, _SENTINEL)


def _check(folder: pathlib.Path, table: known_keys.Table, special: frozenset[str],
           others: tuple[str, ...], start: str | None = None) -> None:
    # Both tokenizers may lie in one folder; these files then belong to one of them.
    config = hf_files.read_object(folder / CONFIG_FILE, optional=True)
    if str(config.get('tokenizer_class')).startswith(others):
        return
    for name in (CONFIG_FILE, SPECIAL_FILE):
        path = untrusted.inside(folder, name)
        if values := hf_files.read_object(path, optional=True):
            known_keys.check(path, values, table, unknown=True)
            known_keys.check_tokens(path, values, special, start)
    # {token: id}. Older folders list added tokens here instead of in tokenizer_config.json.
    if added := hf_files.read_object(folder / ADDED_FILE, optional=True):
        known_keys.check_tokens(folder / ADDED_FILE, {'added_tokens_decoder': list(added)}, special,
                                start)


def _check_added(path: pathlib.Path, fast: dict[str, Any], special: frozenset[str],
                 start: str | None = None) -> None:
    added = fast.get('added_tokens')
    if isinstance(added, list):
        known_keys.check_tokens(path, {'added_tokens_decoder': added}, special, start)
