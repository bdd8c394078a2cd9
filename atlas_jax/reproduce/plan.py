"""The steps of a run: each is a command of `atlas-jax` with the files that it reads and writes."""

import dataclasses
import functools
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.datasets.examples import mmlu
from atlas_jax.gin_files import preview
from atlas_jax.index import index_manifest
from atlas_jax.io import untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.knowledge import passage_files
from atlas_jax.reproduce import inputs, recipes

EVALUATE = 'runs/evaluate.gin'  # for trained models, which know their own task and formats
_PASSAGES = 'passages'
# Macros that this command sets itself.
_OWN = {'RUN_DIR': '--out', 'TRAIN_FILE': '--from', 'EXAMPLES_FILE': '--from', 'RESULTS_FILE': '--out', 'INDEX_DIR': '--index',
        'MODEL_DIR': '--model', 'READER_DIR': '--reader', 'RETRIEVER_DIR': '--retriever', 'SEED': '--seed', 'EXAMPLES': '--questions'}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the command.

    Attributes:
      run: name of the gin file, such as nq_64_shot.
      files: published files, folders and patterns.
      out: folder of everything that is made.
      model: the folders that gin files call MODEL_DIR, READER_DIR and RETRIEVER_DIR; those that are not given are None.
      indexes: index folders by name; '' names a single one.
      size: of the reader, for the number of updates and the paper's figure.
      seed: of the choice of examples and of training.
      ids: a list of the training examples, in place of the seed's.
      split: 'test' or 'dev'.
      questions: the first so many are evaluated; None takes all.
      batch_size: in training and evaluation; None leaves both as their gin files have them.
      bindings: NAME=value of gin.
    """

    run: str
    files: tuple[str, ...]
    out: pathlib.Path
    model: Mapping[str, str | None]
    indexes: Mapping[str, str]
    size: str | None = None
    seed: int = 0
    ids: str | None = None
    split: str = 'test'
    questions: int | None = None
    batch_size: int | None = None
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """A command, with the paths that it reads from earlier steps and those that it writes.

    Attributes:
      name: tells the steps of a run apart.
      command: arguments of `atlas-jax`.
      writes: files, or folders with a manifest; the step is done while they are as it left them.
      gin: the gin files that it reads, to be checked before the first step.
    """

    name: str
    command: tuple[str, ...]
    writes: tuple[pathlib.Path, ...]
    gin: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(['atlas-jax', *self.command])


@functools.cache
def _preview(gin: str) -> preview.Preview:
    # Read once: a run of 57 subjects asks for the same file hundreds of times.
    return preview.read([gin], complete=False)


class Plan:
    """The steps of one run, for the settings given."""

    def __init__(self, settings: Settings):
        """Looks at names, files and bindings.

        Raises:
          ConfigError: no such run, indexes or options that it does not take, or a binding that no step knows.
          InputFileError: a published file is missing.
        """
        self.settings, self.recipe = settings, recipes.recipe_of(settings.run)
        self.found = inputs.find(settings.run, self.recipe, settings.files)
        self._data = settings.out / 'data'
        self._check_options()
        outputs = inputs.outputs_of(self.found) or {'held_back'}
        self.split = self._split(self.recipe.test if settings.split == 'test' else self.recipe.dev, outputs)

    @property
    def steps(self) -> list[Step]:
        """All steps in order. Subjects are those of the converted data where it is there, else those that the files' names say."""
        kinds = {'one': self._one, 'subjects': self._subjects, 'years': self._years}
        return [self._convert(), *kinds[self.recipe.kind]()]

    @property
    def results(self) -> pathlib.Path:
        """The folder of the results files."""
        return self.settings.out / 'results'

    def _check_options(self) -> None:
        settings, recipe = self.settings, self.recipe
        # An option without effect would be taken for one that had some.
        if settings.ids and recipe.choice is None:
            raise errors.ConfigError(f'--ids: {settings.run} trains on {"all examples" if recipe.train else "no example"}; leave it out')
        # The years' models are asked with both indexes, so both need their names.
        names = recipes.YEARS if recipe.kind == 'years' else ('',)
        if set(settings.indexes) != set(names):
            wanted = ' '.join(f'--index {name}=DIR' for name in names) if any(names) else 'one --index DIR'
            found = ', '.join(name or 'one without a name' for name in settings.indexes)
            raise errors.ConfigError(f'{settings.run} takes {wanted}; found {found}')
        for binding in settings.bindings:
            if (name := binding.partition('=')[0]) in _OWN:
                raise errors.ConfigError(f'--gin.{binding}: this command sets {name} itself; use {_OWN[name]}')

    def _split(self, wanted: Sequence[str], outputs: set[str]) -> str:
        for output in wanted:
            # The dev questions of NQ-open are tested on where no list makes a test split, and are then no dev questions.
            if output in outputs and not (self.settings.split == 'dev' and output == next((each for each in self.recipe.test
                                                                                          if each in outputs), None)):
                return output
            if output in ('held_back', 'full_valid'):  # made of other files
                return output
        optional = [each.name for each in self.recipe.files if each.output in wanted and each.optional]
        more = f'; give {" and ".join(optional)}, too' if optional else '; leave --split out'
        raise errors.ConfigError(f'{self.settings.run} has no {self.settings.split} questions in the files given{more}')

    def _convert(self) -> Step:
        settings, recipe = self.settings, self.recipe
        if not recipe.source:
            [index] = settings.indexes.values()
            folder = self._data / _PASSAGES
            command = ('index', 'passages', '--index', index, '--to', str(folder), '--seed', str(settings.seed))
            return Step('data', command, (folder / passage_files.TRAIN_FILE, folder / passage_files.HELD_BACK_FILE))
        files = [str(file) for published in recipe.files for file in self.found.get(published, ())]
        options = [part for name, value in recipe.options.items() for part in (f'--{name}', value)]
        folder = untrusted.inside(self._data, recipe.source)
        return Step('data', ('data', recipe.source, '--from', *files, '--to', str(folder), *options), (folder / 'manifest.json',))

    def _file(self, output: str) -> pathlib.Path:
        return untrusted.inside(self._data / (self.recipe.source or _PASSAGES), f'{output}.jsonl')

    def _one(self) -> list[Step]:
        [index] = self.settings.indexes.values()
        # Zero-shot gin files evaluate: they have the task and the formats that no training has fixed.
        if not self.recipe.train:
            return [self._evaluate('test', f'runs/{self.settings.run}.gin', self._model(), index, [self._file(self.split)])]
        chosen = self._choose()
        steps = [*chosen, self._train('train', self.settings.out / 'run', chosen[-1].writes[0] if chosen else self._file(self.recipe.train),
                                      index)]
        return [*steps, *self._evaluate_trained('test', self.settings.out / 'run', index, [self._file(self.split)])]

    def _choose(self) -> list[Step]:
        """Returns the step that chooses the training examples, if any are to be chosen."""
        choice, target = self.recipe.choice, self._data / 'chosen.jsonl'
        if choice is None:
            return []
        how = ['--ids', self.settings.ids] if self.settings.ids else ['--n', str(choice.count), '--seed', str(self.settings.seed)]
        if choice.per and not self.settings.ids:
            how += ['--per', choice.per]
        command = ('data', 'few_shot', '--from', str(self._file(self.recipe.train)), '--to', str(target), *how)
        return [Step('choice', command, (target,))]

    def _subjects(self) -> list[Step]:
        steps, [index] = [], self.settings.indexes.values()
        for subject in self.subjects():
            run = untrusted.inside(self.settings.out / 'run', subject)
            steps += [self._train(f'train {subject}', run, self._file(f'{self.recipe.train}.{subject}'), index),
                      *self._evaluate_trained(subject, run, index, [self._file(f'{self.split}.{subject}')])]
        return steps

    def subjects(self) -> list[str]:
        """Returns the subjects of MMLU that have questions to train on and to answer."""
        folder = untrusted.inside(self._data, self.recipe.source)
        # Files that were refused have no manifest; what a conversion has finished says more than names of files.
        if (folder / 'manifest.json').is_file():
            names = [{file.name.split('.')[1] for file in folder.glob(f'{split}.*.jsonl')} for split in (self.recipe.train, self.split)]
        else:
            # csv files have their subject in their names, parquet files all of them inside.
            files = [file for found in self.found.values() for file in found]
            csv = {file.name.partition('.')[0].rpartition('_')[0] for file in files if '.csv' in file.name}
            names = [csv or set(mmlu.GROUP_OF)]
        # Names from files: of these, known ones alone become folders.
        return [subject for subject in mmlu.GROUP_OF if all(subject in each for each in names)]

    def _years(self) -> list[Step]:
        steps, indexes = [], self.settings.indexes
        if self._moves_passages:
            raise errors.ConfigError(f'{self.settings.run} exchanges indexes, so its training must leave the passages\' encoder as it is; '
                                     'set RETRIEVER_TRAINING to "query_side" or "frozen"')
        # The later year first: the paper reports it, and --questions may leave out the other.
        asked = [self._file(f'{self.split}.{year}') for year in reversed(recipes.YEARS)]
        for year in recipes.YEARS:
            run = untrusted.inside(self.settings.out / 'run', f'trained_{year}')
            steps += [self._train(f'train {year}', run, self._file(f'{self.recipe.train}.{year}'), indexes[year]),
                      *self._evaluate_trained(f'trained_{year}', run, indexes, asked)]
        # Closed book: the same reader without passages, on the questions of the later year.
        run = self.settings.out / 'run' / 'closed_book'
        closed = ['N_CONTEXT=0', 'RETRIEVER_TRAINING="frozen"']
        return [*steps, self._train('train closed book', run, self._file(f'{self.recipe.train}.{recipes.YEARS[-1]}'), None, closed),
                self._evaluate('closed_book', EVALUATE, {'MODEL_DIR': str(run)}, None, asked, ['N_CONTEXT=0'])]

    def _model(self) -> dict[str, str | None]:
        # Those that are None, too: gin files set READER_DIR or MODEL_DIR as REQUIRED.
        return dict(self.settings.model)

    def _train(self, name: str, run: pathlib.Path, file: pathlib.Path, index: str | None, more: Sequence[str] = ()) -> Step:
        settings, gin = self.settings, f'runs/{self.settings.run}.gin'
        values: dict[str, Any] = {'RUN_DIR': str(run), 'TRAIN_FILE': str(file), 'INDEX_DIR': index, **self._model(), 'SEED': settings.seed}
        # Before the user's own bindings, which win.
        if (total_steps := self.recipe.steps.get(settings.size or '')) is not None:
            values['TOTAL_STEPS'] = total_steps
        command = ('train', '--gin_file', gin, *self._bindings(gin, values), *(f'--gin.{each}' for each in more))
        return Step(name, command, (run / 'record.json', run / 'checkpoints'), (gin,))

    def _evaluate_trained(self, name: str, run: pathlib.Path, index: str | Mapping[str, str], files: Sequence[pathlib.Path]) -> list[Step]:
        steps = []
        if isinstance(index, str) and self._moves_passages:
            # The passages are embedded otherwise now, and the index on the disk is the old encoder's.
            folder, manifest = Folder(index), index_manifest.read(Folder(index))
            target = untrusted.inside(self.settings.out / 'index', name)
            command = ('index', 'build', '--store', str(index_manifest.store_path(folder, manifest)), '--out', str(target), '--model',
                       str(run), '--dtype', manifest.dtype)
            steps, index = [Step(f'index {name}', command, (target / 'manifest.json',))], str(target)
        return [*steps, self._evaluate(name, EVALUATE, {'MODEL_DIR': str(run)}, index, files)]

    @functools.cached_property
    def _moves_passages(self) -> bool:
        """Returns whether the training of this run changes how passages are embedded."""
        gin = f'runs/{self.settings.run}.gin'
        values = preview.read([gin], self._known(gin), complete=False).values_of('DistillConfig')
        return values.get('retriever_training', 'joint') not in ('query_side', 'frozen')

    def _evaluate(self, name: str, gin: str, model: Mapping[str, str | None], index: str | Mapping[str, str] | None,
                  files: Sequence[pathlib.Path], more: Sequence[str] = ()) -> Step:
        results = untrusted.inside(self.results, f'{name}.jsonl')
        asked = str(files[0]) if len(files) == 1 else [str(file) for file in files]
        values: dict[str, Any] = {**model, 'INDEX_DIR': dict(index) if isinstance(index, Mapping) else index, 'EXAMPLES_FILE': asked,
                  'RESULTS_FILE': str(results)}
        if self.settings.questions is not None:
            values['EXAMPLES'] = self.settings.questions
        command = ('evaluate', '--gin_file', gin, *self._bindings(gin, values), *(f'--gin.{each}' for each in more))
        return Step(f'evaluate {name}', command, (results,), (gin,))

    def _bindings(self, gin: str, values: Mapping[str, object]) -> list[str]:
        # JSON's double quotes need no escape inside a shell's single ones.
        given = [f'{name}={"None" if value is None else json.dumps(value, ensure_ascii=False)}' for name, value in values.items()]
        if self.settings.batch_size is not None:
            given.append(f'BATCH_SIZE={self.settings.batch_size}')
        # Those of the user win.
        return [f'--gin.{binding}' for binding in (*given, *self._known(gin))]

    def _known(self, gin: str) -> list[str]:
        """Returns the user's bindings that a gin file knows: some are of training alone, some of evaluation."""
        known = _preview(gin)
        return [binding for binding in self.settings.bindings if known.knows(binding)]

    def check_bindings(self) -> None:
        """Raises ConfigError: a binding that no step knows, or that is no binding."""
        gin_files = list(dict.fromkeys(gin for step in self.steps for gin in step.gin))
        known = list(map(_preview, gin_files))
        for binding in self.settings.bindings:
            if not any(each.knows(binding) for each in known):
                raise errors.ConfigError(f'--gin.{binding}: no step of {self.settings.run} reads it ({", ".join(gin_files)})')
