"""Train reader and retriever together. Read it from the top: model, data, step, restore, loop."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from atlas_jax import api, errors, evaluate, partitioning, types
from atlas_jax.checkpoints import run_folder
from atlas_jax.evaluation import guard, run_page
from atlas_jax.io import folder as io_folder
from atlas_jax.knowledge import group
from atlas_jax.model import ModelSource, RetrieverModel, RetrieverSource
from atlas_jax.report import run_log, run_profile
from atlas_jax.runtime import compilation_cache, hosts, preemption, progress, resources, watch
from atlas_jax.searchers import config as search_config
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import prepare
from atlas_jax.steps.spec import DistillConfig, StepConfig
from atlas_jax.tasks import task as task_lib
from atlas_jax.training import batches as batches_lib
from atlas_jax.training import contrastive_run, run_record, train_step
from atlas_jax.training import refresh as refresh_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training.contrastive import ContrastiveConfig
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from atlas_jax.training.refresh import RefreshConfig
from atlas_jax.training.work import AtlasWork, Dispatched, Work

_TOKENS = ('reader_tokens', 'retriever_tokens')  # what a step counts
_BEST_BY = ('score', 'recall')
_SHOWN = ('reader_loss', 'retriever_loss', 'accuracy', 'index_age_max', 'tflops_per_second', 'mfu')  # beside the progress bar


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Folder, sizes and intervals of a run; steps are counted in updates.

    Attributes:
      run_dir: folder, or gs://bucket/folder, for checkpoints, metrics and the configuration as used.
      batch_size: of a micro-batch where gradients are accumulated (StepConfig); divides over the devices.
      seed: of the order of the examples, of what tasks draw, and of dropout.
      checkpoint_every_steps: and at the end, and when the run is asked to stop (SIGTERM).
      keep_checkpoints: how many of the newest stay; while a run goes on, one more does, for the newest is yet to give a finite loss.
      evaluate_every_steps: answers eval_file's examples, before the first update too; 0 for never. The best checkpoint stays besides.
      best_by: which checkpoint is the best: that of the highest score (the first metric of the task), or of the highest recall.
      mesh_shape: (data, fsdp, model); None puts all devices on fsdp.
      dropout_rate: None keeps the models' own.
      log_every_steps: the loop waits for the devices once in so many steps, and reads the metrics of all of them. Every step has its row;
        `seconds` are then means. A run that is asked to stop, or diverges, first ends the steps that were handed over.
      prefetch_batches: made and placed on the devices while a step runs; 0 makes each batch when its step comes.
      compilation_cache_dir: folder or gs://... for compiled programs, so that a run that starts again does not compile again; "auto" is
        ~/.cache/atlas_jax/compiled, unless JAX_COMPILATION_CACHE_DIR is set; None keeps none.
      hang_seconds: with several processes, how long all may stay where they are before the run is ended; compilation included.
      profile_dir: writes a profile of a few steps there; None for none.
      accept_changes: goes on though settings that decide what is computed are not those that the run was begun with.

    Raises:
      ConfigError: a number is too small, or run_dir or compilation_cache_dir is neither a folder nor gs://.
    """

    run_dir: str
    batch_size: int = 4
    seed: int = 0
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    evaluate_every_steps: int = 0
    best_by: str = 'score'
    mesh_shape: tuple[int, int, int] | None = None
    dropout_rate: float | None = None
    log_every_steps: int = 1
    prefetch_batches: int = 2
    compilation_cache_dir: str | None = compilation_cache.AUTO
    hang_seconds: float = 1800.0
    profile_dir: str | None = None
    accept_changes: bool = False

    def __post_init__(self):
        if '://' in self.run_dir and not io_folder.is_remote(self.run_dir):
            raise errors.ConfigError(f'RunConfig.run_dir is "{self.run_dir}"; give a folder or gs://bucket/folder')
        if (place := self.compilation_cache_dir) is not None and (not place or '://' in place and not place.startswith('gs://')):
            raise errors.ConfigError(f'RunConfig.compilation_cache_dir is "{place}"; give a folder, gs://bucket/folder or None')
        for name, least in (('batch_size', 1), ('checkpoint_every_steps', 1), ('keep_checkpoints', 1), ('evaluate_every_steps', 0),
                            ('log_every_steps', 1), ('prefetch_batches', 0)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'RunConfig.{name} is {getattr(self, name)}; it must be at least {least}')
        if self.best_by not in _BEST_BY:
            raise errors.ConfigError(f'RunConfig.best_by is "{self.best_by}"; choose one of {", ".join(_BEST_BY)}')


@dataclasses.dataclass(frozen=True)
class TrainData:
    """The examples and the index that a run learns from.

    Attributes:
      train_file: lines as the task wants them (docs/tasks.md); a file, a folder, a pattern, or several of them in their order.
      index_dir: what to retrieve from, several indexes together; None with n_context 0 trains a closed-book reader.
      n_context: passages the reader reads.
      max_examples: the first so many lines of all files together (64 for few-shot).
      use_file_passages: the examples' own passages are read and scored; nothing is retrieved.
      eval_file: examples to evaluate on while training (RunConfig.evaluate_every_steps); as train_file.
      force_index: uses the index even if another model built it (--force).

    Raises:
      ConfigError: index and n_context contradict each other.
    """

    train_file: str | Sequence[str]
    index_dir: str | Sequence[str] | None = None
    n_context: int = 1
    max_examples: int | None = None
    use_file_passages: bool = False
    eval_file: str | Sequence[str] | None = None
    force_index: bool = False

    def __post_init__(self):
        if not self.use_file_passages and (self.index_dir is None) != (self.n_context == 0):
            raise errors.ConfigError('training needs an index and n_context >= 1, or neither (n_context 0: closed book), or '
                                     'use_file_passages')


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model and what it learns from, in memory.

    Attributes:
      atlas: the model, configured for the run.
      examples: to train on.
      index: what to retrieve from; None for a closed book, and where examples bring their passages.
      eval_examples: to evaluate on while training.
      use_file_passages: the examples' own passages are read and scored; nothing is retrieved.
    """

    atlas: api.Atlas
    examples: Sequence[task_lib.TaskExample]
    index: prepare.Searched = None
    eval_examples: Sequence[task_lib.TaskExample] = ()
    use_file_passages: bool = False


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The trained model, and one row of metrics a step."""

    atlas: api.Atlas
    history: tuple[dict[str, float], ...]


@dataclasses.dataclass(frozen=True)
class RetrieverResult:
    """The trained retriever, and one row of metrics a step."""

    retriever: RetrieverModel
    history: tuple[dict[str, float], ...]


def train(run: RunConfig, data: TrainData, model: ModelSource, optimizer: OptimizerConfig, distill: DistillConfig | None = None,
          step: StepConfig | None = None, search: SearchConfig | None = None, refresh: RefreshConfig | None = None) -> TrainResult:
    """Trains a model on a JSON-lines file of examples; goes on from the run's newest checkpoint.

    Args:
      run: folder, batch size, seed, checkpoints.
      data: examples and index.
      model: weights and formats to start from.
      optimizer: learning rates, schedule, number of steps.
      distill: how the retriever learns; None is the original's default.
      step: accumulation, rematerialisation, dtypes.
      search: how passages are found; None is exact search.
      refresh: how the index follows the passage encoder; None never.

    Raises:
      UserError: anything the user can mend, before training starts; most are a ConfigError.
      DivergedError: the loss or a parameter is no longer finite. PreemptedError: after a SIGTERM, when the state is saved.
    """
    return train_examples(run, load(run, data, model), optimizer, distill, step, search, refresh)


def load(run: RunConfig, data: TrainData, model: ModelSource) -> Loaded:
    """Loads a model and what it learns from.

    Raises:
      ConfigError: options contradict each other. UserError: a folder or a file is missing, damaged, or of another kind.
    """
    # Before anything is compiled.
    _use_compilation_cache(run)
    # One without the other would silently never evaluate.
    if bool(data.eval_file) != bool(run.evaluate_every_steps):
        raise errors.ConfigError('evaluation while training needs both eval_file and RunConfig.evaluate_every_steps')
    # Passages that examples bring are the same at every step.
    if run.best_by == 'recall' and (data.index_dir is None or data.use_file_passages or not data.eval_file):
        raise errors.ConfigError('RunConfig.best_by is "recall"; give an eval_file, and an index_dir to retrieve from')
    # model
    # The mesh first: a shape that does not fit the devices must be refused before weights are read.
    mesh = partitioning.make_mesh(run.mesh_shape)
    atlas = configure(model.load(api.Atlas), mesh, data.n_context, run.dropout_rate)
    # data
    examples = prepare.read_examples(atlas, data.train_file, training=True, max_rows=data.max_examples)
    index = evaluate.open_indexes(data.index_dir, data.force_index) or None
    eval_examples = prepare.read_examples(atlas, data.eval_file) if data.eval_file else ()
    return Loaded(atlas, examples, index, eval_examples, data.use_file_passages)


def configure(atlas: api.Atlas, mesh: jax.sharding.Mesh, n_context: int, dropout_rate: float | None) -> api.Atlas:
    """Returns the model with another number of passages and dropout rate."""
    config = dataclasses.replace(atlas.config, n_context=n_context)
    if dropout_rate is not None:
        config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, dropout_rate=dropout_rate),
                                     retriever=dataclasses.replace(config.retriever, dropout_rate=dropout_rate))
    # Training changes the weights, so what was calibrated holds no longer.
    return dataclasses.replace(atlas, config=config, mesh=mesh, calibration=None)


def train_examples(run: RunConfig, loaded: Loaded, optimizer: OptimizerConfig, distill: DistillConfig | None = None,
                   step: StepConfig | None = None, search: SearchConfig | None = None, refresh: RefreshConfig | None = None,
                   label: str = 'training', begin: Callable[[], None] | None = None) -> TrainResult:
    """Trains on what is loaded already; the run folder is written just the same.

    Args and errors are those of `train`; `label` stands before the progress bar, and `begin` is called once nothing of the run is refused.
    """
    _use_compilation_cache(run)
    # Two processes in one folder would destroy each other's rows.
    with run_folder.writing(run.run_dir):
        return _train(run, loaded, optimizer, distill, step, search, refresh, label, begin)


def _use_compilation_cache(run: RunConfig) -> None:
    compilation_cache.use(run.compilation_cache_dir, io_folder.default_cache_dir() / 'compiled')


def _train(run: RunConfig, loaded: Loaded, optimizer: OptimizerConfig, distill: DistillConfig | None, step: StepConfig | None,
           search: SearchConfig | None, refresh: RefreshConfig | None, label: str, begin: Callable[[], None] | None) -> TrainResult:
    folder, atlas = io_folder.Folder(run.run_dir), loaded.atlas
    options = (optimizer, distill or DistillConfig(), step or StepConfig(), search_config.of(search), refresh or RefreshConfig())
    record = run_record.settings(atlas.description(), run_record.digest(loaded.examples), options, seed=run.seed, batch_size=run.batch_size,
                                 use_file_passages=loaded.use_file_passages,
                                 **run_record.index_settings(group.of(loaded.index), options[-1].refreshes))
    accepted = run_record.check(folder, record, run_folder.latest_step(folder), run.accept_changes)
    # data
    prepare.check_gold_scores(loaded.examples, options[1], loaded.use_file_passages)
    prepared = prepare.prepare(atlas, loaded.examples, loaded.index, atlas.config.n_context, run.batch_size,
                               distill=distill or DistillConfig(), step=step, search=search, use_file_passages=loaded.use_file_passages)
    spec = prepared.spec
    # Before the first compilation: that takes minutes on a pod.
    state_lib.check_encoders(atlas.params, spec)
    batches = batches_lib.TrainBatches.of(loaded.examples, prepared, run.batch_size, run.seed, run.prefetch_batches)
    refresher = refresh_lib.refresher_of(refresh, prepared)
    # step
    # The seed is part of the program: dropout keys are folded from it and from the step's number.
    run_step = train_step.make_train_step(spec, optimizer, run.seed)
    # restore: own run > given weights
    encoders = spec.keeps_passage_encoder or spec.trains_passage_encoder
    params = atlas.params | ({'passage_encoder': atlas.params['retriever']} if encoders else {})
    run_record.begin(folder, record, accepted, dataclasses.replace(atlas, params=params), begin)
    work = AtlasWork(prepared, batches, optimizer, run_step, atlas.params, refresher)
    evaluating = None
    if loaded.eval_examples:
        watched = guard.Guard(folder, run_folder.latest_step(folder), options[1].retriever_training)
        evaluating = functools.partial(_evaluate, run, loaded, prepared, watched)
    _say_warning(run, optimizer)
    loop = _Loop(run, work, evaluating)
    loop.run_to_the_end(optimizer.total_steps, label)
    params, _ = work.items(loop.state)
    # The index on disk is as it was built. A refreshed one lives in the checkpoint only.
    return TrainResult(dataclasses.replace(atlas, params=params), tuple(loop.log.rows))


def train_retriever(run: RunConfig, data: RetrieverData, model: RetrieverSource, optimizer: OptimizerConfig, contrastive: ContrastiveConfig,
                    step: StepConfig | None = None, begin: Callable[[], None] | None = None) -> RetrieverResult:
    """Trains a retriever without a reader, on passages alone or on questions with passages; goes on from the run's newest checkpoint.

    Args:
      run: folder, batch size, seed, checkpoints.
      data: passages, or questions with passages.
      model: the retriever to start from.
      optimizer: the retriever's learning rate, schedule, number of steps.
      contrastive: crops, and where negatives come from.
      step: rematerialisation, dtypes.
      begin: called once nothing of the run is refused.

    Raises:
      ConfigError: an option that only joint training reads is set. UserError: as `train`.
    """
    _use_compilation_cache(run)
    # Options that nobody would read.
    if run.evaluate_every_steps or run.best_by != 'score':
        raise errors.ConfigError('RunConfig.evaluate_every_steps and best_by belong to joint training, and a retriever alone answers '
                                 'nothing; leave them out, and measure the run with `atlas-jax evaluate --task retrieval`')
    if optimizer.learning_rate != OptimizerConfig.learning_rate:
        raise errors.ConfigError(f'OptimizerConfig.learning_rate is {optimizer.learning_rate}, the rate of a reader, and there is none; '
                                 'set retriever_learning_rate')
    # Two processes in one folder would destroy each other's rows.
    with run_folder.writing(run.run_dir):
        work = contrastive_run.prepare(model.load(), data, contrastive, optimizer, step or StepConfig(), run.batch_size, run.seed,
                                       run.prefetch_batches, run.mesh_shape, run.dropout_rate)
        record = work.record()
        accepted = run_record.check(run.run_dir, record, run_folder.latest_step(run.run_dir), run.accept_changes)
        run_record.begin(run.run_dir, record, accepted, work.model, begin)
        _say_warning(run, optimizer)
        loop = _Loop(run, work)
        loop.run_to_the_end(optimizer.total_steps, 'training the retriever')
        return RetrieverResult(dataclasses.replace(work.model, params=loop.state.params), tuple(loop.log.rows))


def _say_warning(run: RunConfig, optimizer: OptimizerConfig) -> None:
    if line := optimizer.warning():
        prepare.say_once(f'{run.run_dir}: {line}')


def _evaluate(run: RunConfig, loaded: Loaded, prepared: prepare.Prepared, watched: guard.Guard, state: state_lib.TrainState,
              done: int) -> tuple[dict[str, float], dict[str, float], run_page.Evaluated | None]:
    """Returns what a best checkpoint is chosen by, all figures for the row of the step, and what the first process shows on the run's page.

    Raises ConfigError: the best is to be chosen by a recall that there is none of. DiskFullError, StorageError.
    """
    # By the weights of the moment: evaluation answers as a user would with this checkpoint.
    params, _ = state_lib.to_items(state)
    evaluation = evaluate.evaluate_examples(
        dataclasses.replace(loaded.atlas, params=params), loaded.eval_examples, loaded.index, label=f'evaluating at {done}',
        knowledge=None if prepared.searcher else prepared.knowledge, batch_size=run.batch_size, search=prepared.spec.search,
        compute_dtype=prepared.spec.step.compute_dtype, use_file_passages=loaded.index is None and loaded.atlas.config.n_context > 0)
    for line in evaluation.left_out:
        prepare.say_once(line)
    figures = evaluation.summary(top_k=loaded.atlas.config.n_context)
    numbers = {f'eval_{name}': value for name, value in figures.items() if isinstance(value, float)}
    scores, line = {'score': float(next(iter(figures.values())))}, ''
    if measured := guard.measured(done, evaluation.rows, loaded.atlas.config.n_context):
        # From the answers that are there: nothing is searched for it.
        scores, line = scores | {'recall': measured.share}, watched.add(measured)
    elif run.best_by == 'recall':
        raise errors.ConfigError('RunConfig.best_by is "recall", and eval_file has none: its questions need gold_docids that are in the '
                                 'index, or answers that a passage can hold')
    if line:
        prepare.say_once(f'{run.run_dir}: {line}')
    return scores, numbers, run_page.Evaluated.of(evaluation.rows, line) if hosts.is_first() else None


@dataclasses.dataclass
class _Loop:
    """A run between two saves: state, log, and the position of everything that moves with them."""

    run: RunConfig
    work: Work
    # Of a state and its number of updates; returns as _evaluate.
    evaluate: Callable[[Any, int], tuple[dict[str, float], dict[str, float], run_page.Evaluated | None]] | None = None
    checkpoints: run_folder.RunCheckpoints = dataclasses.field(init=False)
    state: Any = dataclasses.field(init=False)
    log: run_log.RunLog = dataclasses.field(init=False)
    waiting: list[Dispatched] = dataclasses.field(init=False, default_factory=list)  # oldest first
    evaluated: run_page.Evaluated | None = dataclasses.field(init=False, default=None)  # the last one
    since: float = dataclasses.field(init=False, default=0.0)  # when the devices began the oldest of these, by the host's clock

    def run_to_the_end(self, total_steps: int, label: str) -> None:
        """Goes on from the run's newest checkpoint, or begins, and trains. Raises DivergedError, PreemptedError."""
        folder = io_folder.Folder(self.run.run_dir)
        # Orbax writes in the background; leaving the block waits for the last save.
        keep_best = 0 if self.evaluate is None else 1
        with run_folder.RunCheckpoints(folder, self.run.keep_checkpoints, create=True, keep_best=keep_best,
                                       best_by=self.run.best_by) as self.checkpoints:
            # A checkpoint is never written at step 0, so 0 means that there is none.
            done = self.checkpoints.latest_step or 0
            self.state = self.work.restored(self.checkpoints) if done else self.work.created()
            self.log = run_log.RunLog(folder, done)
            if jax.process_index() == 0:
                came_from = f'going on from step {done} of this run' if done else 'starting from the given weights'
                print(f'{folder}: {came_from}; {jax.device_count()} {jax.devices()[0].device_kind} in {jax.process_count()} process(es), '
                      f'mesh {dict(self.work.layout.mesh.shape)}\n{run_log.parameter_overview(self.state.params)}', flush=True)
            # loop
            # The watch ends the run when another process is dead: a collective would otherwise wait for ever.
            with (resources.releasing_freed(), watch.Watch(self.run.hang_seconds) as watching, preemption.StopRequest() as stop,
                  run_profile.Profile(self.run.profile_dir, self.work.program) as profile, self.log):
                self.go(total_steps, label, watching, stop, profile)

    def go(self, total_steps: int, label: str, watching: watch.Watch, stop: preemption.StopRequest,
           profile: run_profile.Profile) -> None:
        """Trains until `total_steps` updates are done. Raises DivergedError, PreemptedError."""
        done = int(hosts.fetch(self.state.step))
        if self.evaluate is not None and not done:
            # Of the given weights: what the run is measured against. No checkpoint holds them.
            _, figures, self.evaluated = self.evaluate(self.state, done)
            self.log.append({'step': done} | figures)
        with progress.bar(total_steps, label, ' steps') as bar:
            progress.skip(bar, done)
            self.since = time.perf_counter()
            while done < total_steps:
                # Before the update, since that is where a process waits for one that has died.
                watching.beat(done + 1)
                with profile.step(done + 1, self._wait):
                    self.state, dispatched = self.work.dispatch(self.state, done + 1)
                self.waiting.append(dispatched)
                done += 1
                # After the update on every process alike: all must decide the same, or a collective save would hang.
                stopped = stop.now(done)
                evaluates = self.evaluate is not None and done % self.run.evaluate_every_steps == 0
                # An evaluated step is saved too, so that the best checkpoint exists when its score is the best.
                saves = done % self.run.checkpoint_every_steps == 0 or done == total_steps or evaluates or stopped
                # Metrics are read one step late, while the devices work; all of them before the state is used for anything else.
                if not saves and (done - 1) % self.run.log_every_steps:
                    continue
                scores = None
                for row in self._read(done if saves else done - 1):
                    if evaluates and row['step'] == done:
                        scores, figures, self.evaluated = types.required(self.evaluate)(self.state, done)
                        row |= figures
                    self.log.append(row)
                    bar.set_postfix_str(' '.join(f'{name} {row[name]:.3f}' for name in _SHOWN if name in row))
                    bar.update(1)
                # A save that has failed in the background ends the run now, and not with the next one.
                self.checkpoints.raise_problems()
                if saves:
                    self._save(done, scores)
                    self.since = time.perf_counter()  # the pause was no step's
                if stopped and done < total_steps:
                    raise errors.PreemptedError(f'{self.run.run_dir}: asked to stop, saved at step {done}; the same command goes on')

    def _read(self, last: int) -> Iterator[dict[str, float]]:
        """Waits for the steps up to `last` and yields their rows of metrics; raises DivergedError at one that is not finite."""
        steps = [waiting for waiting in self.waiting if waiting.step <= last]
        if not steps:
            return
        self.waiting = self.waiting[len(steps):]
        # All at once, and nowhere else: this is where the host waits.
        found = hosts.fetch([waiting.metrics for waiting in steps])
        now = time.perf_counter()
        seconds, self.since = (now - self.since) / len(steps), now
        for waiting, scalars in zip(steps, found, strict=True):
            metrics = {name: float(value) for name, value in scalars.items()}
            _stop_if_diverged(waiting.step, metrics, waiting.example_ids, self._left)
            yield {'step': waiting.step, **metrics, **waiting.known, 'seconds': round(seconds, 4),
                   **{f'{name}_per_second': round(metrics[name] / seconds, 1) for name in _TOKENS if name in metrics},
                   **run_profile.utilisation(metrics['model_flops'], seconds), **run_profile.memory()}

    def _wait(self) -> None:
        """Waits for all that was handed to the devices."""
        hosts.fetch([waiting.metrics for waiting in self.waiting])

    def _left(self, done: int) -> str:
        """Removes the checkpoint of `done`, whose parameters gave no finite loss or gradient; returns what is left to go on from."""
        self._wait()  # for the step that was handed over meanwhile
        removed = ''
        if self.checkpoints.discard(done):
            removed = f'the checkpoint of step {done} gave this and was removed; '
        newest = self.checkpoints.latest_step
        if newest is None:
            return f'{removed}no checkpoint is left' if removed else 'no checkpoint was saved yet'
        if newest == done:
            # Written by another process, perhaps with other settings: it is not ours to remove.
            return f'the checkpoint of step {done} gives this: delete {self.run.run_dir}/checkpoints/{done} to go on from the one before'
        return f'{removed}the same command goes on from the checkpoint of step {newest}'

    def _save(self, done: int, scores: dict[str, float] | None) -> None:
        # The loss of these parameters is known after the next step only; a model beyond float32 is known now, and may be the last.
        if diverged := state_lib.divergence(self.state.params, self.work.layout):
            raise errors.DivergedError(f'step {done}: {diverged} after the update; nothing was saved; {self._left(done)}; '
                                       'lower the learning rates')
        position, index = self.work.position()
        # Before the checkpoint: a run that goes on from it has all rows up to it.
        self.log.flush()
        params, moments = self.work.items(self.state)
        self.checkpoints.save(done, params, moments, input_position=position, figures=scores, index=index)
        if hosts.is_first():
            folder = io_folder.Folder(self.run.run_dir)
            page = run_page.page(folder.name, self.log.rows, self.evaluated, resources.peak_bytes())
            folder.write(run_page.FILE, page.as_text().encode())


def _stop_if_diverged(step: int, metrics: dict[str, float], example_ids: types.Array, left: Callable[[int], str]) -> None:
    """Raises DivergedError, naming learning rates, examples and what is `left`, where loss or gradients are not finite."""
    for name, what in (('loss', 'the loss'), ('gradient_norm', 'the norm of the gradients')):
        if not math.isfinite(metrics[name]):
            rates = ' and '.join(f'{metrics[rate]:.3g}' for rate in ('learning_rate', 'retriever_learning_rate') if rate in metrics)
            # First, for it waits until nothing runs: processes exchange the examples' numbers.
            remaining = left(step - 1)
            examples = hosts.to_host(example_ids).tolist()
            raise errors.DivergedError(f'step {step}: {what} is {metrics[name]} (learning rates of reader and retriever {rates}, examples '
                                       f'{examples}); {remaining}; lower the learning rates or look at these examples')
