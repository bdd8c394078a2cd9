"""All tasks by name, and conversion of a task to and from JSON values."""

import dataclasses
import typing
from typing import Any

from atlas_jax import errors
from atlas_jax.io import untrusted
from atlas_jax.tasks import base, fever, kilt, lm, mlm, multiple_choice, qa, section
from atlas_jax.tasks import task as task_lib

# model.json and docs/tasks.md use these names.
TASKS: dict[str, type[task_lib.Task]] = {
    'base': base.BaseTask,
    'fever': fever.FeverTask,
    'kilt': kilt.KiltTask,
    'lm': lm.LMTask,
    'mlm': mlm.MLMTask,
    'multiple_choice': multiple_choice.MultipleChoiceTask,
    'qa': qa.QATask,
    'section': section.SectionTask,
}


def name_of(task: task_lib.Task) -> str:
    """Returns the task's name, such as qa."""
    # The exact type: model.json could not restore a subclass with other options.
    return next(name for name, kind in TASKS.items() if kind is type(task))


def make(name: str, **options: Any) -> task_lib.Task:
    """Returns the task of that name.

    Raises:
      ConfigError: an unknown name or option (the message lists the valid ones), or an option of
        another type than the task declares.
    """
    # The name comes from a file: it may be a list, which no dict can look up.
    if not isinstance(name, str) or name not in TASKS:
        raise errors.ConfigError(f'there is no task {untrusted.shown(name)}; choose one of '
                                 f'{", ".join(TASKS)}')
    valid = [field.name for field in dataclasses.fields(TASKS[name])]
    if unknown := sorted(set(options) - set(valid)):
        raise errors.ConfigError(f'the task {name} has no option {", ".join(unknown)}; it has '
                                 f'{", ".join(valid) or "none"}')
    declared = typing.get_type_hints(TASKS[name])
    for option, value in options.items():
        if not untrusted.has_type(value, declared[option]):
            expected = getattr(declared[option], '__name__', declared[option])
            raise errors.ConfigError(f'the task {name}: {option} is {untrusted.shown(value)}, '
                                     f'expected {expected}')
    return TASKS[name](**options)


def to_dict(task: task_lib.Task) -> dict[str, Any]:
    """Returns name and options as JSON values."""
    return {'name': name_of(task), **dataclasses.asdict(task)}


def from_dict(values: dict[str, Any]) -> task_lib.Task:
    """Returns the task of `to_dict`'s values. Raises ConfigError: see `make`."""
    # Models from before tasks had names answer questions.
    return make(**{'name': 'qa', **values})
