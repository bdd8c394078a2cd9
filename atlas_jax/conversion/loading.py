"""Opens a model, a reader or a retriever of any kind, and finds its tokenizers. A folder's content
shows its kind.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder
from atlas_jax.conversion import (
    hf,
    hf_files,
    original,
    own,
    t5x,
    t5x_orbax,
    tokenizer_files,
    weights,
)
from atlas_jax.io import contents
from atlas_jax.io.folder import Folder, is_remote
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib
from atlas_jax.tokenizers import bert_tokenizer, t5_tokenizer

ATLAS_JAX, T5X, ORIGINAL, PAIR = 'atlas_jax', 't5x', 'original', 'pair'
READER, RETRIEVER = 'hugging_face_reader', 'hugging_face_retriever'
# A file of torch.save; not a tar file in spite of its name.
ORIGINAL_FILE = 'model.pth.tar'
_KNOWN = ('atlas_jax wrote (model.json), a Hugging Face T5, BERT or sentence-transformers folder '
          '(config.json), a T5X checkpoint (checkpoint_<step> with a file checkpoint or a folder '
          f'state), an original Atlas checkpoint ({ORIGINAL_FILE}), or a folder with reader/ and '
          'retriever/')


@dataclasses.dataclass(frozen=True)
class DetectedModel:
    """The kind of a model and its place.

    Attributes:
      kind: one of the constants of this module.
      path: the folder (ORIGINAL: the file) that holds the model. A Folder in a bucket, where only
        run folders are read.
      step: step of the checkpoint in a path RUN/checkpoints/STEP; None is the newest.
    """

    kind: str
    path: pathlib.Path | Folder
    step: int | None = None


def detect(path: str | os.PathLike) -> DetectedModel:
    """Finds out the kind of a model.

    Args:
      path: the model's folder, or one of its files.

    Raises:
      ModelFolderError: there is no model, or one of a kind that is not read; names the kind.
      StorageError: a bucket cannot be read.
    """
    if found := _step_of_run(path):
        return found
    if is_remote(path):
        # Other kinds are mapped into memory, which needs files on a disk.
        if not (folder := Folder(path)).exists('model.json'):
            raise errors.ModelFolderError(f'{path}: no model.json in it, and of a bucket only what '
                                          'atlas_jax wrote is read; copy other models to a disk '
                                          '(gcloud storage cp -r)')
        return DetectedModel(ATLAS_JAX, folder)
    path = pathlib.Path(path)
    if not path.exists():
        raise errors.ModelFolderError(f'{path}: no such file or folder; give a model that {_KNOWN}')
    if path.is_file():
        if path.name == ORIGINAL_FILE:
            return DetectedModel(ORIGINAL, path)
        if path.name not in ('checkpoint', 'config.json', 'model.json'):
            raise errors.ModelFolderError(f'{path}: give the folder of the model, or an original '
                                          f'{ORIGINAL_FILE}')
        path = path.parent
    # Our own file first: it states its format and version. Other kinds show only by their files.
    if (path / 'model.json').is_file():
        return DetectedModel(ATLAS_JAX, path)
    # Before config.json: a sentence-transformers folder has both, and only modules.json says how to
    # pool and normalise.
    if (path / 'modules.json').is_file():
        return DetectedModel(RETRIEVER, path)
    if (path / 'config.json').is_file():
        return DetectedModel(_hugging_face_kind(path), path)
    # `checkpoint` is a folder in the original's runs and a file in T5X's; each finder tests for its
    # own.
    for find in (_original, _t5x):
        if found := find(path):
            return found
    # Last: a run or an original may also contain folders with these names.
    if (path / 'reader').is_dir() and (path / 'retriever').is_dir():
        return DetectedModel(PAIR, path)
    # Known kinds that are not read get their own message.
    _refuse_other_kinds(path)
    raise errors.ModelFolderError(f'{path}: no model that is known here; give one that {_KNOWN}')


def _step_of_run(path: str | os.PathLike) -> DetectedModel | None:
    """Finds a named checkpoint of a run, such as the best one."""
    run, _, step = os.fspath(path).rstrip('/').rpartition(f'/{run_folder.CHECKPOINTS}/')
    if not run or not (step.isdecimal() and step.isascii()) or not Folder(run).exists(
            run_folder.MODEL_FILE):
        return None
    return DetectedModel(ATLAS_JAX,
                         Folder(run) if is_remote(path) else pathlib.Path(run), int(step))


def _hugging_face_kind(path: pathlib.Path) -> str:
    config: Any = hf_files.read_config(path, ('t5', 'mt5', 'bert', 'contriever'))
    return READER if config['model_type'] in ('t5', 'mt5') else RETRIEVER


def _original(path: pathlib.Path) -> DetectedModel | None:
    """Finds an original checkpoint: in a step's folder, or the newest step of a run's folder."""
    def has_file(folder: pathlib.Path) -> bool:
        return (folder / ORIGINAL_FILE).is_file()

    steps = _numbered(path / 'checkpoint', 'step-', has_file) or _numbered(path, 'step-', has_file)
    # The original writes checkpoint/step-N and a link `latest`. Released models lie in their folder
    # directly.
    for folder in (path, *(path / 'checkpoint' / name for name in ('', 'latest')), *steps):
        if (folder / ORIGINAL_FILE).is_file():
            return DetectedModel(ORIGINAL, folder / ORIGINAL_FILE)
    return None


def _t5x(path: pathlib.Path) -> DetectedModel | None:
    """Finds a T5X checkpoint: the folder itself, or the newest checkpoint of a model's folder."""
    def has_one(folder: pathlib.Path) -> bool:
        return (folder / t5x.FILE).is_file() or t5x_orbax.state_folder(folder) is not None

    for folder in (path, *_numbered(path, 'checkpoint_', has_one)):
        if t5x_orbax.state_folder(folder) is not None:
            return DetectedModel(T5X, folder)
        # Other Orbax folders may also have a file of this name.
        if (folder / t5x.FILE).is_file():
            _refuse_other_kinds(folder)
            return DetectedModel(T5X, folder)
    return None


def _numbered(path: pathlib.Path, start: str, is_wanted: Callable[[pathlib.Path],
                                                                  bool]) -> list[pathlib.Path]:
    """Returns the wanted subfolders `<start><number>`, the highest number first. Unfinished saves
    have other names.
    """
    found = [
        folder for folder in path.glob(f'{start}*')
        if re.fullmatch(re.escape(start) + r'\d+', folder.name) and is_wanted(folder)]
    # As numbers: as strings, step-900 comes after step-10000.
    return sorted(found, key=lambda folder: -int(folder.name.removeprefix(start)))


def _refuse_other_kinds(path: pathlib.Path) -> None:
    if (path / '_METADATA').is_file() or (path / '_CHECKPOINT_METADATA').is_file():
        raise errors.ModelFolderError(f'{path}: an Orbax checkpoint without the parameters of a '
                                      'T5X one (`target` in _METADATA); give the folder '
                                      'checkpoint_<step> of T5X, or the run folder if atlas_jax '
                                      'wrote it')
    with_index = list(path.glob('*.ckpt*.index'))
    # TensorFlow's list of checkpoints has the name of T5X's msgpack file and would be taken for a
    # broken one.
    index = path / 'checkpoint'
    if with_index or (index.is_file() and index.open('rb').read(22) == b'model_checkpoint_path:'):
        raise errors.ModelFolderError(f'{path}: a TensorFlow checkpoint, which is not read; '
                                      'convert it with T5X (t5x.scripts.convert_tf_checkpoint) or '
                                      'give the Hugging Face folder of the model')


_TOKENIZER_FILES = {'T5': (t5_tokenizer.SPIECE_FILE, t5_tokenizer.TOKENIZER_FILE),
                    'BERT': (bert_tokenizer.VOCABULARY_FILE, bert_tokenizer.TOKENIZER_FILE)}


def has_tokenizer(places: Iterable[pathlib.Path]) -> bool:
    """Returns True if one of the places has a file of a tokenizer."""
    return any((place / file).is_file()
               for place in places
               for files in _TOKENIZER_FILES.values()
               for file in files)


def reader_tokenizer(given: str | os.PathLike | None, places: Iterable[pathlib.Path],
                     vocab_size: int) -> t5_tokenizer.T5Tokenizer:
    """Reads the T5 tokenizer at `given` (a folder or a spiece.model), else in the first place that
    has one.

    Raises:
      ModelFolderError: no place has one (names the option for it), or it has more tokens than the
        model.
    """
    tokenizer = _reader_tokenizer(given, places)
    _check_size(tokenizer.vocab_size, vocab_size)
    return tokenizer


def _reader_tokenizer(given: str | os.PathLike | None,
                      places: Iterable[pathlib.Path]) -> t5_tokenizer.T5Tokenizer:
    # T5X uses the path of a spiece.model, not of a folder.
    if given is not None and pathlib.Path(given).is_file():
        try:
            return t5_tokenizer.T5Tokenizer.from_file(pathlib.Path(given))
        except errors.ModelFolderError as error:
            raise errors.ModelFolderError(
                f'{given}: {error}; give the spiece.model of the T5') from error
    folder = _find(given, places, 'T5', '--reader_tokenizer')
    tokenizer_files.check_t5(folder)
    return t5_tokenizer.T5Tokenizer.from_folder(folder)


def retriever_tokenizer(given: str | os.PathLike | None, places: Iterable[pathlib.Path],
                        vocab_size: int) -> bert_tokenizer.BertTokenizer:
    """Reads the BERT tokenizer in the folder `given`, else in the first place that has one.

    Raises:
      ModelFolderError: no place has one (names the option for it), or it has more tokens than the
        model.
    """
    folder = _find(given, places, 'BERT', '--retriever_tokenizer')
    tokenizer_files.check_bert(folder)
    tokenizer = bert_tokenizer.BertTokenizer.from_folder(folder)
    _check_size(tokenizer.vocab_size, vocab_size)
    return tokenizer


def _check_size(tokens: int, vocab_size: int) -> None:
    # A model may have more rows than its tokenizer has tokens; T5 does. A token without a row would
    # silently read another row.
    if tokens > vocab_size:
        raise errors.ModelFolderError(f'the tokenizer has {tokens} tokens and the model '
                                      f'{vocab_size}; give the tokenizer that belongs to it')


def _find(given: str | os.PathLike | None, places: Iterable[pathlib.Path], kind: str,
          option: str) -> pathlib.Path:
    if given is not None:
        return pathlib.Path(given)
    places = list(places)
    # In order: the model's own folder comes before those beside it.
    for place in places:
        if any((place / file).is_file() for file in _TOKENIZER_FILES[kind]):
            return place
    looked = f'{places[0]} nor beside it' if places else 'any known place'
    raise errors.ModelFolderError(f'no {kind} tokenizer ({" or ".join(_TOKENIZER_FILES[kind])}) '
                                  f'in {looked}; copy it there, or give its folder to '
                                  f'`atlas-jax convert` by {option}')


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model in a folder, its parameters not read yet.

    Attributes:
      kind, path: kind and place that `detect` found.
      openers: functions that open the model's parts: 'reader', 'retriever', and 'passage_encoder'
        if passages have their own encoder.
      tokenizer_places: for 'reader' and 'retriever', the folders that may have the tokenizer.
      inputs, n_context, task: settings of the model; None if the folder does not state them.
      options: `opt` of an original checkpoint.
      step: training steps done.

    Raises ModelFolderError: the model has no part.
    """

    kind: str
    path: pathlib.Path | Folder
    openers: Mapping[str, Callable[[], weights.Weights[weights.Config]]]
    tokenizer_places: Mapping[str, list[pathlib.Path]]
    inputs: atlas.InputConfig | None = None
    n_context: int | None = None
    task: task_lib.Task | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0

    def __post_init__(self):
        # A conversion would otherwise write an empty folder.
        if not self.openers:
            raise errors.ModelFolderError(f'{self.path}: holds no parameter of a reader or a '
                                          'retriever; give the checkpoint of a model')

    def part(self, name: str) -> weights.Weights[weights.Config]:
        """Opens one part. Raises ModelFolderError if it is missing or broken."""
        if name not in self.openers:
            raise errors.ModelFolderError(f'{self.path}: holds no {name}, only '
                                          f'{", ".join(self.openers)}; give a folder that has one')
        return self.openers[name]()

    def reader(self) -> weights.Weights[t5.T5Config]:
        """Opens the reader. Raises ModelFolderError if it is missing or broken."""
        return weights.reader(self.part('reader'))

    def retriever(self) -> weights.Weights[contriever.ContrieverConfig]:
        """Opens the retriever; of two encoders, the query encoder.

        Raises ModelFolderError if it is missing or broken.
        """
        return weights.retriever(self.part('retriever'))


def open_model(path: str | os.PathLike,
               retriever_config: str | os.PathLike | None = None) -> Opened:
    """Opens a model of any kind.

    Args:
      retriever_config: folder whose config.json describes the retriever of an original checkpoint.
        None looks beside the checkpoint.

    Raises:
      ModelFolderError: there is no model of a known kind, or it is broken.
    """
    found = detect(path)
    if found.kind == ATLAS_JAX:
        return _open_own(found.path, found.step)
    folder = found.path
    assert isinstance(folder, pathlib.Path)  # buckets only hold the kind above
    if found.kind == PAIR:
        return _open_pair(folder)
    if found.kind == ORIGINAL:
        return _open_original(folder, retriever_config)
    # Folders that atlas_jax wrote have checksums; others pass.
    contents.check(folder)
    if found.kind == RETRIEVER:
        return Opened(found.kind, folder, {'retriever': lambda: hf.open_contriever(folder)},
                      {'retriever': [folder]})
    # The tokenizer of a T5X model lies in the folder above its checkpoint_<step>, if anywhere.
    places = {'reader': [folder, folder.absolute().parent]}
    if found.kind == READER:
        return Opened(found.kind, folder, {'reader': lambda: hf.open_t5(folder)}, places)
    checkpoint = t5x.Checkpoint(folder)
    return Opened(found.kind, folder, {'reader': lambda: t5x.of_checkpoint(checkpoint)}, places,
                  step=checkpoint.step)


def join(reader: Opened, retriever: Opened) -> Opened:
    """Joins the reader of one model with the retriever of another. Everything else comes from the
    first model.
    """
    # A passage encoder stays with its retriever: the two were trained to share one space.
    openers = {name: opener for name, opener in reader.openers.items() if name == 'reader'}
    openers |= {name: opener for name, opener in retriever.openers.items() if name != 'reader'}
    places = {
        'reader': reader.tokenizer_places.get('reader', []),
        'retriever': retriever.tokenizer_places.get('retriever', [])}
    return dataclasses.replace(reader, openers=openers, tokenizer_places=places)


def _open_pair(path: pathlib.Path) -> Opened:
    """Opens folders reader/, retriever/ and perhaps passage_encoder/."""
    def open_part(name: str) -> weights.Weights[weights.Config]:
        return open_model(path / name).part('reader' if name == 'reader' else 'retriever')

    parts = [name for name in ('reader', 'retriever', 'passage_encoder') if (path / name).is_dir()]
    return Opened(PAIR, path, {name: functools.partial(open_part, name) for name in parts},
                  {name: [path / name] for name in parts})


def _open_original(path: pathlib.Path, retriever_config: str | os.PathLike | None) -> Opened:
    checkpoint = original.Original(path)
    options = checkpoint.options
    # The run folder is three levels above checkpoint/step-N/model.pth.tar.
    above = list(path.absolute().parents)[:3]
    beside = [parent / name for parent in above for name in ('', 'tokenizers')]
    options_of = {'reader': 'reader_model_type', 'retriever': 'retriever_model_path'}
    places = {
        part: [folder / part for folder in beside] +
        original.named_folders(path, options.get(option)) for part, option in options_of.items()}
    # Shapes do not show the number of attention heads; a config.json does.
    described = [place for place in places['retriever'] if (place / 'config.json').is_file()]
    if retriever_config:
        described = [pathlib.Path(retriever_config)]
    config_folder = described[0] if described else None
    # Functions, so that the reader can be read even if the retriever's number of heads is unknown.
    openers: dict[str, Callable[[], weights.Weights[weights.Config]]] = {
        'reader': checkpoint.reader, 'retriever': lambda: checkpoint.retriever(config_folder),
        'passage_encoder': lambda: checkpoint.passage_encoder(config_folder)}
    return Opened(ORIGINAL, path, {part: openers[part] for part in checkpoint.parts}, places,
                  original.inputs(path, options), original.n_context(path, options),
                  original.task(path, options), options, checkpoint.step)


def _open_own(path: pathlib.Path | Folder, step: int | None) -> Opened:
    run = own.Run(path, step)
    tokenizers = own.tokenizers(path)
    places = {part: [tokenizers / part] for part in ('reader', 'retriever')}
    openers: dict[str, Callable[[], weights.Weights[weights.Config]]] = {
        name: functools.partial(run.part, name) for name in run.parts}
    # Only a reader has a task and a number of passages.
    if isinstance(run.config, atlas.RetrieverConfig):
        return Opened(ATLAS_JAX, path, openers, places, run.config.inputs, step=run.step)
    return Opened(ATLAS_JAX, path, openers, places, run.config.inputs, run.config.n_context,
                  registry.from_dict(run.description['task']), step=run.step)
