"""T5X's names in gin files and on the command line: each is refused in one line that gives our name
for it.
"""

import re
from collections.abc import Collection, Iterable

from atlas_jax import errors

PAGE = 'docs/from-t5x.md'
MODULES = ('t5x', 'seqio', 't5', 'flaxformer', '__main__')
_WEIGHTS = 'READER_DIR and RETRIEVER_DIR, or MODEL_DIR for a whole Atlas'
_FROM_FILE = 'left out: examples are lines of a file, shuffled by the seed'
_LOSS = 'left out: the loss is the cross entropy of the paper'
# T5X's macros and what takes their place here. A name that both use, such as BATCH_SIZE, is refused
# only if no gin file has it.
MACROS = {
    'INITIAL_CHECKPOINT_PATH': _WEIGHTS,
    'CHECKPOINT_PATH': 'MODEL_DIR',
    'EVAL_OUTPUT_DIR': 'RESULTS_FILE',
    'INFER_OUTPUT_DIR': 'RESULTS_FILE',
    'TRAIN_STEPS': 'TOTAL_STEPS',
    'TRAIN_STEPS_RELATIVE': 'TOTAL_STEPS, counted from the start of the run',
    'TASK_FEATURE_LENGTHS': 'InputConfig.text_max_tokens (TEXT_MAX_TOKENS) for "inputs" and '
                            'InputConfig.target_max_tokens for "targets"',
    'MIXTURE_OR_TASK_NAME': 'TASK, such as @qa.QATask(), which reads the lines of '
                            'TRAIN_FILE or EXAMPLES_FILE',
    'MIXTURE_OR_TASK_MODULE': 'the option --gin_import',
    'BATCH_SIZE': 'RunConfig.batch_size',
    'DROPOUT_RATE': 'RunConfig.dropout_rate',
    'RANDOM_SEED': 'RunConfig.seed',
    'EVAL_PERIOD': 'RunConfig.evaluate_every_steps',
    'EVAL_STEPS': 'TrainData.eval_file; all of its examples are answered',
    'EVALUATOR_NUM_EXAMPLES': 'EXAMPLES',
    'JSON_WRITE_N_RESULTS': 'RESULTS_FILE, which holds every answer',
    'USE_CACHED_TASKS': _FROM_FILE,
    'SHUFFLE_TRAIN_EXAMPLES': _FROM_FILE,
    'EVALUATOR_USE_MEMORY_CACHE': _FROM_FILE,
    'USE_HARDWARE_RNG': 'left out: random keys do not depend on the hardware',
    'LABEL_SMOOTHING': _LOSS,
    'LOSS_NORMALIZING_FACTOR': _LOSS,
    'Z_LOSS': _LOSS, }
PARAMETERS = {
    'PjitPartitioner.num_partitions': 'RunConfig.mesh_shape (MESH_SHAPE)',
    'PjitPartitioner.model_parallel_submesh': 'RunConfig.mesh_shape (MESH_SHAPE)',
    'Trainer.num_microbatches': 'StepConfig.accumulation_steps (ACCUMULATION_STEPS)',
    'SaveCheckpointConfig.period': 'RunConfig.checkpoint_every_steps',
    'SaveCheckpointConfig.keep': 'RunConfig.keep_checkpoints',
    'RestoreCheckpointConfig.path': _WEIGHTS,
    'create_learning_rate_scheduler.base_learning_rate': 'OptimizerConfig.learning_rate '
                                                         '(LEARNING_RATE)',
    'create_learning_rate_scheduler.warmup_steps': 'OptimizerConfig.warmup_steps',
    'create_learning_rate_scheduler.factors': 'OptimizerConfig.schedule', }
OUTPUT = 'here MODEL_DIR is the model to start from; T5X\'s MODEL_DIR, the output, is RUN_DIR'


def refuse(bindings: Iterable[str], known_macros: Collection[str]) -> None:
    """Refuses all T5X names among the bindings of a command line at once.

    Args:
      bindings: `NAME=value` each.
      known_macros: macros that the gin files set or use.

    Raises:
      ConfigError: one line with our name for each of them.
    """
    names = [binding.partition('=')[0].strip() for binding in bindings]
    problems = [f'--gin.{name} is a name of T5X, here {ours}' for name in dict.fromkeys(names)
                if name not in known_macros and (ours := our_name(name)) is not None]
    if problems:
        output = [OUTPUT] if 'MODEL_DIR' in names else []
        raise errors.ConfigError('; '.join([*problems, *output]) + f' ({PAGE})')


def our_name(name: str) -> str | None:
    """Returns our name for a macro or parameter of T5X; None for any other name."""
    if name in MACROS:
        return MACROS[name]
    # The module may be missing or be another one: train/utils.DatasetConfig.batch_size.
    last = re.search(r'(\w+\.\w+)$', name)
    return PARAMETERS.get(last[1]) if last else None
