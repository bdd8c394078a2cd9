"""The demo: compares retrieval with closed book, trains jointly on 64 examples, and edits the
knowledge of an index.

Models and texts are real. Every part runs the same functions and gin files as the commands in the
README.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_jax import errors, train
from atlas_jax.answering import api
from atlas_jax.apps.demo import demo_data, demo_report, factbook, packages, swaps
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.corpus import store_version
from atlas_jax.decoding import DecodingConfig
from atlas_jax.evaluation import evaluate
from atlas_jax.index import index_manifest
from atlas_jax.io import atomic, jsonl, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.tasks import task as task_lib

_SETTINGS_FILE = 'settings.json'
_BATCH_SIZE = 16
# The small reader misspells names, and takes some from the worse passage, while the second beam is
# right. This raises exact match from .750 to .795 on 200 questions of dev.
_DECODING = DecodingConfig(num_beams=2, quote=True)
_EVERY_COUNTRY = 1000  # more than exist


def demo(work_dir: str, packages_dir: str | None = None, countries: int = 60,
         questions: int | None = 96, seed: int = 0, steps: int | None = None,
         report_file: str | None = None, split: str = 'test') -> dict[str, Any]:
    """Runs the whole demo and prints its table. Resumes a killed run.

    Args:
      work_dir: The folder for all files.
      packages_dir: The folder with the downloaded packages; None fetches them with pip.
      countries: The number of countries of the Factbook.
      questions: The number of test questions; at most half as many ask about the edit. None takes
        all.
      seed: Seeds training and the choice of questions.
      steps: The number of training steps; None takes that of runs/few_shot.gin.
      report_file: The HTML page; None writes report.html into work_dir.
      split: The split to evaluate: test, or dev for choosing hyper-parameters.

    Returns:
      The figures, as JSON values.

    Raises:
      UserError: A package cannot be fetched, or a setting is wrong.
    """
    work = pathlib.Path(work_dir)
    seconds: dict[str, float] = {}
    # Before anything is written: only folders that this run would make again may stay.
    _forget_other_settings(work, {'countries': countries, 'seed': seed, 'steps': steps})
    with _timed(seconds, 'models and texts'):
        data = demo_data.write(work, packages_dir, countries)
    with _timed(seconds, 'passages and index'):
        index = _build_index(work, data)
    older = _older_edition(packages_dir)
    findings = _evaluate_all(work, data, index, seconds, questions, seed, steps, split, older)
    report = pathlib.Path(report_file) if report_file else work / 'report.html'
    figures = findings.figures()
    print(demo_report.as_text(findings, figures))
    demo_report.write(report, findings, figures)
    print(f'Report: {report}')
    return figures


def _evaluate_all(work: pathlib.Path, data: demo_data.DemoData, index: api.Index,
                  seconds: dict[str, float], questions: int | None, seed: int, steps: int | None,
                  split: str, older: pathlib.Path | None) -> demo_report.Findings:
    examples_file = getattr(data, split)
    with _timed(seconds, 'closed book: training'):
        closed_book = _train(work / 'closed_book', data, None, seed, steps)
    # Every setting answers the same questions, so that differences are paired.
    examples = sample(task_lib.read_examples(examples_file, closed_book.atlas.task), questions,
                      seed)
    with _timed(seconds, 'closed book: answering'):
        closed_answers = _asked(closed_book.atlas, examples, None, label='closed book')
    # The packaged models, with the task and formats of training.
    with _timed(seconds, 'untrained: answering'):
        untrained = api.ModelSource(None, str(data.reader), str(data.retriever),
                                    closed_book.atlas.task,
                                    closed_book.atlas.config.inputs).load(api.Atlas)
        before = _asked(untrained, examples, index, n_context=_n_context(), label='untrained')
    with _timed(seconds, 'joint training'):
        # Starts from the packaged models, not from the closed-book reader.
        trained = _train(work / 'trained', data, work / 'index', seed, steps)
    with _timed(seconds, 'trained: answering'):
        after = _asked(trained.atlas, examples, index, label='trained')
    with _timed(seconds, 'editing the index'):
        # The older edition has true names. Names are exchanged if its package is not available.
        edit = _older_texts(data, older, split) if older else _swapped_texts(data, split)
        # The trained model can edit the index, because its passage encoder built it.
        edited_index = _edit_index(work, edit, trained.atlas)
        edited_examples = _examples(edit.questions, trained.atlas.task)
        stale = [question.stale_answers for question in edit.questions]
    with _timed(seconds, 'edited: answering'):
        # Each question is answered twice.
        asked = edited_examples[:None if questions is None else -(-questions // 2)]
        edited = _asked(trained.atlas, asked, edited_index, label='edited index')
        unedited = _asked(trained.atlas, asked, index, label='index as it was')
    return demo_report.Findings(closed_answers, before, after, edited, _judge(edited, stale),
                                _judge(unedited, stale), examples, asked,
                                {'closed book': closed_book.history, 'joint': trained.history},
                                len(edit.documents), '2014' if older else 'swapped', seconds, seed)


def _asked(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: api.Index | None,
           label: str, n_context: int | None = None) -> evaluate.Evaluation:
    # All settings decode in the same way, including closed book.
    return evaluate.evaluate_examples(atlas, examples, index, n_context=n_context,
                                      batch_size=_BATCH_SIZE, decoding=_DECODING, label=label)


def sample(examples: list[task_lib.TaskExample], count: int | None,
           seed: int) -> list[task_lib.TaskExample]:
    """Returns `count` examples, spread evenly over the file and shifted by the seed; None returns
    all.
    """
    if count is None or count >= len(examples):
        return examples
    # The file is sorted by country, so the first examples would cover few countries.
    return [examples[(int(i * len(examples) / count) + seed) % len(examples)] for i in range(count)]


def _n_context() -> int:
    gin_parse.parse(['runs/few_shot.gin'], complete=False)
    return gin_parse.value_of('N_CONTEXT')


def _build_index(work: pathlib.Path, data: demo_data.DemoData) -> api.Index:
    atlas = api.ModelSource(reader_dir=str(data.reader),
                            retriever_dir=str(data.retriever)).load(api.Atlas)
    # The untrained model gets queries in the format of training.
    gin_parse.parse(['runs/formats.gin'])
    atlas = dataclasses.replace(
        atlas, config=dataclasses.replace(atlas.config, inputs=gin_parse.value_of('INPUTS')))
    index_dir = work / 'index'
    store = passage_store(work / 'store', data.documents, atlas)
    if index_manifest.exists(index_dir):  # a killed build has no manifest yet
        index = api.Index.open(index_dir)
        index.check(atlas)
        return index
    return api.Index.build(store, atlas, index_dir)


def passage_store(folder: pathlib.Path, documents: pathlib.Path,
                  atlas: api.Atlas | None) -> api.PassageStore:
    """Opens the store, or builds it if it is missing or unfinished."""
    if store_version.exists(Folder(folder)):
        return api.PassageStore.open(folder)
    return api.PassageStore.build(documents, folder, atlas=atlas)


def _train(run_dir: pathlib.Path, data: demo_data.DemoData, index_dir: pathlib.Path | None,
           seed: int, steps: int | None) -> train.TrainResult:
    """Runs `atlas-jax train --gin_file runs/few_shot.gin` with these macros."""
    macros: dict[str, Any] = {
        'RUN_DIR': str(run_dir), 'TRAIN_FILE': str(data.train),
        'INDEX_DIR': None if index_dir is None else str(index_dir), 'READER_DIR': str(data.reader),
        'RETRIEVER_DIR': str(data.retriever), 'train.RunConfig.seed': seed}
    if index_dir is None:  # closed book
        macros['N_CONTEXT'] = 0
    if steps is not None:
        macros['TOTAL_STEPS'] = steps
    gin_parse.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
    return train.train(**gin_parse.arguments_of(train.train))


def _older_edition(packages_dir: str | None) -> pathlib.Path | None:
    """Returns the package of the 2014 edition; None if neither its file nor npm is available."""
    path = packages.find(packages.FACTBOOK_2014, download_dir=packages_dir)
    # A given folder means that nothing may be downloaded.
    if path is None and packages_dir is None and shutil.which('npm'):
        try:
            return packages.fetch(packages.FACTBOOK_2014)
        except errors.DownloadError as error:
            print(f'{error}; office holders are exchanged in the texts instead')
    return path


def _older_texts(data: demo_data.DemoData, older: pathlib.Path, split: str) -> swaps.EditionSwap:
    """Takes the government sections of the split's countries from the 2014 edition."""
    # All countries, because a choice by hash may differ between the editions.
    edition = factbook.read(older, countries=_EVERY_COUNTRY)
    return swaps.swap_edition(list(documents_lib.read_documents(data.documents)), _questions(data),
                              edition, split)


def _swapped_texts(data: demo_data.DemoData, split: str) -> swaps.EditionSwap:
    """Exchanges the office holders in the texts of the split's countries."""
    changed, swapped = swaps.swap_office_holders(list(documents_lib.read_documents(data.documents)),
                                                 _questions(data), split=split)
    return swaps.EditionSwap(tuple(changed), (), tuple(swapped))


def _edit_index(work: pathlib.Path, edit: swaps.EditionSwap, atlas: api.Atlas) -> api.Index:
    """Copies the index and replaces the edit's documents; only their passages are embedded."""
    edited = work / 'edited'
    # A killed run may have left an unfinished edit.
    shutil.rmtree(edited, ignore_errors=True)
    # Copied together: an index names its store by a relative path.
    for name in ('store', 'index'):
        shutil.copytree(work / name, edited / name)
    opened = api.Index.open(edited / 'index')
    opened.replace(passages_lib.split_passages(edit.documents), atlas)
    # Sections that the older edition lacks would still name the newer holder.
    if edit.removed:
        opened.delete(edit.removed)
    return opened


def _questions(data: demo_data.DemoData) -> list[factbook.FactbookQuestion]:
    rows = [row for path in (data.train, data.dev, data.test) for _, row in jsonl.read(path)]
    return [factbook.FactbookQuestion.of_row(row) for row in rows]


def _examples(questions: Sequence[factbook.FactbookQuestion],
              task: task_lib.Task) -> list[task_lib.TaskExample]:
    made = [task.example(question.row(), number) for number, question in enumerate(questions)]
    return [example for example in made if example is not None]


def _judge(evaluation: evaluate.Evaluation, answers: list[tuple[str, ...]]) -> tuple[float, ...]:
    """Returns the exact match of an evaluation's predictions with other answers."""
    return tuple(float(answer_metrics.exact_match(answer.text, accepted))
                 for answer, accepted in zip(evaluation.answers, answers, strict=False))


def _forget_other_settings(work: pathlib.Path, settings: dict[str, Any]) -> None:
    """Removes the folders of a demo with other settings, so that a table never mixes two runs."""
    path = work / _SETTINGS_FILE
    try:
        before = untrusted.read_json(path) if path.is_file() else {}
    except ValueError:
        before = {}  # a damaged file counts as other settings
    if before == settings:
        return
    before = before if isinstance(before, dict) else {}
    # Store and index depend only on the texts, runs also on seed and steps.
    same_texts = before.get('countries') == settings['countries']
    for name in ('closed_book', 'trained', 'edited', *(() if same_texts else ('store', 'index'))):
        shutil.rmtree(work / name, ignore_errors=True)
    atomic.write_json(path, settings)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
