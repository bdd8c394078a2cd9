"""Train reader and retriever together. Read it from the top: model, data, step, restore, loop."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import api, errors, evaluate, partitioning, types
from atlas_jax.checkpoints import run_folder
from atlas_jax.evaluation import run_page
from atlas_jax.io import folder as io_folder
from atlas_jax.knowledge import group
from atlas_jax.model import ModelSource
from atlas_jax.report import run_log, run_profile
from atlas_jax.runtime import compilation_cache, hosts, preemption, progress, resources, watch
from atlas_jax.searchers import config as search_config
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import prepare
from atlas_jax.steps.spec import DistillConfig, StepConfig, StepSpec
from atlas_jax.tasks import task as task_lib
from atlas_jax.training import batches as batches_lib
from atlas_jax.training import run_record, train_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig
from atlas_jax.training.refresh import RefreshConfig, Refresher, scanned_again

_SHOWN = ('reader_loss', 'retriever_loss', 'index_age_max', 'tflops_per_second', 'mfu')  # beside the progress bar


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Folder, sizes and intervals of a run; steps are counted in updates.

    Attributes:
      run_dir: folder, or gs://bucket/folder, for checkpoints, metrics and the configuration as used.
      batch_size: of a micro-batch where gradients are accumulated (StepConfig); divides over the devices.
      seed: of the order of the examples, of what tasks draw, and of dropout.
      checkpoint_every_steps: and at the end, and when the run is asked to stop (SIGTERM).
      keep_checkpoints: how many of the newest stay; while a run goes on, one more does, for the newest is yet to give a finite loss.
      evaluate_every_steps: answers eval_file's examples; 0 for never. The checkpoint with the best score stays besides.
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
    record = _record(run, loaded, optimizer, distill or DistillConfig(), step or StepConfig(), search, refresh or RefreshConfig())
    accepted = run_record.check(folder, record, run_folder.latest_step(folder), run.accept_changes)
    # data
    prepared = prepare.prepare(atlas, loaded.examples, loaded.index, atlas.config.n_context, run.batch_size,
                               distill=distill or DistillConfig(), step=step, search=search, use_file_passages=loaded.use_file_passages)
    spec = prepared.spec
    # Before the first compilation: that takes minutes on a pod.
    _check_encoders(atlas, spec)
    batches = batches_lib.TrainBatches.of(loaded.examples, prepared, run.batch_size, run.seed, run.prefetch_batches)
    refresher = _refresher(refresh, prepared)
    # step
    # The seed is part of the program: dropout keys are folded from it and from the step's number.
    run_step = train_step.make_train_step(spec, optimizer, run.seed)
    # restore: own run > given weights
    with hosts.together():
        # The first process alone: a bucket refuses one file that many write at once.
        if hosts.is_first():
            _write_description(folder, atlas, spec.keeps_passage_encoder or spec.trains_passage_encoder, bool(accepted))
            run_record.write(folder, record, run_folder.latest_step(folder), accepted)
            if begin is not None:
                begin()
    # Orbax writes in the background; leaving the block waits for the last save.
    with run_folder.RunCheckpoints(folder, run.keep_checkpoints, create=True, keep_best=int(bool(loaded.eval_examples))) as checkpoints:
        loop = _Loop(run, loaded, prepared, checkpoints, batches, run_step, refresher)
        loop.restore_or_create(optimizer)
        # loop
        # The watch ends the run when another process is dead: a collective would otherwise wait for ever.
        with (resources.releasing_freed(), watch.Watch(run.hang_seconds) as watching, preemption.StopRequest() as stop,
              run_profile.Profile(run.profile_dir) as profile, loop.log):
            loop.go(optimizer.total_steps, label, watching, stop, profile)
    params, _ = state_lib.to_items(loop.state)
    # The index on disk is as it was built. A refreshed one lives in the checkpoint only.
    return TrainResult(dataclasses.replace(atlas, params=params), tuple(loop.log.rows))


def _check_encoders(atlas: api.Atlas, spec: StepSpec) -> None:
    if 'passage_encoder' in atlas.params and not (spec.keeps_passage_encoder or spec.trains_passage_encoder):
        raise errors.ConfigError('the model has an encoder for passages of its own, which this training would lose; '
                                 'give retriever_training "untied" or "query_side", and read passages')


def _refresher(config: RefreshConfig | None, prepared: prepare.Prepared) -> Refresher | None:
    """Returns the refresher of the index; None where nothing is ever embedded again. Raises ConfigError for an index it cannot refresh."""
    if config is None or not config.refreshes:
        return None
    if not prepared.spec.embeds_passages or prepared.knowledge is None or prepared.knowledge.index is None:
        raise errors.ConfigError('a refresh embeds the index again by a passage encoder that is trained: it needs an index that is '
                                 'searched on the devices, and retriever_training "joint" or "untied"')
    if prepared.knowledge.codes is not None:
        raise errors.ConfigError('the searcher "codes" scans codes of the index as it is on disk, and a refresh embeds it again; choose '
                                 'another searcher, or no refresh and `atlas-jax index build` and `compress` after training')
    # Its buffers are overwritten: nobody else may hold them.
    index, scanned = jax.tree.map(lambda leaf: leaf.copy(), (prepared.knowledge.index, prepared.knowledge.scanned))
    prepared.knowledge = prepared.knowledge.replace(index=index, scanned=scanned)
    lengths = types.required(prepared.index).token_lengths(np.zeros(1, np.int64))
    return Refresher(prepared.spec, config, index.valid.shape[0], lengths, prepared.token_rows)


def _record(run: RunConfig, loaded: Loaded, optimizer: OptimizerConfig, distill: DistillConfig, step: StepConfig,
            search: SearchConfig | str | None, refresh: RefreshConfig) -> dict[str, Any]:
    """All that decides what the run computes, by name."""
    return run_record.settings(
        loaded.atlas.description(), loaded.examples, (optimizer, distill, step, search_config.of(search), refresh),
        seed=run.seed, batch_size=run.batch_size, use_file_passages=loaded.use_file_passages,
        **run_record.index_settings(group.of(loaded.index), refresh.refreshes))


def _write_description(folder: io_folder.Folder, atlas: api.Atlas, keep_passage_encoder: bool, accepted: bool) -> None:
    """Writes model.json, or refuses to go on in the folder of another model."""
    params = atlas.params | ({'passage_encoder': atlas.params['retriever']} if keep_passage_encoder else {})
    described = dataclasses.replace(atlas, params=params)
    if folder.exists(run_folder.MODEL_FILE) and not accepted:
        before, now = run_record.flat(run_folder.read_model_file(folder)), run_record.flat(described.description())
        # A folder without a record, which an earlier version or a conversion wrote.
        if found := run_record.changes(before, now):
            raise errors.ConfigError(f'{folder}: holds another model: {"; ".join(map(str, found))}; give another run_dir, or the same '
                                     'settings')
        return
    described.write_description(folder)


@dataclasses.dataclass(frozen=True)
class _Dispatched:
    """A step that was handed to the devices, and whose metrics were not read yet."""

    step: int
    metrics: dict[str, jax.Array]  # scalars
    example_ids: types.Array  # [batch] int32
    known: dict[str, float]  # what the host knew when it handed the step over


@dataclasses.dataclass
class _Loop:
    """A run between two saves: state, log, and the position of everything that moves with them."""

    run: RunConfig
    loaded: Loaded
    prepared: prepare.Prepared
    checkpoints: run_folder.RunCheckpoints
    batches: batches_lib.TrainBatches
    step: train_step.TrainStep
    refresher: Refresher | None
    state: state_lib.TrainState = dataclasses.field(init=False)
    log: run_log.RunLog = dataclasses.field(init=False)
    waiting: list[_Dispatched] = dataclasses.field(default_factory=list)  # oldest first
    evaluated: run_page.Evaluated | None = None  # the last one
    since: float = 0.0  # when the devices began the oldest of these, by the host's clock

    def restore_or_create(self, optimizer: OptimizerConfig) -> None:
        """State and log: of the run's newest checkpoint, else of the weights that were given."""
        folder, spec = io_folder.Folder(self.run.run_dir), self.prepared.spec
        transformation = train_step.optimizer_for(spec, optimizer)
        # A checkpoint is never written at step 0, so 0 means that there is none.
        done = self.checkpoints.latest_step or 0
        if done:
            # Shapes with shardings: each process reads its own shards only, whatever mesh they were written from.
            abstract = state_lib.abstract(spec, transformation)
            params, moments, position = self.checkpoints.restore(*state_lib.to_items(abstract))
            self.batches.restore(position['examples'])
            self.state = state_lib.from_items(params, moments, spec.trains_passage_encoder)
            if self.refresher is not None:
                self._restore_index(self.refresher, position['refresh'])
        else:
            # The passage encoder goes beside them: the spec decides whether it is trained, kept, or not there.
            params = {name: self.loaded.atlas.params[name] for name in ('reader', 'retriever')}
            self.state = state_lib.create(params, spec, transformation, self.loaded.atlas.params.get('passage_encoder'))
        self.log = run_log.RunLog(folder, done)
        if jax.process_index() == 0:
            came_from = f'going on from step {done} of this run' if done else 'starting from the given weights'
            print(f'{folder}: {came_from}; {jax.device_count()} {jax.devices()[0].device_kind} in {jax.process_count()} process(es), mesh '
                  f'{dict(spec.mesh.shape)}\n{run_log.parameter_overview(self.state.params)}', flush=True)

    def go(self, total_steps: int, label: str, watching: watch.Watch, stop: preemption.StopRequest,
           profile: run_profile.Profile) -> None:
        """Trains until `total_steps` updates are done. Raises DivergedError, PreemptedError."""
        done = int(hosts.fetch(self.state.step))
        with progress.bar(total_steps, label, ' steps') as bar:
            progress.skip(bar, done)
            self.since = time.perf_counter()
            while done < total_steps:
                # Before the update, since that is where a process waits for one that has died.
                watching.beat(done + 1)
                with profile.step(done + 1, self._wait):
                    self._dispatch(done + 1)
                done += 1
                # After the update on every process alike: all must decide the same, or a collective save would hang.
                stopped = stop.now(done)
                evaluates = bool(self.loaded.eval_examples) and done % self.run.evaluate_every_steps == 0
                # An evaluated step is saved too, so that the best checkpoint exists when its score is the best.
                saves = done % self.run.checkpoint_every_steps == 0 or done == total_steps or evaluates or stopped
                # Metrics are read one step late, while the devices work; all of them before the state is used for anything else.
                if not saves and (done - 1) % self.run.log_every_steps:
                    continue
                score = None
                for row in self._read(done if saves else done - 1):
                    if evaluates and row['step'] == done:
                        score, figures = self._evaluate(done)
                        row |= figures
                    self.log.append(row)
                    bar.set_postfix_str(' '.join(f'{name} {row[name]:.3f}' for name in _SHOWN if name in row))
                    bar.update(1)
                # A save that has failed in the background ends the run now, and not with the next one.
                self.checkpoints.raise_problems()
                if saves:
                    self._save(done, score)
                    self.since = time.perf_counter()  # the pause was no step's
                if stopped and done < total_steps:
                    raise errors.PreemptedError(f'{self.run.run_dir}: asked to stop, saved at step {done}; the same command goes on')

    def _dispatch(self, step: int) -> None:
        """Hands a step to the devices, and the refresh after it; waits for neither."""
        batch, retrieved = self.batches.take(self.state.params)
        self.state, metrics = self.step(self.state, batch, self.prepared.knowledge, retrieved)
        known = {'queries_cut': self.prepared.encoder.queries_cut}
        if self.refresher is not None:
            known |= self.refresher.ages(step - 1)
            # Parameters that are not finite may reach the index here: it is saved after the step's loss was read, and else never used.
            self.prepared.knowledge = self.refresher.after_update(types.required(self.prepared.knowledge), self.state.params, step)
        self.waiting.append(_Dispatched(step, metrics, batch.example_ids, known))

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
                   'reader_tokens_per_second': round(metrics['reader_tokens'] / seconds, 1),
                   **run_profile.utilisation(metrics['model_flops'], seconds), **run_profile.memory()}

    def _wait(self) -> None:
        """Waits for all that was handed to the devices."""
        hosts.fetch([waiting.metrics for waiting in self.waiting])

    def _evaluate(self, done: int) -> tuple[float, dict[str, float]]:
        """Returns the task's first metric, and all for the row of the step."""
        params, _ = state_lib.to_items(self.state)
        atlas = dataclasses.replace(self.loaded.atlas, params=params)
        evaluation = evaluate.evaluate_examples(
            atlas, self.loaded.eval_examples, self.loaded.index, label=f'evaluating at {done}',
            knowledge=None if self.prepared.searcher else self.prepared.knowledge, batch_size=self.run.batch_size,
            search=self.prepared.spec.search, compute_dtype=self.prepared.spec.step.compute_dtype,
            use_file_passages=self.loaded.index is None and self.loaded.atlas.config.n_context > 0)
        for line in evaluation.left_out:
            prepare.say_once(line)
        self.evaluated = run_page.Evaluated.of(evaluation.rows) if hosts.is_first() else None
        figures = evaluation.summary(top_k=self.loaded.atlas.config.n_context)
        return float(next(iter(figures.values()))), {f'eval_{name}': value for name, value in figures.items() if isinstance(value, float)}

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

    def _save(self, done: int, score: float | None) -> None:
        # The loss of these parameters is known after the next step only; a model beyond float32 is known now, and may be the last.
        if diverged := state_lib.divergence(self.state.params, self.prepared.spec):
            raise errors.DivergedError(f'step {done}: {diverged} after the update; nothing was saved; {self._left(done)}; '
                                       'lower the learning rates')
        position: dict[str, Any] = {'examples': self.batches.state()}
        self.batches.search_again()
        index = None
        if self.refresher is not None:
            position['refresh'] = self.refresher.state()
            index = {'index': _numbers_of(self.prepared.knowledge)}
        # Before the checkpoint: a run that goes on from it has all rows up to it.
        self.log.flush()
        self.checkpoints.save(done, *state_lib.to_items(self.state), input_position=position, score=score, index=index)
        if hosts.is_first():
            folder = io_folder.Folder(self.run.run_dir)
            page = run_page.page(folder.name, self.log.rows, self.evaluated, resources.peak_bytes())
            folder.write(run_page.FILE, page.as_text().encode())

    def _restore_index(self, refresher: Refresher, position: dict[str, Any]) -> None:
        """Takes the embeddings as they were refreshed so far."""
        knowledge = types.required(self.prepared.knowledge)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), _numbers_of(knowledge))
        embeddings, scales = self.checkpoints.restore_index({'index': shapes})['index']
        index = types.required(knowledge.index).replace(embeddings=embeddings, scales=scales)
        scanned = scanned_again(knowledge.scanned, index, self.prepared.spec)
        self.prepared.knowledge = knowledge.replace(index=index, scanned=scanned)
        refresher.restore(position)


def _numbers_of(knowledge: types.Knowledge | None) -> tuple[jax.Array, jax.Array | None]:
    """Returns what a refresh changes of the index: embeddings [rows, dim] and their scales [rows]."""
    index = types.required(types.required(knowledge).index)
    return index.embeddings, index.scales


def _stop_if_diverged(step: int, metrics: dict[str, float], example_ids: types.Array, left: Callable[[int], str]) -> None:
    """Raises DivergedError, naming learning rates, examples and what is `left`, where loss or gradients are not finite."""
    for name, what in (('loss', 'the loss'), ('gradient_norm', 'the norm of the gradients')):
        if not math.isfinite(metrics[name]):
            rates = ' and '.join(f'{metrics[rate]:.3g}' for rate in ('learning_rate', 'retriever_learning_rate'))
            # First, for it waits until nothing runs: processes exchange the examples' numbers.
            remaining = left(step - 1)
            examples = hosts.to_host(example_ids).tolist()
            raise errors.DivergedError(f'step {step}: {what} is {metrics[name]} (learning rates of reader and retriever {rates}, examples '
                                       f'{examples}); {remaining}; lower the learning rates or look at these examples')
