"""The demo: retrieval against closed book, joint training from 64 examples, and an index whose knowledge is edited.

Models and text are real. Every part runs the same functions and gin files as the separate commands of README.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_jax import api, errors, evaluate, train
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.corpus import store_version
from atlas_jax.decoding import DecodingConfig
from atlas_jax.demo import data as demo_data
from atlas_jax.demo import factbook, packages, swaps
from atlas_jax.demo import report as demo_report
from atlas_jax.gin_files import parse as gin_parse
from atlas_jax.index import index_manifest
from atlas_jax.io import atomic, jsonl, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.tasks import task as task_lib

_SETTINGS_FILE = 'settings.json'
_BATCH_SIZE = 16
# The small reader misspells names, and takes some from the worse passage, where the beam beside it is right: .750 to .795 on 200 questions
# of dev.
_DECODING = DecodingConfig(num_beams=2, quote=True)
_EVERY_COUNTRY = 1000  # more than there are


def demo(work_dir: str, packages_dir: str | None = None, countries: int = 60, questions: int | None = 96, seed: int = 0,
         steps: int | None = None, report_file: str | None = None, split: str = 'test') -> dict[str, Any]:
    """Runs the whole demo and prints its table; a run that was killed goes on where it stopped.

    Args:
      work_dir: folder for everything it writes.
      packages_dir: folder with the downloaded packages; None fetches them with pip.
      countries: countries of the Factbook.
      questions: test questions, and at most half as many about what was edited; None takes all.
      seed: seeds training and the choice of questions.
      steps: training steps; None takes the number in runs/few_shot.gin.
      report_file: HTML page; None writes report.html into work_dir.
      split: the split that is asked: test, or dev to choose hyper-parameters on.

    Returns:
      The figures, as JSON values.

    Raises:
      UserError: a package cannot be had, or a setting is wrong.
    """
    work = pathlib.Path(work_dir)
    seconds: dict[str, float] = {}
    # Before anything is written: what stays is what this run would make again.
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


def _evaluate_all(work: pathlib.Path, data: demo_data.DemoData, index: api.Index, seconds: dict[str, float], questions: int | None,
                  seed: int, steps: int | None, split: str, older: pathlib.Path | None) -> demo_report.Findings:
    examples_file = getattr(data, split)
    with _timed(seconds, 'closed book: training'):
        closed_book = _train(work / 'closed_book', data, None, seed, steps)
    # The same questions for every setting, so that differences are paired.
    examples = sample(task_lib.read_examples(examples_file, closed_book.atlas.task), questions, seed)
    with _timed(seconds, 'closed book: answering'):
        closed_answers = _asked(closed_book.atlas, examples, None, label='closed book')
    # The models as they are packaged, with the formats and the task of training.
    with _timed(seconds, 'untrained: answering'):
        untrained = api.ModelSource(None, str(data.reader), str(data.retriever), closed_book.atlas.task,
                                    closed_book.atlas.config.inputs).load(api.Atlas)
        before = _asked(untrained, examples, index, n_context=_n_context(), label='untrained')
    with _timed(seconds, 'joint training'):
        # From the packaged models again, not from the closed-book reader.
        trained = _train(work / 'trained', data, work / 'index', seed, steps)
    with _timed(seconds, 'trained: answering'):
        after = _asked(trained.atlas, examples, index, label='trained')
    with _timed(seconds, 'editing the index'):
        # The older edition is a true one; exchanged names serve where its package cannot be had.
        edit = _older_texts(data, older, split) if older else _swapped_texts(data, split)
        # The trained model's index is edited: the passage encoder is the one that built it.
        edited_index = _edit_index(work, edit, trained.atlas)
        edited_examples = _examples(edit.questions, trained.atlas.task)
        stale = [question.stale_answers for question in edit.questions]
    with _timed(seconds, 'edited: answering'):
        asked = edited_examples[:None if questions is None else -(-questions // 2)]  # each is asked twice
        edited = _asked(trained.atlas, asked, edited_index, label='edited index')
        unedited = _asked(trained.atlas, asked, index, label='index as it was')
    return demo_report.Findings(closed_answers, before, after, edited, _judge(edited, stale), _judge(unedited, stale), examples, asked,
                    {'closed book': closed_book.history, 'joint': trained.history}, len(edit.documents),
                    '2014' if older else 'swapped', seconds, seed)


def _asked(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: api.Index | None, label: str,
           n_context: int | None = None) -> evaluate.Evaluation:
    # All settings decode alike, the closed book too.
    return evaluate.evaluate_examples(atlas, examples, index, n_context=n_context, batch_size=_BATCH_SIZE, decoding=_DECODING, label=label)


def sample(examples: list[task_lib.TaskExample], count: int | None, seed: int) -> list[task_lib.TaskExample]:
    """Returns `count` examples spread evenly over the file, which is sorted by country, shifted by the seed; all if None."""
    if count is None or count >= len(examples):
        return examples
    # Evenly over the file: the first ones would be a few countries.
    return [examples[(int(i * len(examples) / count) + seed) % len(examples)] for i in range(count)]


def _n_context() -> int:
    gin_parse.parse(['runs/few_shot.gin'], complete=False)
    return gin_parse.value_of('N_CONTEXT')


def _build_index(work: pathlib.Path, data: demo_data.DemoData) -> api.Index:
    atlas = api.ModelSource(reader_dir=str(data.reader), retriever_dir=str(data.retriever)).load(api.Atlas)
    # The formats of training: queries of the untrained model are put the same way.
    gin_parse.parse(['runs/formats.gin'])
    atlas = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, inputs=gin_parse.value_of('INPUTS')))
    index_dir = work / 'index'
    store = passage_store(work / 'store', data.documents, atlas)
    if index_manifest.exists(index_dir):  # a killed build has no manifest yet
        index = api.Index.open(index_dir)
        index.check(atlas)
        return index
    return api.Index.build(store, atlas, index_dir)


def passage_store(folder: pathlib.Path, documents: pathlib.Path, atlas: api.Atlas | None) -> api.PassageStore:
    """Opens the store, or makes it where there is none or a killed run left an unfinished one."""
    if store_version.exists(Folder(folder)):
        return api.PassageStore.open(folder)
    return api.PassageStore.build(documents, folder, atlas=atlas)


def _train(run_dir: pathlib.Path, data: demo_data.DemoData, index_dir: pathlib.Path | None, seed: int,
           steps: int | None) -> train.TrainResult:
    """Runs `atlas-jax train --gin_file runs/few_shot.gin` with these macros."""
    macros: dict[str, Any] = {
        'RUN_DIR': str(run_dir), 'TRAIN_FILE': str(data.train), 'INDEX_DIR': None if index_dir is None else str(index_dir),
        'READER_DIR': str(data.reader), 'RETRIEVER_DIR': str(data.retriever), 'train.RunConfig.seed': seed}
    # A closed book reads no passage.
    if index_dir is None:
        macros['N_CONTEXT'] = 0
    if steps is not None:
        macros['TOTAL_STEPS'] = steps
    gin_parse.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
    return train.train(**gin_parse.arguments_of(train.train))


def _older_edition(packages_dir: str | None) -> pathlib.Path | None:
    """Returns the package of the 2014 edition if its file or npm is at hand, else None."""
    path = packages.find(packages.FACTBOOK_2014, download_dir=packages_dir)
    # A given folder means that nothing is to be downloaded.
    if path is None and packages_dir is None and shutil.which('npm'):
        try:
            return packages.fetch(packages.FACTBOOK_2014)
        except errors.DownloadError as error:
            print(f'{error}; office holders are exchanged in the texts instead')
    return path


def _older_texts(data: demo_data.DemoData, older: pathlib.Path, split: str) -> swaps.EditionSwap:
    """Takes the 2014 edition's government sections of the split's countries."""
    # All countries: the older edition's hash may choose others than the newer one's.
    edition = factbook.read(older, countries=_EVERY_COUNTRY)
    return swaps.swap_edition(list(documents_lib.read_documents(data.documents)), _questions(data), edition, split)


def _swapped_texts(data: demo_data.DemoData, split: str) -> swaps.EditionSwap:
    """Exchanges the office holders in the texts of the split's countries."""
    changed, swapped = swaps.swap_office_holders(list(documents_lib.read_documents(data.documents)), _questions(data), split=split)
    return swaps.EditionSwap(tuple(changed), (), tuple(swapped))


def _edit_index(work: pathlib.Path, edit: swaps.EditionSwap, atlas: api.Atlas) -> api.Index:
    """Copies the index and replaces the edit's documents; only their passages are embedded."""
    edited = work / 'edited'
    # A killed edit leaves half of one.
    shutil.rmtree(edited, ignore_errors=True)
    # Store and index together: an index names its store by a relative path.
    for name in ('store', 'index'):
        shutil.copytree(work / name, edited / name)
    opened = api.Index.open(edited / 'index')
    opened.replace(passages_lib.split_passages(edit.documents), atlas)
    # Sections that the older edition lacks would still answer with the newer holder.
    if edit.removed:
        opened.delete(edit.removed)
    return opened


def _questions(data: demo_data.DemoData) -> list[factbook.Question]:
    rows = [row for path in (data.train, data.dev, data.test) for _, row in jsonl.read(path)]
    return [factbook.Question.of_row(row) for row in rows]


def _examples(questions: Sequence[factbook.Question], task: task_lib.Task) -> list[task_lib.TaskExample]:
    made = [task.example(question.row(), number) for number, question in enumerate(questions)]
    return [example for example in made if example is not None]


def _judge(evaluation: evaluate.Evaluation, answers: list[tuple[str, ...]]) -> tuple[float, ...]:
    """Returns the exact match of the same predictions with other answers."""
    # No question is answered again: the same texts are held to other answers.
    return tuple(float(answer_metrics.exact_match(answer.text, accepted))
                 for answer, accepted in zip(evaluation.answers, answers, strict=False))


def _forget_other_settings(work: pathlib.Path, settings: dict[str, Any]) -> None:
    """Clears the folders that a demo with other settings left, so that a table never mixes two runs."""
    path = work / _SETTINGS_FILE
    try:
        before = untrusted.read_json(path) if path.is_file() else {}
    except ValueError:
        before = {}  # damaged: as other settings
    if before == settings:
        return
    before = before if isinstance(before, dict) else {}
    # Store and index depend on the texts alone, runs on seed and steps too.
    same_texts = before.get('countries') == settings['countries']
    for name in ('closed_book', 'trained', 'edited', *(() if same_texts else ('store', 'index'))):
        shutil.rmtree(work / name, ignore_errors=True)
    atomic.write_json(path, settings)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
