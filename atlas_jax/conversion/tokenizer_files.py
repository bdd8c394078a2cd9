"""Finds the tokenizers of models whose own folder has none."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from atlas_jax import errors
from atlas_jax.tokenizers import bert, t5

_FILES = {'T5': (t5.SPIECE_FILE, t5.TOKENIZER_FILE), 'BERT': (bert.VOCABULARY_FILE, bert.TOKENIZER_FILE)}


def has_tokenizer(places: Iterable[pathlib.Path]) -> bool:
    """Whether some place has a tokenizer's file."""
    return any((place / file).is_file() for place in places for files in _FILES.values() for file in files)


def reader_tokenizer(given: str | os.PathLike | None, places: Iterable[pathlib.Path], vocab_size: int) -> t5.T5Tokenizer:
    """The T5 tokenizer at `given` (a folder or a spiece.model), else of the first place that has one.

    Raises ModelFolderError where there is none, naming the option that gives it, and for one of more tokens than the model has.
    """
    return _fitting(_reader_tokenizer(given, places), vocab_size)


def _reader_tokenizer(given: str | os.PathLike | None, places: Iterable[pathlib.Path]) -> t5.T5Tokenizer:
    if given is not None and pathlib.Path(given).is_file():
        try:
            return t5.T5Tokenizer(pathlib.Path(given).read_bytes())
        except errors.ModelFolderError as error:
            raise errors.ModelFolderError(f'{given}: {error}; give the spiece.model of the T5') from error
    return t5.T5Tokenizer.from_folder(_find(given, places, 'T5', '--reader_tokenizer'))


def retriever_tokenizer(given: str | os.PathLike | None, places: Iterable[pathlib.Path], vocab_size: int) -> bert.BertTokenizer:
    """The BERT tokenizer in the folder `given`, else of the first place that has one.

    Raises ModelFolderError where there is none, naming the option that gives it, and for one of more tokens than the model has.
    """
    return _fitting(bert.BertTokenizer.from_folder(_find(given, places, 'BERT', '--retriever_tokenizer')), vocab_size)


def _fitting(tokenizer: Any, vocab_size: int) -> Any:
    if tokenizer.vocab_size > vocab_size:
        raise errors.ModelFolderError(f'the tokenizer has {tokenizer.vocab_size} tokens and the model {vocab_size}; give the tokenizer '
                                      'that belongs to it')
    return tokenizer


def _find(given: str | os.PathLike | None, places: Iterable[pathlib.Path], kind: str, option: str) -> pathlib.Path:
    if given is not None:
        return pathlib.Path(given)
    places = list(places)
    for place in places:
        if any((place / file).is_file() for file in _FILES[kind]):
            return place
    looked = f'{places[0]} nor beside it' if places else 'any known place'
    raise errors.ModelFolderError(f'no {kind} tokenizer ({" or ".join(_FILES[kind])}) in {looked}; give its folder by {option}')
