"""The paper's experiments: for each gin file, the published files it needs, the choice of training
examples, and the paper's figures.
"""

import dataclasses
import types
from collections.abc import Mapping

from atlas_jax import errors
from atlas_jax.apps.gin_files import names as gin_names

SIZES = ('base', 'large', 'xl', 'xxl')
UNSAID = ''  # the size of a figure for which the paper states no size
YEARS = ('2017', '2020')


@dataclasses.dataclass(frozen=True)
class Published:
    """A file that a user downloads.

    Attributes:
      name: The publisher's name for it. * matches several files; | separates the names in two
        publications.
      output: The output that the conversion writes from it; '' if it is read together with others.
      optional: The run can do without it.
    """

    name: str
    output: str = ''
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """A few training examples: `count` of them, or `count` for each value of the field `per`."""

    count: int
    per: str = ''


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure to compare with the paper.

    Attributes:
      metric: The metric, as evaluation/figures.py names it.
      paper: The paper's figure by size of the reader, in per cent; empty if it gives none.
      what: The questions and model, if a run has several.
      results: The results file; '' takes all files together.
      index: The name of the index that was searched; '' takes all.
      label: (name, value) that selects the questions; None takes all.
      remark: A difference from the paper that a reader must know.
    """

    metric: str
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    what: str = ''
    results: str = ''
    index: str = ''
    label: tuple[str, str] | None = None
    remark: str = ''


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one gin file of the paper becomes a row of its tables.

    Attributes:
      source: The command of `atlas-jax data`; '' trains on the passages of the index.
      files: The publisher's files.
      train: The output of the conversion to train on; '' does not train.
      dev, test: Outputs to evaluate on; the first one that the given files make is used.
      choice: The choice of training examples; None takes all.
      kind: 'one' trains one model, 'subjects' one for each subject, 'years' one for each year,
        evaluated with the indexes of both years.
      figures: The figures to compare.
      steps: Training steps by size, if they differ from the gin file's.
      options: Options of the source.
      remark: How the row differs from the paper's.
      without_lists: How it differs if the optional lists of a split's examples are not given.
    """

    source: str
    files: tuple[Published, ...]
    test: tuple[str, ...]
    train: str = ''
    dev: tuple[str, ...] = ()
    choice: Choice | None = None
    kind: str = 'one'
    figures: tuple[Figure, ...] = ()
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remark: str = ''
    without_lists: str = ''


_LISTS = ('without NQ.*.idx.json all published training questions are trained on, and FiD\'s dev '
          'questions are among them')
_NQ_FILES = (Published('NQ-open.train.jsonl', 'train'), Published('NQ-open.dev.jsonl', 'dev'),
             *(Published(f'NQ.{split}.idx.json', split, True)
               for split in ('train', 'dev', 'test')))
_TRIVIA_FILES = (Published('unfiltered-web-train.json'), Published('unfiltered-web-dev.json'),
                 *(Published(f'TQA.{split}.idx.json', split) for split in ('train', 'dev', 'test')))
_FEVER_FILES = (Published('train.jsonl', 'train'), Published('paper_test.jsonl', 'test'),
                Published('paper_dev.jsonl', 'dev', True))
_MMLU_TEST = (Published('*_test.csv|test-*.parquet', 'test'),
              Published('*_val.csv|validation-*.parquet', 'val', True))
_MMLU_DEV = Published('*_dev.csv|dev-*.parquet', 'dev')
_MMLU_AUXILIARY = Published('auxiliary_train/*.csv|auxiliary_train-*.parquet', 'full')
# Base and large take twice as many steps as xl and xxl (see the headers of the gin files).
_FULL = {'base': 10_000, 'large': 10_000}
_FEVER_TEST = ('tested on paper_test.jsonl, because the labels of the server\'s test set are not '
               'published')
_ABLATION = ('the paper\'s figure is an average over its small-scale tasks; ours is only '
             'NaturalQuestions')
_KILT = 'tested on the dev questions: only KILT\'s server has the answers to the test questions'
_FEW = Choice(64)  # as in the names of the runs


def _nq(*figures: Figure, choice: Choice | None = None) -> Recipe:
    # NQ-open's dev questions are the test questions of the papers and of FiD's lists.
    return Recipe('nq_open', _NQ_FILES, ('test', 'dev'), 'train', ('dev', ), choice,
                  figures=figures, steps={} if choice else _FULL, without_lists=_LISTS)


def _trivia(*figures: Figure, choice: Choice | None = None) -> Recipe:
    return Recipe('triviaqa', _TRIVIA_FILES, ('test', ), 'train', ('dev', ), choice,
                  figures=figures, steps={} if choice else _FULL)


def _fever(figure: Figure, choice: Choice | None = None) -> Recipe:
    return Recipe('fever', _FEVER_FILES, ('test', ), 'train', ('dev', ), choice, figures=(figure, ),
                  steps={} if choice else _FULL, remark=_FEVER_TEST)


def _kilt(task: str, metric: str, more: tuple[Published, ...] = ()) -> Recipe:
    files = [Published(f'{task}-{split}{"_id" if more else ""}-kilt.jsonl', f'{task}-{split}')
             for split in ('train', 'dev')]
    figures = tuple(map(Figure, (metric, f'kilt_{metric}', 'r_precision', 'page_recall_at_5')))
    return Recipe('kilt', (*files, *more), (f'{task}-dev', ), f'{task}-train', figures=figures,
                  steps=_FULL, remark=_KILT)


def _mmlu(train: str, paper: float, *more: Figure, kind: str = 'one',
          files: tuple[Published, ...] = (), options: Mapping[str, str] | None = None) -> Recipe:
    # The paper reports the average over cyclic orders of the options; the raw accuracy of one order
    # is smaller.
    figures = (Figure('debiased_accuracy', {'xxl': paper}), *(more or (Figure('accuracy'), )))
    dev = 'full_valid' if train == 'full' else 'val'
    return Recipe('mmlu', (*files, *_MMLU_TEST), ('test', ), train, (dev, ), kind=kind,
                  figures=figures, options=options or {})


def _ablation(figure: float | None = None) -> Recipe:
    paper = {} if figure is None else {UNSAID: figure}
    return _nq(Figure('exact_match', paper, remark=_ABLATION), choice=_FEW)


def _pretraining() -> Recipe:
    return Recipe('', (), ('held_back',), 'passages', figures=(Figure('perplexity'), Figure('f1')),
                  remark='trained on the passages of the index; 1,000 of them, or a tenth, are '
                         'held back for the perplexity')


_TEMPLAMA = tuple(
    Figure('exact_match', {UNSAID: paper}, f'questions of 2020, index of 2020, trained on {year}',
           f'trained_{year}', '2020', ('year', '2020'))
    for year, paper in (('2020', 57.7), ('2017', 53.1)))
_CLOSED = Figure('exact_match', {UNSAID: 1.5}, 'questions of 2020, closed book', 'closed_book', '',
                 ('year', '2020'))

RECIPES: Mapping[str, Recipe] = types.MappingProxyType({
    'nq_64_shot': _nq(
        Figure('exact_match', {'base': 27.0, 'large': 35.4, 'xl': 41.3, 'xxl': 45.1},
               remark='with Wikipedia of December 2018; xxl has 42.4 with the index of 2021'),
        choice=_FEW),
    'nq_full': _nq(
        Figure('exact_match', {'base': 54.1, 'large': 60.8, 'xl': 63.4, 'xxl': 64.0},
               remark='with Wikipedia of December 2018')),
    'nq_zero_shot': Recipe('nq_open', (Published('NQ-open.dev.jsonl', 'dev'), ), ('dev', ),
                           figures=(Figure('exact_match'), )),
    'triviaqa_64_shot': _trivia(
        Figure('exact_match', {'base': 55.3, 'large': 65.0, 'xl': 70.2, 'xxl': 71.4}), choice=_FEW),
    'triviaqa_full': _trivia(Figure('exact_match')),
    'triviaqa_zero_shot': Recipe(
        'triviaqa', (Published('unfiltered-web-dev.json'), Published('TQA.test.idx.json', 'test')),
        ('test', ), figures=(Figure('exact_match'), )),
    'fever_15_shot': _fever(Figure('accuracy', {'xxl': 56.2}, remark='5 claims of each label'),
                            Choice(5, 'label')),
    'fever_64_shot': _fever(Figure('accuracy', {'xxl': 64.3}), _FEW),
    'fever_full': _fever(
        Figure('accuracy', {'xxl': 78.0},
               remark='xxl has 80.1 with an index of FEVER\'s Wikipedia')),
    'kilt_aida': _kilt('aidayago2', 'accuracy'),
    'kilt_fever': _kilt('fever', 'accuracy'),
    'kilt_hotpotqa': _kilt('hotpotqa', 'exact_match'),
    'kilt_nq': _kilt('nq', 'exact_match'),
    'kilt_trex': _kilt('trex', 'accuracy'),
    'kilt_triviaqa': _kilt(
        'triviaqa', 'exact_match',
        (Published('wikipedia-train.json'), Published('wikipedia-dev.json'),
         Published('wikipedia-test-without-answers.json', '', True))),
    'kilt_wow': _kilt('wow', 'f1'),
    'kilt_zsre': _kilt('structured_zeroshot', 'accuracy'),
    'mmlu_zero_shot': _mmlu('', 47.1, Figure('accuracy', {'xxl': 36.9})),
    'mmlu_5_shot': _mmlu('dev', 47.9, kind='subjects', files=(_MMLU_DEV, )),
    'mmlu_multi_task': _mmlu('dev', 56.6, files=(_MMLU_DEV, )),
    'mmlu_full': _mmlu('full', 66.0, files=(_MMLU_DEV, _MMLU_AUXILIARY),
                       options={'held_back': '5000'}),
    'templama': Recipe(
        'templama', (Published('train.json', 'train'), Published('test.json', 'test'),
                     Published('val.json', 'dev', True)),
        ('test', ), 'train', ('dev', ), kind='years', figures=(*_TEMPLAMA, _CLOSED)),
    'ablation_pdist': _ablation(45.7),
    'ablation_adist': _ablation(),
    'ablation_emdr': _ablation(),
    'ablation_loop': _ablation(),
    'ablation_fixed': _ablation(42.2),
    'pretrain_mlm': _pretraining(),
    'pretrain_lm': _pretraining(),
    'pretrain_section': _pretraining()})

# Gin files that are not experiments: what each does, and what to run instead.
OTHERS: Mapping[str, str] = types.MappingProxyType({
    'build_index': 'embeds passages for an index; run `atlas-jax index build --gin_file '
                   'runs/build_index.gin`',
    'contrastive': 'trains a retriever alone, without labels; run `atlas-jax train --gin_file '
                   'runs/contrastive.gin`',
    'contrastive_finetune': 'trains a retriever alone, on questions; run `atlas-jax train '
                            '--gin_file runs/contrastive_finetune.gin`',
    'evaluate': 'evaluates any model on any file; run `atlas-jax evaluate --gin_file '
                'runs/evaluate.gin`',
    'few_shot': 'trains the demo\'s models on examples of your own; run `atlas-jax train '
                '--gin_file runs/few_shot.gin`',
    'formats': 'holds the formats of the demo\'s models, for other gin files to include',
    'lm_adapt': 'continues to train a T5 on texts, without passages; run `atlas-jax train '
                '--gin_file runs/lm_adapt.gin`',
    'paper': 'holds the settings that the paper\'s runs share, for other gin files to include',
    'plan': 'plans memory and time on a TPU; run `atlas-jax plan --gin_file runs/plan.gin`',
    'pretrain_closed_book': 'pre-trains a reader without passages; run `atlas-jax train '
                            '--gin_file runs/pretrain_closed_book.gin`',
    'search': 'sets how passages are searched, for other gin files to include',
    'tasks': 'names every task with its options, for other gin files to include',
})


def name_of(run: str) -> str:
    """Returns the name of a run, given as its name or as its gin file, runs/NAME.gin."""
    return run.removeprefix('runs/').removesuffix('.gin')


def recipe_of(run: str) -> Recipe:
    """Returns the recipe of an experiment, by the name of its gin file.

    Raises ConfigError: the gin file is not an experiment, or does not exist.
    """
    name = name_of(run)
    if name in OTHERS:
        raise errors.ConfigError(f'runs/{name}.gin is not an experiment of the paper: it '
                                 f'{OTHERS[name]}')
    if name not in RECIPES:
        near = gin_names.did_you_mean(name, RECIPES) or f'; known are: {", ".join(RECIPES)}'
        raise errors.ConfigError(f'no experiment "{run}"{near}')
    return RECIPES[name]
