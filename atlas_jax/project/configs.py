"""The gin files of a project: what its index, its training and its evaluations are run with, for people to read and change."""

import math
from typing import Any

from atlas_jax.io import atomic
from atlas_jax.project.folder import Project

BATCH_SIZE = 4  # as runs/few_shot.gin has it
_INCLUDES = {'index': 'runs/build_index.gin', 'train': 'runs/few_shot.gin', 'evaluate': 'runs/evaluate.gin',
             'closed_book': 'runs/evaluate.gin'}
_COMMANDS = {'index': 'index build', 'train': 'train', 'evaluate': 'evaluate'}
_LEAST_STEPS, _MOST_STEPS = 32, 200


def steps_for(questions: int) -> int:
    """Returns the number of training steps for so many questions: two passes, within bounds."""
    # 64 questions: the 32 steps that runs/few_shot.gin was tuned for. Later passes over the same questions add little.
    return min(max(_LEAST_STEPS, math.ceil(2 * questions / BATCH_SIZE)), _MOST_STEPS)


def write(project: Project, name: str, **macros: Any) -> None:
    """Writes one of the gin files: index, train, evaluate or closed_book. `macros` are set besides the project's paths."""
    command = f'atlas-jax {_COMMANDS[name]} --project {project.path}' if name in _COMMANDS else (
        f'atlas-jax evaluate --gin_file {project.gin_file(name)}')
    # Statements as a person would write them: the file is read and changed by hand.
    lines = [f'# Written by `atlas-jax new`; used by `{command}`.', f"include '{_INCLUDES[name]}'", '']
    values = {**project.macros(name), **macros}
    # The model's folder knows its formats and its task.
    if name in ('index', 'train'):
        values['INPUTS'] = None
    if name == 'train':
        values['TASK'] = None
    lines += [f'{macro} = {value!r}' for macro, value in values.items()]
    with atomic.writing(project.gin_file(name)) as file:
        file.write('\n'.join([*lines, '']))
