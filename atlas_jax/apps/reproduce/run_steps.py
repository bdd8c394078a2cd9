"""The steps of a run. Each is a command of `atlas-jax`, with the files that it reads and writes."""

import dataclasses
import functools
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets.examples import mmlu
from atlas_jax.apps.gin_files import preview
from atlas_jax.apps.reproduce import published_files, recipes
from atlas_jax.index import index_manifest
from atlas_jax.io import untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.knowledge import export_passages

EVALUATE = 'runs/evaluate.gin'  # evaluates trained models, which know their task and formats
_PASSAGES = 'passages'
# Macros that this command sets, and the option that sets them.
_OWN = {
    'RUN_DIR': '--out', 'TRAIN_FILE': '--from', 'EXAMPLES_FILE': '--from', 'RESULTS_FILE': '--out',
    'INDEX_DIR': '--index', 'MODEL_DIR': '--model', 'READER_DIR': '--reader',
    'RETRIEVER_DIR': '--retriever', 'SEED': '--seed', 'EXAMPLES': '--questions'}


@dataclasses.dataclass(frozen=True)
class ReproductionSettings:
    """Options of the command.

    Attributes:
      run: The name of the gin file, such as nq_64_shot.
      files: The published files, folders and patterns.
      out: The folder that everything is written to.
      model: The folders of the macros MODEL_DIR, READER_DIR and RETRIEVER_DIR, or None.
      indexes: Index folders by name; a single index has the name ''.
      size: The size of the reader. It selects the number of updates and the paper's figure.
      seed: Seeds the choice of examples and training.
      ids: A list of the training examples, used instead of the seed.
      split: 'test' or 'dev'.
      questions: The number of questions to evaluate, from the first on; None takes all.
      batch_size: The batch size in training and evaluation; None uses those of the gin files.
      bindings: Gin bindings, NAME=value.
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
class RunStep:
    """A command, with the paths that it reads from earlier steps and those that it writes.

    Attributes:
      name: The name of the step, unique in its run.
      command: The arguments of `atlas-jax`.
      writes: The files and folders it writes. The step is done while they are unchanged.
      gin: The gin files it reads, which are checked before the first step.
    """

    name: str
    command: tuple[str, ...]
    writes: tuple[pathlib.Path, ...]
    gin: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(['atlas-jax', *self.command])


@functools.cache
def _preview(gin: str) -> preview.Preview:
    # Cached: a run of 57 subjects needs the same file hundreds of times.
    return preview.read([gin], complete=False)


class Reproduction:
    """The steps of one run."""

    def __init__(self, settings: ReproductionSettings):
        """Checks names, files and bindings.

        Raises:
          ConfigError: The run is unknown, or does not take an index or option that is given.
          InputFileError: A published file is missing.
        """
        self.settings, self.recipe = settings, recipes.recipe_of(settings.run)
        self.found = published_files.find(settings.run, self.recipe, settings.files)
        self._data = settings.out / 'data'
        self._check_options()
        outputs = published_files.outputs_of(self.found) or {'held_back'}
        self.split = self._split(self.recipe.test if settings.split == 'test' else self.recipe.dev,
                                 outputs)

    @property
    def steps(self) -> list[RunStep]:
        """All steps in order. Subjects come from the converted data, or from the names of the files
        before the data is converted.
        """
        kinds = {'one': self._one, 'subjects': self._subjects, 'years': self._years}
        return [self._convert(), *kinds[self.recipe.kind]()]

    @property
    def results(self) -> pathlib.Path:
        """The folder of the results files."""
        return self.settings.out / 'results'

    def _check_options(self) -> None:
        settings, recipe = self.settings, self.recipe
        # Refused, because a user would believe that the option had an effect.
        if settings.ids and recipe.choice is None:
            examples = 'all examples' if recipe.train else 'no example'
            raise errors.ConfigError(f'--ids: {settings.run} trains on {examples}; leave it out')
        # The models of both years are evaluated with both indexes, so both need their names.
        names = recipes.YEARS if recipe.kind == 'years' else ('',)
        if set(settings.indexes) != set(names):
            wanted = 'one --index DIR'
            if any(names):
                wanted = ' '.join(f'--index {name}=DIR' for name in names)
            found = ', '.join(name or 'one without a name' for name in settings.indexes)
            raise errors.ConfigError(f'{settings.run} takes {wanted}; found {found}')
        for binding in settings.bindings:
            if (name := binding.partition('=')[0]) in _OWN:
                raise errors.ConfigError(f'--gin.{binding}: this command sets {name} itself; use '
                                         f'{_OWN[name]}')

    def _split(self, wanted: Sequence[str], outputs: set[str]) -> str:
        # Without lists, NQ-open's dev questions serve as test questions, and not as dev questions.
        tested = next((output for output in self.recipe.test if output in outputs), None)
        for output in wanted:
            if output in outputs and not (self.settings.split == 'dev' and output == tested):
                return output
            if output in ('held_back', 'full_valid'):  # made from the training data
                return output
        optional = [
            file.name for file in self.recipe.files if file.output in wanted and file.optional]
        more = f'; give {" and ".join(optional)}, too' if optional else '; leave --split out'
        raise errors.ConfigError(f'{self.settings.run} has no {self.settings.split} questions in '
                                 f'the files given{more}')

    def _convert(self) -> RunStep:
        settings, recipe = self.settings, self.recipe
        if not recipe.source:
            [index] = settings.indexes.values()
            folder = self._data / _PASSAGES
            writes = (folder / export_passages.TRAIN_FILE, folder / export_passages.HELD_BACK_FILE)
            return RunStep('data', ('index', 'passages', '--index', index, '--to', str(folder),
                                    '--seed', str(settings.seed)), writes)
        files = [str(file) for published in recipe.files for file in self.found.get(published, ())]
        options = [part for name, value in recipe.options.items() for part in (f'--{name}', value)]
        folder = untrusted.inside(self._data, recipe.source)
        command = ('data', recipe.source, '--from', *files, '--to', str(folder), *options)
        return RunStep('data', command, (folder / 'manifest.json', ))

    def _file(self, output: str) -> pathlib.Path:
        return untrusted.inside(self._data / (self.recipe.source or _PASSAGES), f'{output}.jsonl')

    def _one(self) -> list[RunStep]:
        [index] = self.settings.indexes.values()
        questions = [self._file(self.split)]
        # Zero-shot gin files only evaluate; they state the task and formats, since no training did.
        if not self.recipe.train:
            return [self._evaluate('test', self._gin, self._model(), index, questions)]
        chosen, run = self._choose(), self.settings.out / 'run'
        examples = chosen[-1].writes[0] if chosen else self._file(self.recipe.train)
        return [*chosen, self._train('train', run, examples, index),
                *self._evaluate_trained('test', run, index, questions)]

    def _choose(self) -> list[RunStep]:
        """Returns the step that chooses the training examples, if the run trains on a choice."""
        choice, target = self.recipe.choice, self._data / 'chosen.jsonl'
        if choice is None:
            return []
        how = ['--n', str(choice.count), '--seed', str(self.settings.seed)]
        if choice.per:
            how += ['--per', choice.per]
        if self.settings.ids:
            how = ['--ids', self.settings.ids]
        command = ('data', 'few_shot', '--from', str(self._file(self.recipe.train)),
                   '--to', str(target), *how)
        return [RunStep('choice', command, (target,))]

    def _subjects(self) -> list[RunStep]:
        steps, [index] = [], self.settings.indexes.values()
        for subject in self.subjects():
            run = untrusted.inside(self.settings.out / 'run', subject)
            examples = self._file(f'{self.recipe.train}.{subject}')
            questions = self._file(f'{self.split}.{subject}')
            steps += [self._train(f'train {subject}', run, examples, index),
                      *self._evaluate_trained(subject, run, index, [questions])]
        return steps

    def subjects(self) -> list[str]:
        """Returns the subjects of MMLU that have questions to train on and to answer."""
        folder = untrusted.inside(self._data, self.recipe.source)
        # Only a finished conversion has a manifest; it is more reliable than names of files.
        if (folder / 'manifest.json').is_file():
            names = [{file.name.split('.')[1]
                      for file in folder.glob(f'{split}.*.jsonl')}
                     for split in (self.recipe.train, self.split)]
        else:
            # The name of a csv file has its subject; a parquet file holds all subjects.
            csv = {
                file.name.partition('.')[0].rpartition('_')[0]
                for files in self.found.values() for file in files
                if '.csv' in file.name}
            names = [csv or set(mmlu.GROUP_OF)]
        # Names come from files: only known subjects become folders.
        return [subject for subject in mmlu.GROUP_OF if all(subject in each for each in names)]

    def _years(self) -> list[RunStep]:
        steps, indexes = [], self.settings.indexes
        if self._moves_passages:
            raise errors.ConfigError(f'{self.settings.run} exchanges indexes, so its training '
                                     'must leave the passages\' encoder as it is; set '
                                     'RETRIEVER_TRAINING to "query_side" or "frozen"')
        # The later year first: the paper reports it, and --questions may leave the other out.
        asked = [self._file(f'{self.split}.{year}') for year in reversed(recipes.YEARS)]
        for year in recipes.YEARS:
            run = untrusted.inside(self.settings.out / 'run', f'trained_{year}')
            steps += [
                self._train(f'train {year}', run, self._file(f'{self.recipe.train}.{year}'),
                            indexes[year]),
                *self._evaluate_trained(f'trained_{year}', run, indexes, asked)]
        # Closed book: the same reader, trained on the later year without passages.
        run = self.settings.out / 'run' / 'closed_book'
        closed = ['N_CONTEXT=0', 'RETRIEVER_TRAINING="frozen"']
        return [
            *steps,
            self._train('train closed book', run,
                        self._file(f'{self.recipe.train}.{recipes.YEARS[-1]}'), None, closed),
            self._evaluate('closed_book', EVALUATE, {'MODEL_DIR': str(run)}, None, asked,
                           ['N_CONTEXT=0'])]

    def _model(self) -> dict[str, str | None]:
        # None is passed on, too: gin files declare READER_DIR or MODEL_DIR as REQUIRED.
        return dict(self.settings.model)

    def _train(self, name: str, run: pathlib.Path, file: pathlib.Path, index: str | None,
               more: Sequence[str] = ()) -> RunStep:
        values: dict[str, Any] = {
            'RUN_DIR': str(run), 'TRAIN_FILE': str(file), 'INDEX_DIR': index,
            **self._model(), 'SEED': self.settings.seed}
        if (total_steps := self.recipe.steps.get(self.settings.size or '')) is not None:
            values['TOTAL_STEPS'] = total_steps
        command = ('train', *self._gin_arguments(self._gin, values, more))
        return RunStep(name, command, (run / 'record.json', run / 'checkpoints'), (self._gin,))

    def _evaluate_trained(self, name: str, run: pathlib.Path, index: str | Mapping[str, str],
                          files: Sequence[pathlib.Path]) -> list[RunStep]:
        steps = []
        if isinstance(index, str) and self._moves_passages:
            # Training changed the passage encoder, so the index must be built again.
            manifest = index_manifest.read(Folder(index))
            store = index_manifest.store_path(Folder(index), manifest)
            target = untrusted.inside(self.settings.out / 'index', name)
            command = ('index', 'build', '--store', str(store), '--out', str(target),
                       '--model', str(run), '--dtype', manifest.dtype)
            steps.append(RunStep(f'index {name}', command, (target / 'manifest.json', )))
            index = str(target)
        return [*steps, self._evaluate(name, EVALUATE, {'MODEL_DIR': str(run)}, index, files)]

    @functools.cached_property
    def _moves_passages(self) -> bool:
        """Tells whether the training of this run changes the passage encoder."""
        values = preview.read([self._gin], self._known(self._gin),
                              complete=False).values_of('DistillConfig')
        return values.get('retriever_training', 'joint') not in ('query_side', 'frozen')

    def _evaluate(self, name: str, gin: str, model: Mapping[str, str | None],
                  index: str | Mapping[str, str] | None, files: Sequence[pathlib.Path],
                  more: Sequence[str] = ()) -> RunStep:
        results = untrusted.inside(self.results, f'{name}.jsonl')
        examples = str(files[0]) if len(files) == 1 else [str(file) for file in files]
        values: dict[str, Any] = {
            **model, 'INDEX_DIR': dict(index) if isinstance(index, Mapping) else index,
            'EXAMPLES_FILE': examples, 'RESULTS_FILE': str(results)}
        if self.settings.questions is not None:
            values['EXAMPLES'] = self.settings.questions
        command = ('evaluate', *self._gin_arguments(gin, values, more))
        return RunStep(f'evaluate {name}', command, (results,), (gin,))

    def _gin_arguments(self, gin: str, values: Mapping[str, object],
                       more: Sequence[str]) -> list[str]:
        # Written as JSON: its double quotes need no escape inside a shell's single quotes.
        bindings = [
            f'{name}={"None" if value is None else json.dumps(value, ensure_ascii=False)}'
            for name, value in values.items()]
        if self.settings.batch_size is not None:
            bindings.append(f'BATCH_SIZE={self.settings.batch_size}')
        # The user's bindings follow and win over these; `more` wins over all.
        bindings += [*self._known(gin), *more]
        return ['--gin_file', gin, *(f'--gin.{binding}' for binding in bindings)]

    @property
    def _gin(self) -> str:
        return f'runs/{self.settings.run}.gin'

    def _known(self, gin: str) -> list[str]:
        """Returns the user's bindings that a gin file knows. Some belong only to training, others
        only to evaluation.
        """
        known = _preview(gin)
        return [binding for binding in self.settings.bindings if known.knows(binding)]

    def check_bindings(self) -> None:
        """Raises ConfigError: no step knows a binding, or it is not a binding."""
        gin_files = list(dict.fromkeys(gin for step in self.steps for gin in step.gin))
        known = list(map(_preview, gin_files))
        for binding in self.settings.bindings:
            if not any(file.knows(binding) for file in known):
                raise errors.ConfigError(f'--gin.{binding}: no step of {self.settings.run} reads '
                                         f'it ({", ".join(gin_files)})')
