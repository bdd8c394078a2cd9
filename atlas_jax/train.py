"""Trains reader and retriever together. Read it from the top: options, model and data, step,
evaluation, loop.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from atlas_jax import errors, partitioning, types
from atlas_jax.answering import api, prepare
from atlas_jax.checkpoints import run_folder
from atlas_jax.evaluation import guard, run_page
from atlas_jax.evaluation.while_training import RunEvaluation
from atlas_jax.io import folder as io_folder
from atlas_jax.knowledge import group
from atlas_jax.model import ModelSource, RetrieverModel, RetrieverSource
from atlas_jax.options import CheckedOptions, option
from atlas_jax.report import run_log, run_profile
from atlas_jax.runtime import (
    compilation_cache,
    hosts,
    notes,
    preemption,
    progress,
    resources,
    watch,
)
from atlas_jax.searchers import config as search_config
from atlas_jax.searchers.config import SearchConfig
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
from atlas_jax.training.waiting import WaitingSteps
from atlas_jax.training.work import AtlasWork, Work

# metrics shown beside the progress bar
_SHOWN = ('reader_loss', 'retriever_loss', 'accuracy', 'index_age_max', 'tflops_per_second', 'mfu')


@dataclasses.dataclass(frozen=True)
class RunConfig(CheckedOptions):
    """Folder, sizes and intervals of a run. Steps are counted in updates.

    Attributes:
      run_dir: folder, or gs://bucket/folder, for checkpoints, metrics and the configuration.
      batch_size: examples in a batch, or in a micro-batch where gradients are accumulated
        (StepConfig). It must divide over the devices.
      seed: seeds shuffling, task sampling and dropout.
      checkpoint_every_steps: interval between checkpoints. One is also saved at the end, and when
        the run is asked to stop (SIGTERM).
      keep_checkpoints: number of newest checkpoints to keep. A running run keeps one more, since
        the newest has not yet given a finite loss.
      evaluate_every_steps: interval between evaluations on eval_file; the first comes before the
        first update. 0 turns evaluation off. The best checkpoint is kept as well.
      best_by: how the best checkpoint is chosen: by score (the task's first metric) or by recall.
      mesh_shape: (data, fsdp, model); None puts all devices on fsdp.
      dropout_rate: dropout of both models; None keeps the models' own.
      log_every_steps: interval at which the loop waits for the devices and reads the metrics of
        all steps since. Every step has its row; `seconds` is then a mean. A run that is asked to
        stop, or that diverges, first finishes the steps on the devices.
      prefetch_batches: batches made and placed on the devices while a step runs; 0 makes each
        batch when its step comes.
      compilation_cache_dir: folder or gs://... for compiled programs, so that a restarted run
        need not compile again. "auto" is ~/.cache/atlas_jax/compiled, unless
        JAX_COMPILATION_CACHE_DIR is set; None turns the cache off.
      hang_seconds: time without progress after which a run with several processes is ended;
        compilation counts too.
      profile_dir: folder for a profile of a few steps; None writes none.
      accept_changes: continues a run although settings that affect its results have changed.

    Raises:
      ConfigError: a number is too small, or run_dir or compilation_cache_dir is neither a folder
        nor gs://.
    """

    run_dir: str
    batch_size: int = option(4, least=1)
    seed: int = 0
    checkpoint_every_steps: int = option(50, least=1)
    keep_checkpoints: int = option(2, least=1)
    evaluate_every_steps: int = option(0, least=0)
    best_by: str = option('score', choices=('score', 'recall'))
    mesh_shape: tuple[int, int, int] | None = None
    dropout_rate: float | None = None
    log_every_steps: int = option(1, least=1)
    prefetch_batches: int = option(2, least=0)
    compilation_cache_dir: str | None = compilation_cache.AUTO
    hang_seconds: float = 1800.0
    profile_dir: str | None = None
    accept_changes: bool = False

    def __post_init__(self):
        super().__post_init__()
        if '://' in self.run_dir and not io_folder.is_remote(self.run_dir):
            raise errors.ConfigError(f'RunConfig.run_dir is "{self.run_dir}"; give a folder or '
                                     'gs://bucket/folder')
        if (place := self.compilation_cache_dir) is not None and (
                not place or '://' in place and not place.startswith('gs://')):
            raise errors.ConfigError(f'RunConfig.compilation_cache_dir is "{place}"; give a '
                                     'folder, gs://bucket/folder or None')


@dataclasses.dataclass(frozen=True)
class TrainData:
    """The examples and the index that a run learns from.

    Attributes:
      train_file: training examples, lines in the task's format (docs/tasks.md): a file, a folder,
        a pattern, or a list of these, read in order.
      index_dir: index to retrieve from, or several to search together. None with n_context 0
        trains a closed-book reader.
      n_context: number of passages the reader reads.
      max_examples: number of examples to use, the first of all files together (64 for few-shot).
      use_file_passages: reads and scores the examples' own passages; nothing is retrieved.
      eval_file: examples to evaluate on while training (RunConfig.evaluate_every_steps); given
        like train_file.
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
            raise errors.ConfigError('training needs an index and n_context >= 1, or neither '
                                     '(n_context 0: closed book), or use_file_passages')


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model with its training data, in memory.

    Attributes:
      atlas: the model, configured for the run.
      examples: training examples.
      index: index to retrieve from; None for a closed book, or if examples bring their passages.
      eval_examples: examples to evaluate on while training.
      use_file_passages: reads and scores the examples' own passages; nothing is retrieved.
    """

    atlas: api.Atlas
    examples: Sequence[task_lib.TaskExample]
    index: prepare.Searched = None
    eval_examples: Sequence[task_lib.TaskExample] = ()
    use_file_passages: bool = False


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The trained model, and one row of metrics for each step."""

    atlas: api.Atlas
    history: tuple[dict[str, float], ...]


@dataclasses.dataclass(frozen=True)
class RetrieverResult:
    """The trained retriever, and one row of metrics for each step."""

    retriever: RetrieverModel
    history: tuple[dict[str, float], ...]


def train(run: RunConfig, data: TrainData, model: ModelSource, optimizer: OptimizerConfig,
          distill: DistillConfig | None = None, step: StepConfig | None = None,
          search: SearchConfig | None = None, refresh: RefreshConfig | None = None) -> TrainResult:
    """Trains a model on a JSON-lines file of examples. Continues from the run's newest checkpoint.

    Args:
      run: folder, batch size, seed, checkpoints.
      data: examples and index.
      model: weights and formats to start from.
      optimizer: learning rates, schedule, number of steps.
      distill: how the retriever learns; None uses the original's defaults.
      step: accumulation, rematerialisation, dtypes.
      search: how passages are found; None is exact search.
      refresh: how the index follows the passage encoder; None never refreshes it.

    Raises:
      UserError: anything the user can fix, before training starts; most are a ConfigError.
      DivergedError: the loss or a parameter is no longer finite. PreemptedError: a SIGTERM came;
        the state is saved.
    """
    return train_examples(run, load(run, data, model), optimizer, distill, step, search, refresh)


def load(run: RunConfig, data: TrainData, model: ModelSource) -> Loaded:
    """Loads a model and its training data.

    Raises:
      ConfigError: options contradict each other. UserError: a folder or a file is missing, damaged,
        or of another kind.
    """
    _use_compilation_cache(run)
    # One without the other would silently never evaluate.
    if bool(data.eval_file) != bool(run.evaluate_every_steps):
        raise errors.ConfigError('evaluation while training needs both eval_file and '
                                 'RunConfig.evaluate_every_steps')
    # Recall of the examples' own passages is the same at every step.
    if run.best_by == 'recall' and (data.index_dir is None or data.use_file_passages
                                    or not data.eval_file):
        raise errors.ConfigError('RunConfig.best_by is "recall"; give an eval_file, and an '
                                 'index_dir to retrieve from')
    # model; the mesh first, since reading weights takes longer than refusing a wrong shape
    mesh = partitioning.make_mesh(run.mesh_shape)
    atlas = configure(model.load(api.Atlas), mesh, data.n_context, run.dropout_rate)
    # data
    examples = prepare.read_examples(atlas, data.train_file, training=True,
                                     max_rows=data.max_examples)
    index = group.open_indexes(data.index_dir, data.force_index) or None
    eval_examples = prepare.read_examples(atlas, data.eval_file) if data.eval_file else ()
    return Loaded(atlas, examples, index, eval_examples, data.use_file_passages)


def _use_compilation_cache(run: RunConfig) -> None:
    """Call it first: the cache serves only programs that are compiled after this."""
    compilation_cache.use(run.compilation_cache_dir, io_folder.default_cache_dir() / 'compiled')


def configure(atlas: api.Atlas, mesh: jax.sharding.Mesh, n_context: int,
              dropout_rate: float | None) -> api.Atlas:
    """Returns the model on a mesh, with another number of passages and dropout rate."""
    config = dataclasses.replace(atlas.config, n_context=n_context)
    if dropout_rate is not None:
        config = dataclasses.replace(
            config, reader=dataclasses.replace(config.reader, dropout_rate=dropout_rate),
            retriever=dataclasses.replace(config.retriever, dropout_rate=dropout_rate))
    # A calibration belongs to the weights it was fitted on, and training changes them.
    return dataclasses.replace(atlas, config=config, mesh=mesh, calibration=None)


def train_examples(run: RunConfig, loaded: Loaded, optimizer: OptimizerConfig,
                   distill: DistillConfig | None = None, step: StepConfig | None = None,
                   search: SearchConfig | None = None, refresh: RefreshConfig | None = None,
                   label: str = 'training', begin: Callable[[], None] | None = None) -> TrainResult:
    """Trains on data in memory, and writes the run folder as `train` does.

    Args and errors are those of `train`. `label` stands before the progress bar. `begin` is called
    when all options are accepted.
    """
    _use_compilation_cache(run)
    distill, step = distill or DistillConfig(), step or StepConfig()
    search, refresh = search_config.as_search_config(search), refresh or RefreshConfig()
    folder, atlas = io_folder.Folder(run.run_dir), loaded.atlas
    # Two processes in one folder would destroy each other's rows.
    with run_folder.writing(folder):
        newest = run_folder.latest_step(folder)
        record = run_record.settings(
            atlas.description(), run_record.digest(loaded.examples),
            (optimizer, distill, step, search, refresh), seed=run.seed, batch_size=run.batch_size,
            use_file_passages=loaded.use_file_passages,
            **run_record.index_settings(group.as_group(loaded.index), refresh.refreshes))
        accepted = run_record.check(folder, record, newest, run.accept_changes)
        # data
        prepare.check_gold_scores(loaded.examples, distill, loaded.use_file_passages)
        prepared = prepare.prepare_examples(
            atlas, loaded.examples, loaded.index, atlas.config.n_context, run.batch_size,
            distill=distill, step=step, search=search, use_file_passages=loaded.use_file_passages)
        # Before the first compilation, which takes minutes on a pod.
        state_lib.check_encoders(atlas.params, prepared.spec)
        batches = batches_lib.TrainBatches.of(loaded.examples, prepared, run.batch_size, run.seed,
                                              run.prefetch_batches)
        refresher = refresh_lib.refresher_of(refresh, prepared)
        # step; it is compiled with the seed, and folds dropout keys from seed and step number
        run_step = train_step.make_train_step(prepared.spec, optimizer, run.seed)
        work = AtlasWork(prepared, batches, optimizer, run_step, atlas.params, refresher)
        run_record.begin(folder, record, accepted,
                         dataclasses.replace(atlas, params=work.saved_params), begin)
        # evaluation
        evaluating = RunEvaluation(
            atlas, loaded.eval_examples, loaded.index, prepared,
            guard.Guard(folder, newest, distill.retriever_training), run.run_dir, run.batch_size,
            needs_recall=run.best_by == 'recall') if loaded.eval_examples else None
        _say_warning(run, optimizer)
        # restore (own run > given weights), then train
        loop = _Loop(run, work, evaluating)
        loop.go(optimizer.total_steps, label)
    # A refreshed index lives in the checkpoints alone; the index on disk is as it was built.
    params, _ = work.items(loop.state)
    return TrainResult(dataclasses.replace(atlas, params=params), tuple(loop.log.rows))


def train_retriever(run: RunConfig, data: RetrieverData, model: RetrieverSource,
                    optimizer: OptimizerConfig, contrastive: ContrastiveConfig,
                    step: StepConfig | None = None,
                    begin: Callable[[], None] | None = None) -> RetrieverResult:
    """Trains a retriever without a reader, on passages alone or on questions with passages.
    Continues from the run's newest checkpoint.

    Args:
      run: folder, batch size, seed, checkpoints.
      data: passages, or questions with passages.
      model: the retriever to start from.
      optimizer: the retriever's learning rate, schedule, number of steps.
      contrastive: crops, and where negatives come from.
      step: rematerialisation, dtypes.
      begin: called when all options are accepted.

    Raises:
      ConfigError: an option of joint training is set. UserError: the same errors as `train`.
    """
    _use_compilation_cache(run)
    # Options that would have no effect.
    if run.evaluate_every_steps or run.best_by != 'score':
        raise errors.ConfigError('RunConfig.evaluate_every_steps and best_by belong to joint '
                                 'training, and a retriever alone answers nothing; leave them '
                                 'out, and measure the run with `atlas-jax evaluate --task '
                                 'retrieval`')
    if optimizer.learning_rate != OptimizerConfig.learning_rate:
        raise errors.ConfigError(f'OptimizerConfig.learning_rate is {optimizer.learning_rate}, '
                                 'the rate of a reader, and this run has no reader; set '
                                 'retriever_learning_rate')
    # Two processes in one folder would destroy each other's rows.
    with run_folder.writing(run.run_dir):
        work = contrastive_run.prepare_contrastive_run(
            model.load(), data, contrastive, optimizer, step or StepConfig(), run.batch_size,
            run.seed, run.prefetch_batches, run.mesh_shape, run.dropout_rate)
        record = work.record()
        accepted = run_record.check(run.run_dir, record, run_folder.latest_step(run.run_dir),
                                    run.accept_changes)
        run_record.begin(run.run_dir, record, accepted, work.model, begin)
        _say_warning(run, optimizer)
        loop = _Loop(run, work)
        loop.go(optimizer.total_steps, 'training the retriever')
    return RetrieverResult(dataclasses.replace(work.model, params=loop.state.params),
                           tuple(loop.log.rows))


def _say_warning(run: RunConfig, optimizer: OptimizerConfig) -> None:
    if line := optimizer.warning():
        notes.say_once(f'{run.run_dir}: {line}')


@dataclasses.dataclass
class _Loop:
    """The loop of a run, with its state, its log, and the last evaluation."""

    run: RunConfig
    work: Work
    evaluate: RunEvaluation | None = None
    checkpoints: run_folder.RunCheckpoints = dataclasses.field(init=False)
    state: Any = dataclasses.field(init=False)
    log: run_log.RunLog = dataclasses.field(init=False)
    waiting: WaitingSteps = dataclasses.field(init=False, default_factory=WaitingSteps)
    evaluated: run_page.EvaluationPoint | None = dataclasses.field(init=False, default=None)

    def go(self, total_steps: int, label: str) -> None:
        """Continues from the run's newest checkpoint, or starts, and trains for `total_steps`
        updates in all.

        Raises DivergedError, PreemptedError.
        """
        with self._opened() as (done, watching, stop, profile), progress.bar(
                total_steps, label, ' steps') as bar:
            progress.skip(bar, done)
            self.waiting.restart_clock()
            while done < total_steps:
                # Before the update, since that is where a process waits for one that has died.
                watching.beat(done + 1)
                with profile.step(done + 1, self.waiting.wait):
                    batch, *arguments = self.work.take(self.state)
                    self.state, metrics = self.work.step(self.state, batch, *arguments)
                    known = self.work.after_step(self.state, done + 1)
                done += 1
                self.waiting.add(done, metrics, batch.example_ids, known)
                # After the update on every process: all must decide the same, or a collective save
                # would hang.
                stopped = stop.now(done)
                evaluates = self.evaluate is not None and done % self.run.evaluate_every_steps == 0
                # Evaluated steps are saved too: the best checkpoint must exist.
                saves = (evaluates or stopped or done == total_steps
                         or done % self.run.checkpoint_every_steps == 0)
                # Metrics are read one step late, while the devices work; all of them before the
                # state is used for anything else.
                if not saves and (done - 1) % self.run.log_every_steps:
                    continue
                scores = None
                for row in self.waiting.read(done if saves else done - 1, self._left):
                    seconds = row['seconds']
                    row |= {'seconds': round(seconds, 4),
                            **run_profile.utilisation(row['model_flops'], seconds),
                            **run_profile.memory()}
                    if evaluates and row['step'] == done:
                        scores, figures = self._evaluate(done)
                        row |= figures
                    self.log.append(row)
                    bar.set_postfix_str(' '.join(
                        f'{name} {row[name]:.3f}' for name in _SHOWN if name in row))
                    bar.update(1)
                # A save that failed in the background ends the run now, not at the next save.
                self.checkpoints.raise_problems()
                if saves:
                    self._save(done, scores)
                    self.waiting.restart_clock()  # the pause belongs to no step
                if stopped and done < total_steps:
                    raise errors.PreemptedError(f'{self.run.run_dir}: asked to stop, saved at '
                                                f'step {done}; the same command goes on')

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, watch.Watch, preemption.StopRequest,
                                        run_profile.Profile]]:
        """Restores or creates the state, and opens the run's log, checkpoints and watches; yields
        the number of updates done.
        """
        folder = io_folder.Folder(self.run.run_dir)
        # Orbax writes in the background; leaving the block waits for the last save.
        with run_folder.RunCheckpoints(folder, self.run.keep_checkpoints, create=True,
                                       keep_best=0 if self.evaluate is None else 1,
                                       best_by=self.run.best_by) as self.checkpoints:
            # No checkpoint is written at step 0.
            done = self.checkpoints.latest_step or 0
            self.state = self.work.restored(self.checkpoints) if done else self.work.created()
            self.log = run_log.RunLog(folder, done)
            start = f'going on from step {done} of this run' if done else (
                'starting from the given weights')
            notes.say(f'{folder}: {start}; {jax.device_count()} {jax.devices()[0].device_kind} in '
                      f'{jax.process_count()} process(es), mesh '
                      f'{dict(self.work.layout.mesh.shape)}\n'
                      f'{run_log.parameter_overview(self.state.params)}', to_stdout=True)
            # The watch ends the run when another process is dead: a collective would wait forever.
            with (resources.releasing_freed(), watch.Watch(self.run.hang_seconds) as watching,
                  preemption.StopRequest() as stop,
                  run_profile.Profile(self.run.profile_dir, self.work.program) as profile,
                  self.log):
                # The given weights are the baseline; no checkpoint holds them.
                if self.evaluate is not None and not done:
                    self.log.append({'step': done} | self._evaluate(done)[1])
                yield done, watching, stop, profile

    def _evaluate(self, done: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the figures that choose the best checkpoint, and those for the step's row."""
        params, _ = self.work.items(self.state)
        scores, figures, self.evaluated = types.required(self.evaluate)(params, done)
        return scores, figures

    def _left(self, done: int) -> str:
        """Removes the checkpoint of `done`, whose parameters gave an infinite loss or gradient;
        returns a text about the checkpoint to continue from.
        """
        self.waiting.wait()  # another step may have been handed over meanwhile
        removed = ''
        if self.checkpoints.discard(done):
            removed = f'the checkpoint of step {done} gave this and was removed; '
        newest = self.checkpoints.latest_step
        if newest is None:
            return f'{removed}no checkpoint is left' if removed else 'no checkpoint was saved yet'
        if newest == done:
            # Another process wrote it, perhaps with other settings: it is not ours to remove.
            return (f'the checkpoint of step {done} gives this: delete '
                    f'{self.run.run_dir}/checkpoints/{done} to go on from the one before')
        return f'{removed}the same command goes on from the checkpoint of step {newest}'

    def _save(self, done: int, scores: dict[str, float] | None) -> None:
        # Whether the loss of these parameters is finite shows in the next step. Parameters beyond
        # float32 show now, and this step may be the last.
        if diverged := state_lib.divergence(self.state.params, self.work.layout):
            raise errors.DivergedError(f'step {done}: {diverged} after the update; nothing was '
                                       f'saved; {self._left(done)}; lower the learning rates')
        position, index = self.work.position()
        # Before the checkpoint: a run that continues from it needs all rows up to it.
        self.log.flush()
        params, moments = self.work.items(self.state)
        self.checkpoints.save(done, params, moments, input_position=position, figures=scores,
                              index=index)
        if hosts.is_first():
            folder = io_folder.Folder(self.run.run_dir)
            page = run_page.page(folder.name, self.log.rows, self.evaluated, resources.peak_bytes())
            folder.write(run_page.FILE, page.encode())
