"""The gin files of a project: the settings of its index, training and evaluations, for people to
read and change.
"""

import math
from typing import Any

from atlas_jax.apps.project.project_folder import Project
from atlas_jax.io import atomic

BATCH_SIZE = 4  # the batch size of runs/few_shot.gin
_INCLUDES = {
    'index': 'runs/build_index.gin', 'train': 'runs/few_shot.gin', 'evaluate': 'runs/evaluate.gin',
    'closed_book': 'runs/evaluate.gin'}
_COMMANDS = {'index': 'index build', 'train': 'train', 'evaluate': 'evaluate'}
_LEAST_STEPS, _MOST_STEPS = 32, 200


def steps_for(questions: int) -> int:
    """Returns the number of training steps for a number of questions: two passes, at least 32 and
    at most 200 steps.
    """
    # runs/few_shot.gin was tuned on 64 questions and 32 steps. Later passes over the same questions
    # add little.
    return min(max(_LEAST_STEPS, math.ceil(2 * questions / BATCH_SIZE)), _MOST_STEPS)


def write(project: Project, name: str, **macros: Any) -> None:
    """Writes one of the gin files: index, train, evaluate or closed_book. `macros` are set besides
    the project's paths.
    """
    command = f'evaluate --gin_file {project.gin_file(name)}'
    if name in _COMMANDS:
        command = f'{_COMMANDS[name]} --project {project.path}'
    values = {**project.macros(name), **macros}
    # The model's folder has its own formats and task.
    if name in ('index', 'train'):
        values['INPUTS'] = None
    if name == 'train':
        values['TASK'] = None
    lines = [f'# Written by `atlas-jax new`; used by `atlas-jax {command}`.',
             f"include '{_INCLUDES[name]}'", '',
             *(f'{macro} = {value!r}' for macro, value in values.items()), '']
    with atomic.writing(project.gin_file(name)) as file:
        file.write('\n'.join(lines))
