"""Train reader and retriever together. Read it from the top: model, data, step, restore, loop."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import api, errors, evaluate, partitioning, prepare
from atlas_jax.checkpoints import run_folder
from atlas_jax.input import pipeline
from atlas_jax.io import atomic, progress
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks import protocol
from atlas_jax.training import spec as spec_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import step_config, train_step
from atlas_jax.training.optimizer import OptimizerConfig

METRICS_FILE = 'metrics.jsonl'


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and how a run goes; steps are counted in updates.

    `batch_size` is that of a micro-batch where gradients are accumulated (StepConfig).
    `mesh_shape` is (data, fsdp, model) or None for all devices on fsdp; `dropout_rate` None keeps the models' own.
    """

    run_dir: str
    batch_size: int = 4
    seed: int = 0
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    mesh_shape: tuple[int, int, int] | None = None
    dropout_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The trained model, and one row of metrics a step."""

    atlas: api.Atlas
    history: tuple[dict[str, float], ...]


def train(run: RunConfig, train_file: str, optimizer: OptimizerConfig, index_dir: str | Sequence[str] | None = None, n_context: int = 1,
          model_dir: str | None = None, reader_dir: str | None = None, retriever_dir: str | None = None,
          task: protocol.Task | None = None, inputs: atlas_lib.InputConfig | None = None,
          distill: spec_lib.DistillConfig | None = None, max_examples: int | None = None,
          step: step_config.StepConfig | None = None, search: SearchConfig | None = None,
          use_file_passages: bool = False) -> TrainResult:
    """Trains from a run folder or Hugging Face folders on a JSON-lines file of examples; goes on from the run's newest checkpoint.

    Args:
      run: folder, batch size, seed, checkpoints.
      train_file: lines as the task wants them (docs/tasks.md).
      optimizer: learning rates, schedule, number of steps.
      index_dir: what to retrieve from, several indexes together; None with n_context 0 trains a closed-book reader.
      n_context: passages the reader reads.
      model_dir: weights to start from; or reader_dir and retriever_dir, Hugging Face folders.
      task, inputs: formats; default the model's own.
      distill: how the retriever learns; None is the original's default.
      max_examples: the first so many lines only (64 for few-shot).
      step: accumulation, rematerialisation, dtypes.
      search: how passages are found; None is exact search.
      use_file_passages: the examples' own passages are read and scored; nothing is retrieved.

    Raises:
      UserError: anything the user can mend, before training starts; DivergedError if the loss is no longer finite.
    """
    if not use_file_passages and (index_dir is None) != (n_context == 0):
        raise errors.ConfigError('training needs an index and n_context >= 1, or neither (n_context 0: closed book), or use_file_passages')
    mesh = partitioning.make_mesh(run.mesh_shape)
    atlas = evaluate.load_model(model_dir, reader_dir, retriever_dir, inputs, task)
    atlas = configure(atlas, mesh, n_context, run.dropout_rate)
    examples = prepare.read_examples(atlas, train_file, training=True, max_rows=max_examples)
    folders = [index_dir] if isinstance(index_dir, str) else index_dir or []
    index = [api.Index.open(folder) for folder in folders] or None
    return train_examples(run, atlas, examples, index, optimizer, distill or spec_lib.DistillConfig(), step=step, search=search,
                          use_file_passages=use_file_passages)


def configure(atlas: api.Atlas, mesh: jax.sharding.Mesh, n_context: int, dropout_rate: float | None) -> api.Atlas:
    """The model with another number of passages and dropout rate."""
    config = dataclasses.replace(atlas.config, n_context=n_context)
    if dropout_rate is not None:
        config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, dropout_rate=dropout_rate),
                                     retriever=dataclasses.replace(config.retriever, dropout_rate=dropout_rate))
    return dataclasses.replace(atlas, config=config, mesh=mesh)


def train_examples(run: RunConfig, atlas: api.Atlas, examples: Sequence[protocol.TaskExample],
                   index: api.Index | Sequence[api.Index] | None,
                   optimizer: OptimizerConfig, distill: spec_lib.DistillConfig, label: str = 'training',
                   step: step_config.StepConfig | None = None, search: SearchConfig | None = None,
                   use_file_passages: bool = False) -> TrainResult:
    """`train` on what is loaded already; the run folder is written just the same."""
    folder = pathlib.Path(run.run_dir)
    # data
    prepared = prepare.prepare(atlas, examples, index, atlas.config.n_context, run.batch_size, distill=distill, step=step, search=search,
                               use_file_passages=use_file_passages)
    spec = prepared.spec
    has_second = spec.keeps_passage_encoder or spec.trains_passage_encoder
    if 'passage_encoder' in atlas.params and not has_second:
        raise errors.ConfigError('the model has an encoder of its own for passages, and retriever_training '
                                 f'"{distill.retriever_training}" with n_context {atlas.config.n_context} would lose it; choose untied or '
                                 'query_side, with n_context of at least 1')
    make_batches = pipeline.training_examples if prepared.on_host else pipeline.training_batches
    batches = make_batches(examples, prepared.encoder, run.batch_size * spec.step.accumulation_steps, run.seed)
    # step
    run_step = train_step.make_train_step(spec, optimizer, run.seed)
    # state: own run > given weights
    _write_description(folder, atlas, has_second)
    with run_folder.RunCheckpoints(folder, run.keep_checkpoints, create=True) as checkpoints:
        state, history = _restore_or_create(checkpoints, folder, atlas, spec, optimizer, batches)
        # loop
        save = _saver(checkpoints, batches)
        state = _loop(run_step, state, batches, prepared, run, optimizer, history, save, label)
    params, _ = state_lib.to_items(state)
    return TrainResult(dataclasses.replace(atlas, params=params), tuple(history.rows))


def _write_description(folder: pathlib.Path, atlas: api.Atlas, keep_passage_encoder: bool) -> None:
    """Writes model.json, or refuses to go on in the folder of another model."""
    params = atlas.params | ({'passage_encoder': atlas.params['retriever']} if keep_passage_encoder else {})
    described = dataclasses.replace(atlas, params=params)
    if (folder / run_folder.MODEL_FILE).is_file():
        before = run_folder.read_model_file(folder)
        if before != json.loads(json.dumps(before | described.description())):
            changed = [name for name, value in described.description().items() if before.get(name) != json.loads(json.dumps(value))]
            raise errors.ConfigError(f'{folder}: holds a run with another {", ".join(changed)}; give another run_dir, or the same settings')
        return
    described.write_description(folder)


def _restore_or_create(checkpoints, folder, atlas: api.Atlas, spec: spec_lib.StepSpec, optimizer: OptimizerConfig, batches):
    transformation = train_step.optimizer_for(spec, optimizer)
    if checkpoints.latest_step is None:
        params = {name: atlas.params[name] for name in ('reader', 'retriever')}
        state = state_lib.create(params, spec, transformation, atlas.params.get('passage_encoder'))
        return state, _History(folder / METRICS_FILE, 0)
    abstract = state_lib.abstract(spec, transformation)
    params, moments, position = checkpoints.restore(*state_lib.to_items(abstract))
    batches.set_state(position)
    state = state_lib.from_items(params, moments, spec.trains_passage_encoder)
    print(f'{folder}: going on from step {int(state.step)}', flush=True)
    return state, _History(folder / METRICS_FILE, int(state.step))


def _saver(checkpoints: run_folder.RunCheckpoints, batches) -> Callable[[state_lib.TrainState], None]:
    def save(state: state_lib.TrainState) -> None:
        checkpoints.save(int(state.step), *state_lib.to_items(state), input_position=batches.get_state())
    return save


def _loop(step, state: state_lib.TrainState, batches, prepared: prepare.Prepared, run: RunConfig, optimizer: OptimizerConfig,
          history: '_History', save, label: str) -> state_lib.TrainState:
    done = int(state.step)
    with progress.bar(optimizer.total_steps, label, ' steps') as bar:
        bar.update(done)
        while done < optimizer.total_steps:
            start = time.perf_counter()
            batch, retrieved = prepared.training_batch(next(batches), state.params)
            state, metrics = step(state, batch, prepared.knowledge, retrieved)
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            done += 1
            _stop_if_diverged(done, metrics, batch)
            history.append({'step': done, **metrics, 'seconds': round(time.perf_counter() - start, 4)})
            bar.set_postfix_str(' '.join(f'{name} {metrics[name]:.3f}' for name in ('reader_loss', 'retriever_loss') if name in metrics))
            bar.update(1)
            if done % run.checkpoint_every_steps == 0 or done == optimizer.total_steps:
                save(state)
    return state


def _stop_if_diverged(step: int, metrics: dict[str, float], batch) -> None:
    for name, what in (('loss', 'the loss'), ('gradient_norm', 'the norm of the gradients')):
        if not math.isfinite(metrics[name]):
            rates = ' and '.join(f'{metrics[rate]:.3g}' for rate in ('learning_rate', 'retriever_learning_rate'))
            examples = np.asarray(batch.example_ids).tolist()
            raise errors.DivergedError(f'step {step}: {what} is {metrics[name]} (learning rates of reader and retriever {rates}, examples '
                                       f'{examples}); the last checkpoint is intact: lower the learning rates or look at these examples')


class _History:
    """Metrics of every step, in memory and as JSON lines; rows after a restored step are dropped, for they are trained again."""

    def __init__(self, path: pathlib.Path, step: int):
        self.path, self.rows = path, []
        if step and path.is_file():
            lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
            # A killed run may leave half a line at the end.
            rows = [json.loads(line) for line in lines if line.endswith('\n')]
            self.rows = [row for row in rows if row['step'] <= step]
        with atomic.writing(path) as file:
            file.writelines(json.dumps(row) + '\n' for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with atomic.disk_full_is_a_user_error(self.path), open(self.path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')
