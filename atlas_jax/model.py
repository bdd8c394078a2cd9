"""A model's data: sizes, parameters, tokenizers, task, mesh; loading and saving."""

import dataclasses
import os
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp

from atlas_jax import errors, partitioning
from atlas_jax.checkpoints import calibration as confidence
from atlas_jax.checkpoints import run_folder
from atlas_jax.conversion import loading, own
from atlas_jax.index import embed
from atlas_jax.input import encode, text_inputs
from atlas_jax.io.folder import Folder, Place
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.models import contriever, parameters
from atlas_jax.nn import layer_scan
from atlas_jax.options import CheckedOptions, option
from atlas_jax.runtime import hosts, notes
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.qa import QATask
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer

Model = TypeVar('Model', bound='AtlasModel')


@dataclasses.dataclass
class AtlasModel:
    """A retriever and a reader with their tokenizers. api.Atlas adds answering.

    Attributes:
      config: sizes, formats, n_context.
      params: {'reader', 'retriever'}, and 'passage_encoder' if passages have an encoder of their
        own; numpy or device arrays.
      task: turns questions into queries, and targets into answers.
      mesh: devices; all by default.
      calibration: calibration of its confidence, valid for these parameters only; None without one.
    """

    config: atlas_lib.AtlasConfig
    params: dict[str, Any]
    reader_tokenizer: T5Tokenizer
    retriever_tokenizer: BertTokenizer
    task: task_lib.Task = dataclasses.field(default_factory=QATask)
    mesh: jax.sharding.Mesh = dataclasses.field(default_factory=partitioning.make_mesh)
    calibration: confidence.Calibration | None = None

    def __post_init__(self):
        if self.mesh is None:  # callers may pass None for all devices
            self.mesh = partitioning.make_mesh()
        # Made on first use: it copies the passage encoder to every local device.
        self._embedder: embed.PassageEmbedder | None = None

    @classmethod
    def from_pretrained(cls, reader: str | os.PathLike, retriever: str | os.PathLike, *,
                        inputs: atlas_lib.InputConfig | None = None,
                        task: task_lib.Task | None = None, n_context: int = 1,
                        mesh: jax.sharding.Mesh | None = None,
                        reader_tokenizer: str | os.PathLike | None = None,
                        retriever_tokenizer: str | os.PathLike | None = None) -> Self:
        """Loads a reader and a retriever: Hugging Face folders, or any other kind that `load`
        reads.

        Checksums are verified first, if the folder has some; `io.contents.unchecked` skips that.

        Args:
          reader, retriever: the folders.
          inputs: formats and limits; None is the default InputConfig.
          task: turns questions into queries; None is question answering.
          n_context: number of passages that the reader reads.
          mesh: devices; None uses all.
          reader_tokenizer, retriever_tokenizer: folders of the tokenizers (or a spiece.model), if
            they are not in the models' folders.

        Raises:
          ModelFolderError: a folder has no such model, a file is damaged, or a tokenizer is
            missing.
        """
        # Opened without reading: each parameter is read when it is placed, one at a time.
        opened = loading.join(loading.open_model(reader), loading.open_model(retriever))
        opened = dataclasses.replace(opened, inputs=inputs, n_context=n_context, task=task)
        return cls._of_opened(opened, mesh, reader_tokenizer, retriever_tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike, *, mesh: jax.sharding.Mesh | None = None,
             reader_tokenizer: str | os.PathLike | None = None,
             retriever_tokenizer: str | os.PathLike | None = None) -> Self:
        """Loads a folder that `atlas-jax train` or `Atlas.save` wrote, an original Atlas
        checkpoint, or a folder with reader/ and retriever/; on a disk or in a bucket.

        For a run it loads the newest checkpoint, or RUN/checkpoints/STEP. Checksums are verified
        first, if the folder has some; `io.contents.unchecked` skips that.

        Args:
          path: the folder.
          mesh: devices; None uses all.
          reader_tokenizer, retriever_tokenizer: folders of an original checkpoint's tokenizers (or
            a spiece.model), if they are not beside it.

        Raises:
          ModelFolderError: no model in the folder, one of another version, a damaged file, or a
            tokenizer is missing.
        """
        found = loading.detect(path)
        # Our own folders, below, hold sharded arrays, which are restored straight onto the mesh. A
        # calibration belongs to the newest checkpoint only.
        if found.kind != loading.ATLAS_JAX or found.step is not None:
            return cls._of_opened(loading.open_model(path, retriever_tokenizer), mesh,
                                  reader_tokenizer, retriever_tokenizer)
        folder = Folder(found.path)
        description = run_folder.read_model_file(folder)
        config = atlas_lib.config_from_dict(description)
        if isinstance(config, atlas_lib.RetrieverConfig):
            raise errors.ModelFolderError(f'{folder}: holds a retriever alone; give this folder '
                                          'by --retriever, and a reader by --reader')
        mesh = partitioning.make_mesh() if mesh is None else mesh
        template = parameters.abstract_param_items(config, mesh, description['has_passage_encoder'])
        with run_folder.RunCheckpoints(folder) as checkpoints:
            # A run writes model.json at its start, its first checkpoint much later.
            if checkpoints.latest_step is None:
                raise errors.ModelFolderError(f'{folder}: no checkpoint was saved yet; let the '
                                              'training reach its first checkpoint')
            params = checkpoints.restore_params(template)
        tokenizers = own.tokenizers(folder)
        return cls(config, params, T5Tokenizer.from_folder(tokenizers / 'reader'),
                   BertTokenizer.from_folder(tokenizers / 'retriever'),
                   registry.from_dict(description['task']), mesh, _calibration(folder))

    @classmethod
    def _of_opened(cls, opened: loading.Opened, mesh: jax.sharding.Mesh | None,
                   reader_tokenizer: str | os.PathLike | None,
                   retriever_tokenizer: str | os.PathLike | None) -> Self:
        reader, retriever = opened.reader(), opened.retriever()
        # Some checkpoints, such as T5X's, have no tokenizer; the caller then gives its folder.
        places = opened.tokenizer_places
        tokenizers = (loading.reader_tokenizer(reader_tokenizer, places['reader'],
                                               reader.config.vocab_size),
                      loading.retriever_tokenizer(retriever_tokenizer, places['retriever'],
                                                  retriever.config.vocab_size))
        config = atlas_lib.AtlasConfig(reader.config, retriever.config, opened.inputs
                                       or atlas_lib.InputConfig(),
                                       1 if opened.n_context is None else opened.n_context)
        # Stacked: the steps scan over one array for all layers.
        params = {name: opened.part(name).stacked_params() for name in opened.openers}
        return cls(config, params, *tokenizers, opened.task or QATask(), mesh
                   or partitioning.make_mesh())

    def save(self, path: Place) -> None:
        """Writes a folder that `load` reads, on a disk or in a bucket."""
        _save(self, path)

    # Apart from the parameters: a run writes it once, its weights at every checkpoint.
    def write_description(self, path: Place) -> None:
        """Writes model.json and the tokenizers: the folder without the parameters."""
        folder = Folder(path)
        self.reader_tokenizer.save(folder / 'tokenizers' / 'reader')
        self.retriever_tokenizer.save(folder / 'tokenizers' / 'retriever')
        run_folder.write_model_file(folder, self.description())

    def description(self) -> dict[str, Any]:
        """Returns the contents of model.json."""
        return own.describe(self.config, self.task, 'passage_encoder' in self.params)

    @property
    def segments(self) -> atlas_lib.Segments:
        """The formats, cut into token segments."""
        return atlas_lib.cut_segments(self.config, self.reader_tokenizer, self.retriever_tokenizer)

    def embedder(self) -> embed.PassageEmbedder:
        """Returns the passage encoder with its format; it embeds passages for this model's index.
        """
        if self._embedder is None:
            # Models trained "untied" or "query_side" embed passages by a separate encoder.
            params = self.params.get('passage_encoder', self.params['retriever'])
            self._embedder = embed.PassageEmbedder(self.config.retriever, params,
                                                   self.segments.retriever,
                                                   self.config.retriever_max_tokens,
                                                   passage_format=self.config.passage_format)
        return self._embedder

    def encoder(self) -> encode.ExampleEncoder:
        """Returns the example encoder; it makes batches for this model."""
        inputs = self.inputs
        return encode.ExampleEncoder(
            self.reader_tokenizer, self.retriever_tokenizer, inputs.query_limit,
            inputs.target_limit, inputs.decoder_format, inputs.decoder_prompt_format, self.task,
            reader_room=self._reader_room(), retriever_room=self.config.retriever.input_tokens,
            retriever_query_format=self.config.query_format)

    @property
    def inputs(self) -> atlas_lib.InputConfig:
        """Formats and limits; the task's limits where the configuration has none."""
        return self.config.inputs.for_task(self.task.query_max_tokens, self.task.target_max_tokens)

    def _reader_room(self) -> int:
        """Returns how many tokens of a query fit beside the literal text of the reader's formats.
        """
        def words(template: str) -> int:
            empty = text_inputs.FormatEncoder(template, self.reader_tokenizer.encode,
                                              self.text_max_tokens,
                                              suffix_ids=(self.reader_tokenizer.eos_id, ))
            return len(empty.ids('', '', ''))

        inputs = self.config.inputs
        return self.text_max_tokens - max(words(inputs.encoder_format),
                                          words(inputs.closed_book_format))

    @property
    def text_max_tokens(self) -> int:
        """Limit of a reader input, in tokens."""
        return self.config.inputs.text_max_tokens

    @property
    def retriever_max_tokens(self) -> int:
        """Limit of a retriever passage, in tokens."""
        return self.config.retriever_max_tokens

    def whole_batch(self, batch_size: int) -> int:
        """Returns the next batch size that divides over the devices."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def on_devices(self) -> Self:
        """Returns the model with its parameters on its mesh, so that they are not copied for every
        batch.
        """
        return dataclasses.replace(self, params=self._placed(self.params))

    def device_params(self, param_dtype: str = 'float32') -> dict[str, Any]:
        """Returns the parameters on the model's mesh, as float32 or cast to bfloat16; on one CPU
        with the layers unstacked.
        """
        params = self.params
        # Cast before they are placed: the float32 model may not fit.
        if param_dtype != 'float32':
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(param_dtype)), params)
        if partitioning.is_one_cpu(self.mesh):
            return jax.device_put(layer_scan.views_apart(params),
                                  partitioning.replicated(self.mesh))
        return self._placed(params)

    def _placed(self, params: dict[str, Any]) -> dict[str, Any]:
        shardings = parameters.param_shardings(self.config, self.mesh)
        # A second encoder has the layout of the first.
        shardings = {**shardings, 'passage_encoder': shardings['retriever']}
        return {
            name: hosts.place(params[name], shardings[name]) for name in shardings if name in params
        }


def _calibration(folder: Folder) -> confidence.Calibration | None:
    """Returns the calibration in a model folder, or None if it has none for its newest weights.

    Raises ModelFolderError: it is damaged.
    """
    calibration = confidence.read(folder)
    if calibration is None or calibration.weights == confidence.weights_of(folder):
        return calibration
    notes.say(f'{(folder / confidence.FILE).path}: it was made for other weights than the newest, '
              f'so it is not used; {confidence.REMEDY}')
    return None


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """The folders of a model, and settings that replace those in its folder.

    Attributes:
      model_dir: folder of a run, an original Atlas checkpoint, or a folder with reader/ and
        retriever/. Alternatively, give reader_dir and retriever_dir.
      reader_dir, retriever_dir: a folder each, of any supported kind.
      task: turns questions into queries; None keeps the model's own.
      inputs: formats and limits; None keeps the model's own.
    """

    model_dir: str | None = None
    reader_dir: str | None = None
    retriever_dir: str | None = None
    task: task_lib.Task | None = None
    inputs: atlas_lib.InputConfig | None = None

    def load(self, kind: type[Model]) -> Model:
        """Loads it as an AtlasModel, or as a subclass.

        Raises:
          ConfigError: model_dir and the other two are given, or neither. ModelFolderError: see
            AtlasModel.load.
        """
        if bool(self.model_dir) == bool(self.reader_dir or self.retriever_dir) or bool(
                self.reader_dir) != bool(self.retriever_dir):
            raise errors.ConfigError('give either one model folder, or a reader folder and a '
                                     'retriever folder')
        if not self.model_dir:
            assert self.reader_dir and self.retriever_dir  # both or neither, by the check above
            return kind.from_pretrained(self.reader_dir, self.retriever_dir, inputs=self.inputs,
                                        task=self.task)
        loaded = kind.load(self.model_dir)
        if self.inputs is not None:
            loaded = dataclasses.replace(
                loaded, config=dataclasses.replace(loaded.config, inputs=self.inputs))
        return loaded if self.task is None else dataclasses.replace(loaded, task=self.task)


@dataclasses.dataclass
class RetrieverModel:
    """A retriever with its tokenizer, to be trained without a reader.

    Attributes:
      config: sizes and formats.
      params: {'retriever'}; numpy or device arrays, layers stacked.
      tokenizer: tokenizer of queries and passages.
    """

    config: atlas_lib.RetrieverConfig
    params: dict[str, Any]
    tokenizer: BertTokenizer

    @classmethod
    def load(cls, path: str | os.PathLike, inputs: atlas_lib.InputConfig | None = None) -> Self:
        """Loads the retriever from a folder of any supported kind; `inputs` replaces the folder's
        formats and limits.

        Raises ModelFolderError: the folder has no retriever, a damaged one, one with a second
        encoder for passages, or no tokenizer.
        """
        # Opened without reading: a wrong folder is refused before its weights are loaded.
        opened = loading.open_model(path)
        if 'passage_encoder' in opened.openers:
            raise errors.ModelFolderError(f'{path}: has an encoder for passages beside that for '
                                          'queries, and a retriever that is trained alone has '
                                          'one; give the folder of a retriever with one encoder')
        retriever = opened.retriever()
        tokenizer = loading.retriever_tokenizer(None, opened.tokenizer_places['retriever'],
                                                retriever.config.vocab_size)
        config = atlas_lib.RetrieverConfig(retriever.config, inputs or opened.inputs
                                           or atlas_lib.InputConfig())
        return cls(config, {'retriever': retriever.stacked_params()}, tokenizer)

    def save(self, path: Place) -> None:
        """Writes a folder that `load` reads, on a disk or in a bucket."""
        _save(self, path)

    def write_description(self, path: Place) -> None:
        """Writes model.json and the tokenizer: the folder without the parameters."""
        folder = Folder(path)
        self.tokenizer.save(folder / 'tokenizers' / 'retriever')
        run_folder.write_model_file(folder, self.description())

    def description(self) -> dict[str, Any]:
        """Returns the contents of model.json."""
        return own.describe(self.config, None, False)


@dataclasses.dataclass(frozen=True)
class RetrieverSource(CheckedOptions):
    """The folder of a retriever to train, and settings that replace those in its folder.

    Attributes:
      retriever_dir: folder of a BERT, a Contriever, a sentence transformer, or a run whose
        retriever is trained further.
      inputs: formats and limits; None keeps the folder's own.
      pooling: how states become an embedding: average, cls, max, sqrt, weighted or last. None keeps
        the folder's own; a BERT has average.

    Raises ConfigError: an unknown pooling.
    """

    retriever_dir: str
    inputs: atlas_lib.InputConfig | None = None
    pooling: str | None = option(None, choices=contriever.POOLINGS)

    def load(self) -> RetrieverModel:
        """Loads it. Raises ModelFolderError: see RetrieverModel.load."""
        loaded = RetrieverModel.load(self.retriever_dir, self.inputs)
        if self.pooling is None:
            return loaded
        retriever = dataclasses.replace(loaded.config.retriever, pooling=self.pooling)
        return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config,
                                                                      retriever=retriever))


def _save(model: AtlasModel | RetrieverModel, path: Place) -> None:
    model.write_description(path)
    with run_folder.RunCheckpoints(path, create=True) as checkpoints:
        checkpoints.save(0, model.params)
