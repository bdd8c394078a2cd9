"""What an original checkpoint's `opt` means here: formats, lengths, the task, and how the retriever was taught."""

import dataclasses
import json
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.models import atlas
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib

# The option's name in the original -> ours, and its kind.
_Wanted = dict[str, tuple[str, type]]
_INPUTS: _Wanted = {
    'encoder_format': ('encoder_format', str), 'retriever_format': ('retriever_format', str), 'decoder_format': ('decoder_format', str),
    'decoder_prompt_format': ('decoder_prompt_format', str), 'text_maxlength': ('text_max_tokens', int),
    'target_maxlength': ('target_max_tokens', int)}
_DISTILL: _Wanted = {
    'gold_score_mode': ('gold_score_mode', str), 'temperature_gold': ('temperature_gold', float),
    'temperature_score': ('temperature_score', float), 'retriever_n_context': ('retriever_n_context', int)}
_TASK: _Wanted = {
    'qa_prompt_format': ('qa_prompt_format', str), 'mlm_noise_density': ('noise_density', float),
    'mlm_mean_noise_span_length': ('mean_span_tokens', float), 'min_words_per_lm_instance': ('min_words', int),
    'min_lm_context_ratio': ('min_context_ratio', float), 'max_lm_context_ratio': ('max_context_ratio', float),
    'multiple_choice_train_permutations': ('train_permutations', str), 'multiple_choice_eval_permutations': ('eval_permutations', str)}


def inputs(path: Any, options: dict[str, Any]) -> atlas.InputConfig:
    """Formats and lengths. The original has no limit of its own for queries: here they get at most half of the text's.

    Raises ModelFolderError for an option of the wrong kind, naming `path`; ConfigError for a length that is too small.
    """
    values = _values(path, options, _INPUTS)
    text = values.get('text_max_tokens', atlas.InputConfig.text_max_tokens)
    return atlas.InputConfig(**values, query_max_tokens=max(2, min(atlas.InputConfig.query_max_tokens, text // 2)))


def n_context(path: Any, options: dict[str, Any]) -> int:
    """Passages read; 0 is closed book. Raises ModelFolderError for an option of the wrong kind."""
    return 0 if options.get('closed_book') is True else _values(path, options, {'n_context': ('n_context', int)}).get('n_context', 1)


def task(path: Any, options: dict[str, Any]) -> task_lib.Task:
    """The task with its options; question answering where none is named.

    Raises ModelFolderError for an option of the wrong kind; ConfigError or FormatError for a value that the task does not take.
    """
    name = _values(path, options, {'task': ('task', str)}).get('task', 'qa')
    fields = {field.name for field in dataclasses.fields(registry.TASKS[name])} if name in registry.TASKS else set()
    return registry.make(name, **{option: value for option, value in _values(path, options, _TASK).items() if option in fields})


def distillation(path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Fields of DistillConfig that carry a training on. Raises ModelFolderError for an option of the wrong kind."""
    values = _values(path, options, _DISTILL)
    if options.get('query_side_retriever_training') is True:
        values['retriever_training'] = 'query_side'
    elif options.get('train_retriever') is False:
        values['retriever_training'] = 'frozen'
    return values


def to_json(options: dict[str, Any]) -> dict[str, Any]:
    """All options that JSON can hold, for a file beside the converted model."""
    def plain(value: Any) -> bool:
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            return False
        return True
    return {name: value for name, value in sorted(options.items()) if plain(value)}


def folders(path: pathlib.Path, option: Any) -> list[pathlib.Path]:
    """Where the folder that an option names may lie: as named, and by its last name beside the checkpoint or some folders above it."""
    if not isinstance(option, str) or option in ('', 'none'):
        return []
    above = list(path.absolute().parents)[:4]
    return [pathlib.Path(option), *(parent / option for parent in above), *(parent / pathlib.PurePath(option).name for parent in above)]


def _values(path: Any, options: dict[str, Any], wanted: _Wanted) -> dict[str, Any]:
    """Our name -> value of those options that are set."""
    values = {}
    for theirs, (ours, kind) in wanted.items():
        value = options.get(theirs)
        if value is None:
            continue
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise errors.ModelFolderError(f'{path}: opt.{theirs} is {str(value)[:80]!r}, expected {kind.__name__}')
        values[ours] = kind(value)
    return values
