"""Trainings and measurements of effects.py. Each is a gin run of the package with other values; nothing here trains by itself."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import effects_rows
import effects_texts

from atlas_jax import train
from atlas_jax.answering import api, prepare
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.corpus import store_version
from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation import beir_folder, beir_retrieval, evaluate
from atlas_jax.index import index_manifest
from atlas_jax.io import jsonl
from atlas_jax.io.folder import Folder
from atlas_jax.metrics import ranking
from atlas_jax.model import ModelSource
from atlas_jax.report import run_log
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps.spec import StepConfig
from atlas_jax.tasks import qa
from atlas_jax.training.refresh import RefreshConfig

_SIZES = ('questions', 'steps_given', 'search_set', 'countries')
BATCH_SIZE = 4  # examples per update of a joint run, as in runs/few_shot.gin


@dataclasses.dataclass(frozen=True)
class Bench:
    """The folders and sizes of a benchmark run.

    work           folder for everything except the results
    packages       folder with the downloaded packages; None downloads them
    rows           the results so far
    seeds          seeds of the runs
    questions      number of questions asked per answered set; None asks all
    countries      number of countries of the Factbook
    steps          updates of a joint run, by which the passes of larger runs are scaled; None uses the experiment's own number
    search_set     number of passages and questions of a set that is only searched; None uses all
    """

    work: pathlib.Path
    packages: str | None
    rows: effects_rows.Rows
    seeds: tuple[int, ...] = (0, 1, 2)
    questions: int | None = None
    countries: int = 60
    steps: int | None = None
    search_set: int | None = None

    @property
    def models(self) -> effects_texts.Models:
        """The packaged models."""
        return effects_texts.models(self.work, self.packages)

    def start(self, setting: Mapping[str, Any]) -> pathlib.Path:
        """Returns the retriever that a setting starts from: the packaged one, or one with random weights."""
        return effects_texts.random_retriever(self.work, self.packages) if setting.get('start') == 'random' else self.models.retriever

    def mine(self, experiment: str, **setting: Any) -> list[effects_rows.Row]:
        """Returns the rows with this run's sizes."""
        return [row for row in self.rows.of(experiment, **setting) if {name: row['setting'][name] for name in _SIZES
                                                                       if name in row['setting']} == self.sizes]

    @property
    def sizes(self) -> dict[str, Any]:
        """Entries of the setting for a run below full size, which keep its rows apart."""
        values = (self.questions, self.steps, self.search_set, None if self.countries == 60 else self.countries)
        return {name: value for name, value in zip(_SIZES, values, strict=True) if value is not None}

    def folder(self, kind: str, setting: Mapping[str, Any], seed: int) -> pathlib.Path:
        """Returns the folder of a run with this setting, where a killed run continues."""
        text = json.dumps([dict(setting), self.sizes, seed], sort_keys=True)
        return self.work / 'runs' / f'{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def forgetting(rows: effects_rows.Rows, jobs: Sequence[effects_rows.Job], *folders: pathlib.Path) -> Iterator[effects_rows.Job]:
    """Yields jobs and removes their runs' folders after all their rows are kept: one experiment's models take tens of GB."""
    yield from jobs
    # A job skipped by --only may be running in another process, or its folder may hold a killed run that will continue.
    if all(rows.has(job.experiment, job.setting, job.seed) for job in jobs):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


# Training.


def _arguments(function: Callable, file: str, macros: Mapping[str, Any]) -> dict[str, Any]:
    gin_parse.parse([file], [f'{name}={value!r}' for name, value in macros.items()])
    return gin_parse.arguments_of(function)


def train_retriever(folder: pathlib.Path, retriever: pathlib.Path, passages_file: pathlib.Path, setting: Mapping[str, Any], seed: int,
                    questions_file: pathlib.Path | None = None) -> train.RetrieverResult:
    """Trains a retriever by runs/contrastive.gin on crops of passages, or by runs/contrastive_finetune.gin on a file of questions.

    Args:
      folder: the run's folder.
      retriever: the one to start from.
      passages_file: passages to crop.
      setting: macros of the gin file in lower case; the experiment's own names are left out.
      seed: Seeds order, crops and dropout.
      questions_file: questions with positives and hard negatives, used in place of crops.
    """
    macros = {name.upper(): value for name, value in setting.items() if name not in ('name', 'start', 'with_title', 'words')}
    macros |= {'RUN_DIR': str(folder), 'RETRIEVER_DIR': str(retriever), 'TRAIN_FILE': str(questions_file or passages_file),
               'train.RunConfig.seed': seed, 'train.RunConfig.keep_checkpoints': 1, 'train.RunConfig.checkpoint_every_steps': 50}
    file = 'runs/contrastive_finetune.gin' if questions_file else 'runs/contrastive.gin'
    return train.train_retriever(**_arguments(train.train_retriever, file, macros))


def train_reader(folder: pathlib.Path, bench: Bench, train_file: pathlib.Path, index_dir: pathlib.Path | None, seed: int, *,
                 steps: int, n_context: int = 3, distill: Mapping[str, Any] | None = None, refresh: RefreshConfig | None = None,
                 model_dir: pathlib.Path | None = None, retriever_learning_rate: float | None = None,
                 micro_batches: int = 1) -> train.TrainResult:
    """Trains reader and retriever by runs/few_shot.gin.

    Args:
      folder: the run's folder.
      bench: has the packaged models.
      train_file: all of its examples are trained on.
      index_dir: None is a closed book.
      seed: Seeds the order of the examples.
      steps: updates, of four examples each.
      n_context: passages that are read.
      distill: fields of DistillConfig that differ from the file's.
      refresh: how the index follows the retriever; None never refreshes.
      model_dir: a run to start from, in place of the packaged models.
      retriever_learning_rate: None uses the file's.
      micro_batches: splits an update's examples into this many parts and averages their gradients; divides the memory.
    """
    models = bench.models
    macros = {'RUN_DIR': str(folder), 'TRAIN_FILE': str(train_file), 'INDEX_DIR': None if index_dir is None else str(index_dir),
              'READER_DIR': None if model_dir else str(models.reader), 'RETRIEVER_DIR': None if model_dir else str(models.retriever),
              'MODEL_DIR': str(model_dir) if model_dir else None, 'EXAMPLES': None, 'N_CONTEXT': n_context if index_dir else 0,
              'TOTAL_STEPS': steps, 'BATCH_SIZE': BATCH_SIZE // micro_batches, 'train.RunConfig.seed': seed}
    if retriever_learning_rate is not None:
        macros['RETRIEVER_LEARNING_RATE'] = retriever_learning_rate
    arguments = _arguments(train.train, 'runs/few_shot.gin', macros)
    arguments['distill'] = dataclasses.replace(arguments['distill'], **(distill or {}))
    step = StepConfig(accumulation_steps=micro_batches, average_accumulated=True)
    return train.train(**arguments, refresh=refresh, step=step)


def pretrain(folder: pathlib.Path, reader: pathlib.Path, retriever: pathlib.Path, passages_file: pathlib.Path, index_dir: pathlib.Path,
             seed: int, *, steps: int, pretext: str = 'mlm', n_context: int = 3, **macros: Any) -> train.TrainResult:
    """Trains reader and retriever together on raw passages by runs/pretrain_mlm.gin or runs/pretrain_section.gin.

    Args:
      folder: the run's folder.
      reader, retriever: the models to start from.
      passages_file: JSON lines of id, title, text, and section for that pretext.
      index_dir: an index of the same passages.
      seed: Seeds order, masks and dropout.
      steps: updates, of four passages each.
      pretext: mlm or section.
      n_context: passages that are read and scored.
      macros: other macros of the file.
    """
    # No dropout, as in runs/few_shot.gin: it gains nothing in these few updates.
    given = {'RUN_DIR': str(folder), 'TRAIN_FILE': str(passages_file), 'INDEX_DIR': str(index_dir), 'READER_DIR': str(reader),
             'RETRIEVER_DIR': str(retriever), 'BATCH_SIZE': BATCH_SIZE, 'N_CONTEXT': n_context, 'RETRIEVER_N_CONTEXT': n_context,
             'RERANK_CANDIDATES': 0, 'TOTAL_STEPS': steps, 'WARMUP_STEPS': max(1, steps // 10), 'SEED': seed,
             'REFRESH': '-1', 'CHECKPOINT_EVERY_STEPS': 50, 'train.RunConfig.keep_checkpoints': 1,
             'train.RunConfig.dropout_rate': 0.0, **macros}
    arguments = _arguments(train.train, f'runs/pretrain_{pretext}.gin', given)
    # The CPU's own dtype; and the formats of the fine-tuning that follows, with room for a text and its masked passage.
    arguments['step'] = dataclasses.replace(arguments['step'], compute_dtype=None)
    arguments['model'] = dataclasses.replace(arguments['model'], inputs=dataclasses.replace(
        answering_inputs(), text_max_tokens=384, query_max_tokens=192, target_max_tokens=64))
    return train.train(**arguments)


def measured(folder: pathlib.Path, training: Callable[[], train.TrainResult]) -> tuple[train.TrainResult, dict[str, Any]]:
    """Runs the training of a folder. Returns its result and its processor seconds, which other steady work hardly changes.

    Processor seconds cover all steps except the first, which compiles: their median and their sum. A step gets its wall-clock seconds times
    the process's share of the processor during the whole training, so both are off if the load changes meanwhile. None for a training that
    another process began, whose share is unknown.
    """
    begun, clock, processor = (folder / run_log.METRICS_FILE).is_file(), time.perf_counter(), time.process_time()
    result = training()
    share = (time.process_time() - processor) / (time.perf_counter() - clock)
    seconds = [] if begun else [row['seconds'] * share for row in result.history[1:]]
    return result, {'cpu_seconds_a_step': statistics.median(seconds) if seconds else None, 'training_cpu_seconds': sum(seconds) or None}


# Searching.


def answering_inputs() -> Any:
    """Returns the formats of runs/formats.gin."""
    gin_parse.parse(['runs/formats.gin'])
    return gin_parse.value_of('INPUTS')


def searching_model(bench: Bench, retriever: pathlib.Path) -> api.Atlas:
    """Loads a retriever on its own, or that of a joint run, with a reader that is never used."""
    if (retriever / 'model.json').is_file() and json.loads((retriever / 'model.json').read_text('utf-8'))['reader']:
        return dataclasses.replace(api.Atlas.load(retriever), task=qa.QATask('{question}', '{target}'))
    return api.Atlas.from_pretrained(bench.models.reader, retriever, task=qa.QATask('{question}', '{target}'))


def mixed(trained: api.Atlas, before: api.Atlas, old_weight: float) -> api.Atlas:
    """Returns the trained model with a retriever that is the weighted mean of its weights and the initial ones (Wortsman et al. 2022)."""
    import jax
    import numpy as np
    if not old_weight:
        return trained
    between = jax.tree.map(lambda new, old: (1 - old_weight) * np.asarray(new) + old_weight * np.asarray(old),
                           trained.params['retriever'], before.params['retriever'])
    return dataclasses.replace(trained, params={'reader': trained.params['reader'], 'retriever': between})


def passages_index(searched: effects_texts.SearchSet, atlas: api.Atlas, path: pathlib.Path | None = None) -> api.Index:
    """Opens or builds the index of a set that is only searched; the set's own folder has the packaged retriever's index."""
    path, store = path or searched.folder / 'index', searched.folder / 'store'
    if index_manifest.exists(path):
        return api.Index.open(path)
    if not store_version.exists(Folder(store)):
        passages = (Passage(row['id'], row['title'], '', row['text']) for _, row in jsonl.read(searched.passages_file))
        api.PassageStore.from_passages(passages, store, reader_tokenizer=atlas.reader_tokenizer,
                                       retriever_tokenizer=atlas.retriever_tokenizer)
    return api.Index.build(api.PassageStore.open(store), atlas, path)


def ranks(atlas: api.Atlas, searched: effects_texts.SearchSet, split: str, scratch: pathlib.Path | None,
          beside: str | None = None) -> effects_rows.Row:
    """Embeds a set's passages and returns the rank of each question's passage, 0 if it is not among the first 100.

    Args:
      atlas: the model whose retriever is used.
      searched: passages and questions.
      split: dev, test or all.
      scratch: folder for the index, where a killed run continues and which is removed at the end; None uses the packaged retriever's own
        index, which stays.
      beside: another split, whose ranks are kept as `<split>_rank`.
    """
    start = time.perf_counter()
    index = passages_index(searched, atlas, scratch)
    found = _ranks_of(atlas, beir_folder.read(searched.folder, split), index)
    other = {f'{beside}_rank': _ranks_of(atlas, beir_folder.read(searched.folder, beside), index)} if beside else {}
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    return {'outcomes': {'gold_rank': found, **other}, 'figures': {
        'recall_at_1': statistics.mean(effects_rows.recall_at(found, 1)), 'recall_at_5': statistics.mean(effects_rows.recall_at(found, 5)),
        'ndcg_at_10': statistics.mean(effects_rows.ndcg_at_10(found)), 'passages': len(index.store), 'questions': len(found),
        'seconds': round(time.perf_counter() - start, 1)}}


def _ranks_of(atlas: api.Atlas, folder: beir_folder.BeirFolder, index: api.Index) -> list[int]:
    run, found = beir_retrieval.search(atlas, folder, index), []
    for query, judged in folder.qrels.items():
        order, (gold,) = ranking.order(run.get(query, {})), judged
        found.append(order.index(gold) + 1 if gold in order else 0)
    return found


# Answering.


def packaged(bench: Bench) -> api.Atlas:
    """Loads the packaged models with the formats of runs/few_shot.gin."""
    return ModelSource(reader_dir=str(bench.models.reader), retriever_dir=str(bench.models.retriever),
                       inputs=answering_inputs()).load(api.Atlas)


def index_of(bench: Bench, answered: effects_texts.AnswerSet, atlas: api.Atlas | None = None,
             path: pathlib.Path | None = None) -> pathlib.Path:
    """Builds the index of a set's documents unless it exists: the packaged retriever's, or another one's in its own folder."""
    store, index = answered.folder / 'store', path or answered.folder / 'index'
    if not index_manifest.exists(index):
        atlas = atlas or packaged(bench)
        opened = api.PassageStore.open(store) if store_version.exists(Folder(store)) else \
            api.PassageStore.build(answered.documents, store, atlas=atlas)
        api.Index.build(opened, atlas, index)
    return index


def answered(atlas: api.Atlas, questions_file: pathlib.Path, index: api.Index | None, n_context: int | None = None,
             search: SearchConfig | None = None, batch_size: int = 16) -> effects_rows.Row:
    """Answers a file's questions greedily. Returns exact match and the rank of the first gold passage of each, 0 if it was not read.

    Args:
      atlas: the model.
      questions_file: all of its questions are asked.
      index: None is a closed book.
      n_context: passages that are read; None uses the training's number.
      search: search options; None is exact.
      batch_size: questions read at a time.
    """
    examples = prepare.read_examples(atlas, str(questions_file))
    found = evaluate.evaluate_examples(atlas, examples, index, n_context=n_context, search=search, batch_size=batch_size)
    outcomes: dict[str, list] = {'exact_match': list(found.exact_match)}
    figures = {'exact_match': statistics.mean(found.exact_match), 'questions': len(examples), 'answering_seconds': round(found.seconds, 1)}
    if index is not None:
        outcomes['gold_rank'] = _ranks_from_one(found)
        figures['recall_at_1'] = statistics.mean(effects_rows.recall_at(outcomes['gold_rank'], 1))
    return {'outcomes': outcomes, 'predictions': [answer.text for answer in found.answers], 'figures': figures}


def found(atlas: api.Atlas, questions_file: pathlib.Path, index: api.Index, n_context: int) -> list[int]:
    """Returns the rank of each question's first gold passage, 0 if it is not among the first `n_context`; nothing is read."""
    examples = prepare.read_examples(atlas, str(questions_file))
    return _ranks_from_one(evaluate.evaluate_examples(atlas, examples, index, n_context=n_context, retrieve_only=True))


def _ranks_from_one(evaluation: evaluate.Evaluation) -> list[int]:
    return [0 if rank is None else rank + 1 for rank in evaluation.gold_ranks]
