"""The public surface: Atlas (a model that answers), Index (what it knows), Answer.

    atlas = Atlas.load('run')
    store = PassageStore.build('documents', 'store')
    index = Index.build(store, atlas, 'index')
    answers = atlas.answer(['who discovered radium?'], index)
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.checkpoints import run_folder
from atlas_jax.conversion import kinds, loading, own, tokenizer_files
from atlas_jax.corpus.store import PassageStore
from atlas_jax.decoding import DecodingConfig
from atlas_jax.index import embed
from atlas_jax.index.embedding_index import Index as PassageIndex
from atlas_jax.input import encode
from atlas_jax.knowledge import group as index_group
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.runtime import hosts
from atlas_jax.searchers import config as search_config
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import answer_steps, prepare, step_config
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.qa import QATask
from atlas_jax.tasks.task import TaskExample
from atlas_jax.tokenizers.bert import BertTokenizer
from atlas_jax.tokenizers.t5 import T5Tokenizer
from atlas_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class AnswerPassage:
    """A passage behind an answer: its retrieval score (inner product), its share of the decoder's cross attention (0 to 1), its index."""

    docid: str
    title: str
    text: str
    score: float
    attention: float
    index: str = ''


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another answer of the same beam search, and its score."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer and the passages it was read from, best retrieved first.

    Attributes:
      score: log likelihood / length ** length_penalty where beams were searched, else None.
      alternatives: the next best answers, where more than one was asked for.
    """

    question: str
    text: str
    passages: tuple[AnswerPassage, ...] = ()
    score: float | None = None
    alternatives: tuple[Alternative, ...] = ()


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
    task: task_lib.Task = dataclasses.field(default_factory=QATask)
    mesh: jax.sharding.Mesh | None = None

    def __post_init__(self):
        self.mesh = partitioning.make_mesh() if self.mesh is None else self.mesh
        self._embedder: embed.PassageEmbedder | None = None

    @classmethod
    def from_pretrained(cls, reader: str | os.PathLike, retriever: str | os.PathLike, *, inputs: atlas_lib.InputConfig | None = None,
                        task: task_lib.Task | None = None, n_context: int = 1, mesh: jax.sharding.Mesh | None = None,
                        reader_tokenizer: str | os.PathLike | None = None,
                        retriever_tokenizer: str | os.PathLike | None = None) -> 'Atlas':
        """Loads a reader and a retriever: Hugging Face folders, or any other kind that `load` reads.

        Args:
          reader_tokenizer, retriever_tokenizer: folders of the tokenizers (or a spiece.model) where they do not lie with the models.

        Raises:
          ModelFolderError: a folder does not hold what it should, or a tokenizer is missing.
        """
        opened = loading.join(loading.open_model(reader), loading.open_model(retriever))
        opened = dataclasses.replace(opened, inputs=inputs, n_context=n_context, task=task)
        return cls._of_opened(opened, mesh, reader_tokenizer, retriever_tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike, *, mesh: jax.sharding.Mesh | None = None, reader_tokenizer: str | os.PathLike | None = None,
             retriever_tokenizer: str | os.PathLike | None = None) -> 'Atlas':
        """Loads a folder that `atlas-jax train` or `Atlas.save` wrote (of a run, the newest checkpoint), an original Atlas checkpoint, or a
        folder with reader/ and retriever/.

        Args:
          reader_tokenizer, retriever_tokenizer: folders of the tokenizers (or a spiece.model) of an original checkpoint, where they do not
            lie beside it.

        Raises:
          ModelFolderError: no model in the folder, one of another version, or a tokenizer is missing.
        """
        found = kinds.detect(path)
        if found.kind != kinds.ATLAS_JAX:
            return cls._of_opened(loading.open_model(path, retriever_tokenizer), mesh, reader_tokenizer, retriever_tokenizer)
        path = found.path
        description = run_folder.read_model_file(path)
        config = atlas_lib.config_from_dict(description)
        mesh = partitioning.make_mesh() if mesh is None else mesh
        template = state_lib.abstract_param_items(config, mesh, description['has_passage_encoder'])
        with run_folder.RunCheckpoints(path) as checkpoints:
            if checkpoints.latest_step is None:
                raise errors.ModelFolderError(f'{path}: no checkpoint was saved yet; let the training reach its first checkpoint')
            params = checkpoints.restore_params(template)
        return cls(config, params, T5Tokenizer.from_folder(path / 'tokenizers' / 'reader'),
                   BertTokenizer.from_folder(path / 'tokenizers' / 'retriever'), registry.from_dict(description['task']), mesh)

    @classmethod
    def _of_opened(cls, opened: loading.Opened, mesh: jax.sharding.Mesh | None, reader_tokenizer: str | os.PathLike | None,
                   retriever_tokenizer: str | os.PathLike | None) -> 'Atlas':
        reader, retriever = opened.part('reader'), opened.part('retriever')
        places = opened.tokenizer_places
        tokenizers = (tokenizer_files.reader_tokenizer(reader_tokenizer, places['reader'], reader.config.vocab_size),
                      tokenizer_files.retriever_tokenizer(retriever_tokenizer, places['retriever'], retriever.config.vocab_size))
        config = atlas_lib.AtlasConfig(reader.config, retriever.config, opened.inputs or atlas_lib.InputConfig(),
                                       1 if opened.n_context is None else opened.n_context)
        params = {name: opened.part(name).stacked_params() for name in opened.openers}
        return cls(config, params, *tokenizers, opened.task or QATask(), mesh)

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
        return own.describe(self.config, self.task, 'passage_encoder' in self.params)

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
        inputs = self.config.inputs
        return encode.ExampleEncoder(self.reader_tokenizer, self.retriever_tokenizer, inputs.query_max_tokens, inputs.target_max_tokens,
                                     inputs.decoder_format, inputs.decoder_prompt_format, self.task)

    def answer(self, questions: Sequence[str], index: 'Index | Sequence[Index] | None' = None, n_context: int | None = None,
               batch_size: int | None = None, decoding: DecodingConfig | None = None,
               search: search_config.SearchConfig | str | None = None) -> list[Answer]:
        """Answers questions from the index's passages; without an index, from the reader's memory alone.

        Args:
          questions: plain questions.
          index: what to search, several indexes together; None is closed book.
          n_context: passages to read, default what the model was trained with.
          batch_size: questions read at a time.
          decoding: how answers are generated; None is greedy.
          search: how passages are found, or the name of a searcher; None is exact.
        """
        examples = [task_lib.ask(self.task, question, i) for i, question in enumerate(questions)]
        batch_size = batch_size or min(len(questions), 16)
        return list(self.answer_examples(examples, index, n_context, batch_size, decoding=decoding, search=search))

    def answer_examples(self, examples: Sequence[TaskExample], index: 'Index | Sequence[Index] | None', n_context: int | None = None,
                        batch_size: int = 16, progress_label: str | None = None,
                        decoding: DecodingConfig | None = None, search: search_config.SearchConfig | str | None = None, *,
                        use_file_passages: bool = False, knowledge: types.Knowledge | None = None,
                        step: step_config.StepConfig | None = None) -> Iterator[Answer]:
        """Answers task examples in order; with a label it shows a progress bar.

        `use_file_passages` reads the examples' own passages; `knowledge` is the index as a training run has it on the devices now; `step`
        gives the dtypes of weights and activations.
        """
        if not examples:
            return
        index, batch_size = index_group.of(index), self.whole_batch(batch_size)
        prepared = prepare.prepare(self, examples, index, self.passages_to_read(index, n_context, use_file_passages), batch_size,
                                   use_file_passages=use_file_passages, search=search, knowledge=knowledge, step=step)
        run = answer_steps.for_spec(prepared.spec, decoding or DecodingConfig())
        for chunk, answered in prepared.run(run, self.device_params(prepared.spec.step), examples, batch_size, progress_label):
            for row, example in enumerate(chunk):
                yield self._to_answer(example, answered, row, prepared)

    def passages_to_read(self, index: Any, n_context: int | None, use_file_passages: bool = False) -> int:
        """n_context where there is something to read, at least 1, by default what the model was trained with; 0 in a closed book."""
        if index is None and not use_file_passages:
            return 0
        return max(self.config.n_context if n_context is None else n_context, 1)

    def whole_batch(self, batch_size: int) -> int:
        """The next batch size that divides over the devices."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def device_params(self, step: step_config.StepConfig | None = None) -> dict[str, Any]:
        """The parameters on the model's mesh; with a step, bfloat16 where it wants them so."""
        shardings = state_lib.param_shardings(self.config, self.mesh)
        shardings = {**shardings, 'passage_encoder': shardings['retriever']}
        params = {name: self.params[name] for name in shardings if name in self.params}
        if step is not None and step.param_dtype != 'float32':  # cast before they are placed: the whole model may not fit otherwise
            params = jax.tree.map(lambda leaf: leaf.astype(step.param_type), params)
        return {name: hosts.place(tree, shardings[name]) for name, tree in params.items()}

    def _to_answer(self, example: TaskExample, answered: answer_step.Answered, row: int, prepared: prepare.Prepared) -> Answer:
        texts = [self.task.answer_text(prepared.encoder.written(example, tokens.tolist())) for tokens in answered.tokens[row]]
        scores = [] if answered.scores is None else answered.scores[row].tolist()
        passages = ()
        if answered.retrieved is not None:
            passages = self.passages_of(example, answered.retrieved, row, prepared.index, answered.attention)
        alternatives = tuple(Alternative(*pair) for pair in zip(texts[1:], scores[1:], strict=True))
        return Answer(example.question, texts[0], passages, scores[0] if scores else None, alternatives)

    def passages_of(self, example: TaskExample, retrieved: types.Retrieved, row: int, index: index_group.IndexGroup | None,
                    attention: np.ndarray | None = None) -> tuple[AnswerPassage, ...]:
        """The passages of one row of what was retrieved, on the host; without an index, of the example's own. `attention` [batch, n]."""
        found = []
        for place, (score, passage_id) in enumerate(zip(retrieved.scores[row], retrieved.passage_ids[row], strict=True)):
            share, passage_id = 0.0 if attention is None else float(attention[row][place]), int(passage_id)
            if np.isfinite(score) and index is not None:
                part, store_row = index.locate(passage_id, self.mesh)
                passage = part.store[store_row]
                found.append(AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share, str(part.index.path)))
            elif np.isfinite(score) and passage_id < len(example.passages):
                passage = example.passages[passage_id]
                found.append(AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share))
        return tuple(found)


class Index:
    """Embeddings on disk together with the passage store they belong to.

    `force` takes models that did not build the index; what is found is then of no use, unless one knows better.
    """

    def __init__(self, index: PassageIndex, store: PassageStore, force: bool = False):
        self.index, self.store, self.force = index, store, force
        self.group = index_group.IndexGroup([self])
        self._knowledge: dict[tuple, Any] = {}  # parts of types.Knowledge

    @classmethod
    def build(cls, store: PassageStore, atlas: Atlas, path: str | os.PathLike, *, dtype: str = 'float32',
              show_progress: bool = True) -> 'Index':
        """Embeds every passage of the store with the model's passage encoder; resumes where a killed build stopped.

        `dtype` is float32, bfloat16 or int8. Under jax.distributed every process calls it and embeds its share.
        """
        with hosts.together():
            if hosts.is_first():
                store.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer, progress=show_progress)
        store = store if hosts.is_first() else PassageStore.open(store.path)
        return cls(PassageIndex.build(store, atlas.embedder(), path, dtype=dtype, progress=show_progress), store)

    @classmethod
    def open(cls, path: str | os.PathLike, store: PassageStore | str | os.PathLike | None = None, *, force: bool = False) -> 'Index':
        """Opens an index and its store (default: the store it was built from, found relative to the index).

        Raises:
          IndexFolderError, StoreError: missing or damaged.
        """
        index = PassageIndex.open(path)
        store = index.store_path if store is None else store
        return cls(index, store if isinstance(store, PassageStore) else PassageStore.open(store), force)

    def check(self, atlas: Atlas) -> None:
        """Refuses a model that did not build this index (unless `force`), or whose tokenizers are not the store's."""
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        self.index.check(self.store, atlas.embedder(), self.force)

    def replace(self, passages, atlas: Atlas) -> None:
        """Adds passages; one whose docid is there already takes its place. Only these are embedded.

        Where an earlier call was killed after it had stored its passages, they are embedded first.
        """
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        self.index.check_model(atlas.embedder(), self.force)
        self.index.add(self.store, atlas.embedder(), force=self.force)
        with hosts.together():
            if hosts.is_first():
                self.store.append(passages)
        if not hosts.is_first():
            self.store = PassageStore.open(self.store.path)
        self.index.add(self.store, atlas.embedder(), force=self.force)
        self._knowledge.clear()

    def delete(self, docids: Sequence[str]) -> int:
        """Takes passages out of every later search; returns how many."""
        deleted = self.index.delete(docids, self.store)
        self._knowledge.clear()
        return deleted

    def compact(self) -> bool:
        """Rewrites index and passages without the deleted ones; returns whether there was anything to do. Rows change, docids stay."""
        changed = self.index.compact(self.store)
        self.store = PassageStore.open(self.index.store_path)
        self._knowledge.clear()
        return changed

    def token_lengths(self, reader_queries: np.ndarray) -> spec_lib.TokenLengths:
        """What stream capacities are chosen from."""
        return spec_lib.TokenLengths(np.asarray(self.store.reader_lengths), np.asarray(self.store.retriever_lengths), reader_queries)

    def knowledge(self, atlas: Atlas, *, retriever_tokens: bool = False, embeddings: bool = True) -> types.Knowledge:
        """Index and token tables on the model's devices, rows sharded over all of them; kept for the next call.

        Args:
          atlas: the model; it must have built this index.
          retriever_tokens: also the passages in the retriever's tokens, to embed them in the train step.
          embeddings: without them, the host must search.
        """
        self.check(atlas)
        limit = atlas.config.inputs.text_max_tokens
        rows = index_group.padded_rows(len(self.index), atlas.mesh)
        makers = {('reader_table', limit): lambda: index_group.place(self.store.reader_table, limit, rows, atlas.mesh),
                  ('index',): (lambda: self.index.device_arrays(atlas.mesh)) if embeddings else None,
                  ('retriever_table', limit): (lambda: index_group.place(self.store.retriever_table, limit, rows, atlas.mesh))
                  if retriever_tokens else None}
        wanted = {(*key, atlas.mesh): make for key, make in makers.items() if make is not None}
        for key in wanted.keys() - self._knowledge.keys():
            self._knowledge[key] = wanted[key]()
        return types.Knowledge(**{'index': None, **{key[0]: self._knowledge[key] for key in wanted}})


def no_passages(reader_queries: np.ndarray) -> spec_lib.TokenLengths:
    """Token lengths of a closed book."""
    return spec_lib.TokenLengths(np.zeros(1, np.int64), np.zeros(1, np.int64), reader_queries)
