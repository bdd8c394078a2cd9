"""The public surface: Atlas (a model that answers), Index (what it knows), Answer.

    atlas = Atlas.load('run')
    store = PassageStore.build('documents', 'store')
    index = Index.build(store, atlas, 'index')
    answers = atlas.answer(['who discovered radium?'], index)
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.checkpoints import run_folder
from atlas_jax.conversion import hf
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.corpus import store as store_lib
from atlas_jax.index import embed
from atlas_jax.index.index import Index as PassageIndex
from atlas_jax.input import encode, pipeline
from atlas_jax.io import atomic, progress
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.nn import layer_scan
from atlas_jax.tasks.qa import QATask, TaskExample
from atlas_jax.tokenizers.bert import BertTokenizer
from atlas_jax.tokenizers.t5 import T5Tokenizer
from atlas_jax.training import answer_step, train_step
from atlas_jax.training import spec as spec_lib
from atlas_jax.training import state as state_lib

_STORE_LINK = 'store.json'


@dataclasses.dataclass(frozen=True)
class AnswerPassage:
    """A passage behind an answer: its retrieval score (inner product), and its share of the decoder's cross attention (0 to 1)."""

    docid: str
    title: str
    text: str
    score: float
    attention: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer and the passages it was read from, best retrieved first."""

    question: str
    text: str
    passages: tuple[AnswerPassage, ...] = ()


class PassageStore(store_lib.PassageStore):
    """Passages on disk; see corpus/store.py."""

    @classmethod
    def build(cls, documents: str | os.PathLike | Iterable[documents_lib.Document], path: str | os.PathLike, *,
              atlas: 'Atlas | None' = None, max_words: int = 100, progress: bool = True) -> 'PassageStore':
        """Cuts documents into passages and stores them.

        Args:
          documents: a file or folder (.jsonl, .txt, .md, .html), or Documents.
          path: the store's folder.
          atlas: whose tokenizers to use; None leaves that to Index.build.
          max_words: words a passage has at most.

        Raises:
          InputFileError: something in the documents is wrong.
        """
        if isinstance(documents, str | os.PathLike):
            documents = documents_lib.read_documents(documents)
        tokenizers = {} if atlas is None else {'reader_tokenizer': atlas.reader_tokenizer, 'retriever_tokenizer': atlas.retriever_tokenizer}
        return super().build(passages_lib.split_passages(documents, max_words), path, progress=progress, **tokenizers)


@dataclasses.dataclass
class Atlas:
    """A retriever and a reader with their tokenizers.

    Attributes:
      config: sizes, formats, n_context.
      params: {'reader', 'retriever'} and, where only the query side was trained, 'passage_encoder'; numpy or device arrays.
      task: how a question becomes a query.
      mesh: devices; None takes all.
    """

    config: atlas_lib.AtlasConfig
    params: dict[str, Any]
    reader_tokenizer: T5Tokenizer
    retriever_tokenizer: BertTokenizer
    task: QATask = dataclasses.field(default_factory=QATask)
    mesh: jax.sharding.Mesh | None = None

    def __post_init__(self):
        self.mesh = partitioning.make_mesh() if self.mesh is None else self.mesh
        self._embedder: embed.PassageEmbedder | None = None

    @classmethod
    def from_pretrained(cls, reader: str | os.PathLike, retriever: str | os.PathLike, *, inputs: atlas_lib.InputConfig | None = None,
                        task: QATask | None = None, n_context: int = 1, mesh: jax.sharding.Mesh | None = None) -> 'Atlas':
        """Loads Hugging Face folders: a T5 reader and a BERT or Contriever retriever, each with its tokenizer.

        Raises:
          ModelFolderError: a folder does not hold what it should.
        """
        reader_config, reader_params = hf.load_t5(reader)
        retriever_config, retriever_params = hf.load_contriever(retriever)
        config = atlas_lib.AtlasConfig(reader_config, retriever_config, inputs or atlas_lib.InputConfig(), n_context)
        params = layer_scan.stack_layers({'reader': reader_params, 'retriever': retriever_params})
        return cls(config, params, T5Tokenizer.from_folder(reader),
                   BertTokenizer.from_folder(retriever), task or QATask(), mesh)

    @classmethod
    def load(cls, path: str | os.PathLike, *, mesh: jax.sharding.Mesh | None = None) -> 'Atlas':
        """Loads a folder that `atlas-jax train` or `Atlas.save` wrote; of a run, the newest checkpoint.

        Raises:
          ModelFolderError: no model in the folder, or one of another version.
        """
        path = pathlib.Path(path)
        description = run_folder.read_model_file(path)
        config = atlas_lib.config_from_dict(description)
        mesh = partitioning.make_mesh() if mesh is None else mesh
        template = state_lib.abstract_param_items(config, mesh, description['has_passage_encoder'])
        with run_folder.RunCheckpoints(path) as checkpoints:
            if checkpoints.latest_step is None:
                raise errors.ModelFolderError(f'{path}: no checkpoint was saved yet; let the training reach its first checkpoint')
            params = checkpoints.restore_params(template)
        return cls(config, params, T5Tokenizer.from_folder(path / 'tokenizers' / 'reader'),
                   BertTokenizer.from_folder(path / 'tokenizers' / 'retriever'), QATask(**description['task']), mesh)

    def save(self, path: str | os.PathLike) -> None:
        """Writes a folder that `load` reads."""
        path = pathlib.Path(path)
        self.write_description(path)
        with run_folder.RunCheckpoints(path, create=True) as checkpoints:
            checkpoints.save(0, self.params)

    def write_description(self, path: pathlib.Path) -> None:
        """Writes model.json and the tokenizers, all of the folder but the parameters."""
        path.mkdir(parents=True, exist_ok=True)
        self.reader_tokenizer.save(path / 'tokenizers' / 'reader')
        self.retriever_tokenizer.save(path / 'tokenizers' / 'retriever')
        run_folder.write_model_file(path, self.description())

    def description(self) -> dict[str, Any]:
        """What model.json says of the model."""
        return {**atlas_lib.config_to_dict(self.config), 'task': dataclasses.asdict(self.task),
                'has_passage_encoder': 'passage_encoder' in self.params}

    @property
    def segments(self) -> atlas_lib.Segments:
        """The formats as token segments."""
        return atlas_lib.cut_segments(self.config.inputs, self.reader_tokenizer, self.retriever_tokenizer)

    def embedder(self) -> embed.PassageEmbedder:
        """What embeds passages for this model's index."""
        if self._embedder is None:
            params = self.params.get('passage_encoder', self.params['retriever'])
            self._embedder = embed.PassageEmbedder(self.config.retriever, params, self.segments.retriever,
                                                   self.config.retriever_max_tokens)
        return self._embedder

    def encoder(self) -> encode.ExampleEncoder:
        """What turns examples into batches for this model."""
        return encode.ExampleEncoder(self.reader_tokenizer, self.retriever_tokenizer, self.config.inputs.query_max_tokens,
                                     self.config.inputs.target_max_tokens)

    def answer(self, questions: Sequence[str], index: 'Index | None' = None, n_context: int | None = None,
               batch_size: int | None = None) -> list[Answer]:
        """Answers questions from the index's passages; without an index, from the reader's memory alone.

        Args:
          questions: plain questions.
          index: what to search; None is closed book.
          n_context: passages to read, default what the model was trained with.
          batch_size: questions read at a time.
        """
        examples = [self.task.example({'question': question, 'answers': ['']}, i) for i, question in enumerate(questions)]
        batch_size = batch_size or min(len(questions), 16)
        return list(self.answer_examples(examples, index, n_context, batch_size))

    def answer_examples(self, examples: Sequence[TaskExample], index: 'Index | None', n_context: int | None = None,
                        batch_size: int = 16, progress_label: str | None = None) -> Iterator[Answer]:
        """Answers task examples in order; with a label it shows a progress bar."""
        if not examples:
            return
        n_context = 0 if index is None else self.config.n_context if n_context is None else n_context
        n_context = max(n_context, 1) if index is not None else 0
        config = dataclasses.replace(self.config, n_context=n_context)
        encoder = self.encoder()
        query_lengths = encoder.fit_queries(examples)
        lengths = index.token_lengths(query_lengths) if index is not None else no_passages(query_lengths)
        batch_size = -(-batch_size // self.mesh.size) * self.mesh.size
        step = _answer_step(spec_lib.make_spec(config, self.segments, self.mesh, lengths, batch_size))
        knowledge = None if index is None else index.knowledge(self)
        params = self._device_params()
        bar = progress.bar(len(examples), progress_label, ' questions') if progress_label else None
        for start, batch in enumerate(pipeline.evaluation_batches(examples, encoder, batch_size)):
            answered = jax.device_get(step(params, jax.device_put(batch, train_step.batch_sharding(self.mesh)), knowledge))
            chunk = examples[start * batch_size:(start + 1) * batch_size]
            for row, example in enumerate(chunk):
                yield self._to_answer(example, answered, row, index)
            if bar:
                bar.update(len(chunk))
        if bar:
            bar.close()

    def _device_params(self) -> dict[str, Any]:
        params = {name: self.params[name] for name in ('reader', 'retriever')}
        return jax.device_put(params, state_lib.param_shardings(self.config, self.mesh))

    def _to_answer(self, example: TaskExample, answered: answer_step.Answered, row: int, index: 'Index | None') -> Answer:
        text = self.task.answer_text(self.reader_tokenizer.decode(answered.tokens[row].tolist(), keep_sentinels=False))
        passages = []
        if index is not None:
            for score, passage_id, attention in zip(answered.retrieved.scores[row], answered.retrieved.passage_ids[row],
                                                    answered.attention[row], strict=True):
                if np.isfinite(score):
                    passage = index.store[int(passage_id)]
                    passages.append(AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), float(attention)))
        return Answer(example.question, text, tuple(passages))


class Index:
    """Embeddings on disk together with the passage store they belong to."""

    def __init__(self, index: PassageIndex, store: PassageStore):
        self.index, self.store = index, store
        self._knowledge: dict[tuple, types.Knowledge] = {}

    @classmethod
    def build(cls, store: PassageStore, atlas: Atlas, path: str | os.PathLike, *, dtype: str = 'float32',
              show_progress: bool = True) -> 'Index':
        """Embeds every passage of the store with the model's passage encoder; resumes where a killed build stopped."""
        path = pathlib.Path(path)
        store.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer, progress=show_progress)
        index = PassageIndex.build(store, atlas.embedder(), path, dtype=dtype, progress=show_progress)
        relative = os.path.relpath(pathlib.Path(store.path).absolute(), path.absolute())
        atomic.write_json(path / _STORE_LINK, {'store': relative})
        return cls(index, store)

    @classmethod
    def open(cls, path: str | os.PathLike, store: PassageStore | str | os.PathLike | None = None) -> 'Index':
        """Opens an index and its store (default: the store it was built from, found relative to the index).

        Raises:
          IndexFolderError, StoreError: missing or damaged.
        """
        path = pathlib.Path(path)
        index = PassageIndex.open(path)
        if store is None:
            link = path / _STORE_LINK
            if not link.is_file():
                raise errors.IndexFolderError(f'{path}: {_STORE_LINK} is missing, so the passages are unknown; give --store DIR')
            store = (path / json.loads(link.read_text(encoding='utf-8'))['store']).resolve()
        return cls(index, store if isinstance(store, PassageStore) else PassageStore.open(store))

    def check(self, atlas: Atlas) -> None:
        """Refuses a model that did not build this index, or whose tokenizers are not the store's."""
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        self.index.check(self.store, atlas.embedder())

    def replace(self, passages, atlas: Atlas) -> None:
        """Adds passages; one whose docid is there already takes its place. Only these are embedded."""
        self.check(atlas)
        self.store.append(passages)
        self.index.add(self.store, atlas.embedder())
        self._knowledge.clear()

    def delete(self, docids: Sequence[str]) -> None:
        """Takes passages out of every later search."""
        self.index.delete(docids, self.store)
        self._knowledge.clear()

    def token_lengths(self, reader_queries: np.ndarray) -> spec_lib.TokenLengths:
        """What stream capacities are chosen from."""
        return spec_lib.TokenLengths(np.asarray(self.store.reader_lengths), np.asarray(self.store.retriever_lengths), reader_queries)

    def knowledge(self, atlas: Atlas, *, retriever_tokens: bool = False) -> types.Knowledge:
        """Index and token tables on the model's devices, rows sharded over all of them; kept for the next call.

        Args:
          atlas: the model; it must have built this index.
          retriever_tokens: also the passages in the retriever's tokens, to embed them in the train step.
        """
        self.check(atlas)
        limit = atlas.config.inputs.text_max_tokens
        key = (atlas.mesh, limit, retriever_tokens)
        if key not in self._knowledge:
            arrays = self.index.device_arrays(atlas.mesh)
            rows = arrays.valid.shape[0]
            reader = _place(self.store.reader_table(max_tokens=limit), rows, atlas.mesh)
            retriever = _place(self.store.retriever_table(max_tokens=limit), rows, atlas.mesh) if retriever_tokens else None
            self._knowledge[key] = types.Knowledge(index=arrays, reader_table=reader, retriever_table=retriever)
        return self._knowledge[key]


def no_passages(reader_queries: np.ndarray) -> spec_lib.TokenLengths:
    """Token lengths of a closed book."""
    return spec_lib.TokenLengths(np.zeros(1, np.int64), np.zeros(1, np.int64), reader_queries)


def _place(table: types.TokenTable, rows: int, mesh: jax.sharding.Mesh) -> types.TokenTable:
    """The table on the mesh, padded with empty rows to the index's row count."""
    def put(column: np.ndarray) -> jax.Array:
        padded = np.pad(column, ((0, rows - len(column)), *((0, 0),) * (column.ndim - 1)))
        return jax.device_put(padded, partitioning.sharding(mesh, 'passages'))

    return jax.tree.map(put, table)


# Compiled steps outlive the model they were made for: the next one of the same sizes need not compile again.
_ANSWER_STEPS: dict[spec_lib.StepSpec, answer_step.AnswerStep] = {}


def _answer_step(spec: spec_lib.StepSpec) -> answer_step.AnswerStep:
    for known, step in _ANSWER_STEPS.items():
        if _covers(known, spec):
            return step
    return _ANSWER_STEPS.setdefault(spec, answer_step.make_answer_step(spec))


def _covers(known: spec_lib.StepSpec, spec: spec_lib.StepSpec) -> bool:
    """Whether a step made for `known` also serves `spec`: same model and passages, room for at least as many tokens."""
    same = dataclasses.replace(known, read=()) == dataclasses.replace(spec, read=())
    return same and known.read[-1].stream_tokens >= spec.read[-1].stream_tokens and known.read[-1].longest >= spec.read[-1].longest
