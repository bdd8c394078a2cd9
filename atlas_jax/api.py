"""The public surface: Atlas (a model that answers), Index (its knowledge), PassageStore, Answer.

    atlas = Atlas.load('run')
    store = PassageStore.build('documents', 'store')
    index = Index.build(store, atlas, 'index')
    answers = atlas.answer(['who discovered radium?'], index)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from atlas_jax import types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.decoding import DecodingConfig
from atlas_jax.input import words as words_lib
from atlas_jax.knowledge import group
from atlas_jax.knowledge.index import Found, Index
from atlas_jax.model import AtlasModel, ModelSource
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import answer as answer_lib
from atlas_jax.steps import confidence, evidence, listening, prepare
from atlas_jax.steps import signals as signals_lib
from atlas_jax.steps.spec import StepConfig
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.task import TaskExample

WITHHELD = 'I do not know'  # in place of an answer of too little confidence


@dataclasses.dataclass(frozen=True)
class AnswerPassage:
    """A passage behind an answer.

    Attributes:
      docid, title, text: as they were indexed.
      score: the retriever's.
      attention: its share of the decoder's cross attention, 0 to 1: where the decoder looked, not what made the answer.
      index: the folder of its index.
      carried: how much the answer's log likelihood falls when this passage alone is left out; None unless it was asked to be explained, or
        where no other passage was read.
      words: (word, share of the attention) of its text in order, where it was asked to be explained.
    """

    docid: str
    title: str
    text: str
    score: float
    attention: float
    index: str = ''
    carried: float | None = None
    words: tuple[tuple[str, float], ...] = ()


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
      confidence: the probability that the answer is right, 0 to 1; None where the model is not calibrated.
      abstained: the confidence was too low, so `text` is WITHHELD and `guess` has what was generated.
      guess: the answer that is withheld; None where it is not.
      signals: what the confidence was made from (steps/signals.py); None where nothing was computed.
    """

    question: str
    text: str
    passages: tuple[AnswerPassage, ...] = ()
    score: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    confidence: float | None = None
    abstained: bool = False
    guess: str | None = None
    signals: dict[str, float] | None = None

    @property
    def generated(self) -> str:
        """The text that was generated, withheld or not."""
        return self.text if self.guess is None else self.guess


class Listener(Protocol):
    """Hears a batch of questions while it is answered; called from a thread of jax, so it must be quick and must not raise."""

    def found(self, row: int, passages: tuple[AnswerPassage, ...]) -> None:
        """Takes the passages that a question's answer is going to be read from; their attention is not yet known."""

    def text(self, row: int, text: str) -> None:
        """Takes the text of a question's answer so far."""


@dataclasses.dataclass
class Atlas(AtlasModel):
    """A retriever and a reader with their tokenizers, answering questions. Its data and how it is loaded: model.AtlasModel."""

    def answer(self, questions: Sequence[str], index: Index | Sequence[Index] | None = None, n_context: int | None = None,
               batch_size: int | None = None, decoding: DecodingConfig | None = None,
               search: SearchConfig | str | None = None, *, explain: bool = False,
               abstain_below: float | None = None, signals: bool | None = None) -> list[Answer]:
        """Answers questions from the index's passages; without an index, from the reader's memory alone.

        Args:
          questions: plain questions.
          index: what to search, several indexes together; None is closed book.
          n_context: passages to read, default what the model was trained with.
          batch_size: questions read at a time.
          decoding: how answers are generated; None is greedy.
          search: how passages are found, or the name of a searcher; None is exact.
          explain: says what each passage carried, and how its words were attended to.
          abstain_below: withholds answers of less confidence; the model must be calibrated (`atlas-jax calibrate`).
          signals: as of `answer_examples`; False where nobody asks for the confidence.

        Raises:
          IndexFolderError, StoreError: another model built the index, or it is damaged. ConfigError: options contradict each other.
        """
        examples = [task_lib.ask(self.task, question, i) for i, question in enumerate(questions)]
        # Hardly wider than the questions, for a filler row costs as much as a question; as many as others had, for their program.
        batch_size = batch_size or min(_power_of_two(len(questions)), 16)
        return list(self.answer_examples(examples, index, n_context, batch_size, decoding=decoding, search=search,
                                         explain=explain, abstain_below=abstain_below, signals=signals))

    def answer_examples(self, examples: Sequence[TaskExample], index: Index | Sequence[Index] | group.IndexGroup | None,
                        n_context: int | None = None, batch_size: int = 16, progress_label: str | None = None,
                        decoding: DecodingConfig | None = None, search: SearchConfig | str | None = None, *,
                        use_file_passages: bool = False, knowledge: types.Knowledge | None = None,
                        step: StepConfig | None = None, explain: bool = False, abstain_below: float | None = None,
                        signals: bool | None = None, listener: Listener | None = None) -> Iterator[Answer]:
        """Answers task examples in order; with a label it shows a progress bar.

        Args:
          use_file_passages: reads the examples' own passages; nothing is searched.
          knowledge: the index as a training run has it on the devices now.
          step: dtypes of weights and activations.
          explain, abstain_below: as of `answer`.
          signals: computes what a confidence is made from; None does where the model is calibrated.
          listener: hears of one batch, and of greedy decoding, while it is computed.

        Raises:
          IndexFolderError, StoreError, ConfigError: as `answer`.
        """
        if abstain_below is not None:
            confidence.check(abstain_below, self.calibration)
            signals = True
        if not examples:
            return
        signals = self.calibration is not None if signals is None else signals
        decoding = decoding or DecodingConfig()
        # Static shapes, a row a device at least: fillers complete the last batch.
        batch_size = self.whole_batch(batch_size)
        prepared = prepare.prepare(self, examples, index, prepare.passages_to_read(self, index, n_context, use_file_passages), batch_size,
                                   use_file_passages=use_file_passages, search=search, knowledge=knowledge, step=step)
        wanted: evidence.Wanted = 'likelihood' if signals else 'nothing'
        if explain and not prepared.spec.closed_book:
            wanted = 'passages'
        # The agreement of beams shows in all of them, however many are to be returned.
        searched = dataclasses.replace(decoding, num_return_sequences=decoding.num_beams) if signals else decoding
        # A step made before may serve: the second call of a session then compiles nothing.
        word_starts = self.reader_tokenizer.word_starts if decoding.quote else b''
        run = answer_lib.step_for(prepared.spec, batch_size, searched, wanted, word_starts, heard=listener is not None)
        # Placed anew only where they lie on the host; device arrays stay where they are.
        params = self.device_params(prepared.spec.step.param_dtype)
        closed_book = evidence.ClosedBook(self, examples, batch_size, step) if signals and not prepared.spec.closed_book else None
        if self.calibration is not None and signals:
            confidence.say_differences(self.calibration, confidence.settings_of(self.task, prepared, decoding))
        heard = None if listener is None else _Heard(self.task, listener, examples, prepared)
        for chunk, answered in _listened(prepared.run(run, params, examples, batch_size, progress_label), heard):
            likelihoods = None if closed_book is None else closed_book.log_likelihoods(params, chunk, answered.tokens[:, 0])
            for row, example in enumerate(chunk):
                answer, texts = self._to_answer(example, answered, row, prepared, decoding.num_return_sequences)
                if signals:
                    said = [f'{passage.title} {passage.text}' for passage in answer.passages]
                    without = None if likelihoods is None else float(likelihoods[row])
                    answer = self._judged(answer, signals_lib.of_row(answered, row, texts, said, without, example.question), abstain_below)
                yield answer

    def search(self, questions: Sequence[str], index: Index | Sequence[Index], top_k: int,
               search: SearchConfig | str | None = None, *, with_prompt: bool = True) -> list[list[Found]]:
        """Returns the `top_k` passages found for each question, best first; fewer where there are fewer. Nothing is read.

        Args:
          questions: plain questions.
          index: what to search, several indexes together.
          top_k: passages a question gets.
          search: how, or the name of a searcher; None is exact.
          with_prompt: searches for what answering searches for, questions as the task writes them; without, for the questions as they are,
            which is what a retriever is trained on alone.

        Raises:
          IndexFolderError: another model built the index. StoreError: its passages are missing or damaged.
          ConfigError: an unknown searcher, or its package is missing.
        """
        if not questions:
            return []
        examples = [task_lib.searched(self.task, question, i, with_prompt) for i, question in enumerate(questions)]
        # One batch: a search alone is cheap, its compilation is not.
        size = self.whole_batch(_power_of_two(len(examples)))
        prepared = prepare.prepare(self, examples, index, top_k, size, search=search)
        [(_, retrieved)] = prepared.search(self.device_params(), examples, size)
        index_group = types.required(prepared.index)

        def found(row: int, score: float) -> Found:
            part, place = index_group.locate(row, self.mesh)
            return Found(part.store[place], score, str(part.index.path))

        # Fillers end the batch; their rows are left out.
        return [[found(int(row), float(score)) for row, score in zip(*pair, strict=True) if np.isfinite(score)]
                for pair in zip(retrieved.passage_ids[:len(questions)], retrieved.scores[:len(questions)], strict=True)]

    def _to_answer(self, example: TaskExample, answered: answer_lib.Answered, row: int, prepared: prepare.Prepared,
                   shown: int) -> tuple[Answer, list[str]]:
        """Returns the answer with `shown` sequences, and the texts of all of them."""
        # The task takes its own format off again: sentinels, prefixes, prompts.
        texts = [self.task.answer_text(prepared.encoder.written(example, tokens.tolist())) for tokens in answered.tokens[row]]
        # Greedy decoding ranks nothing, so it has no scores.
        scores = [] if answered.scores is None else answered.scores[row].tolist()
        passages: tuple[AnswerPassage, ...] = ()
        if answered.retrieved is not None:
            passages = passages_of(example, answered.retrieved, row, prepared, answered.attention)
            if answered.evidence is not None and answered.evidence.without is not None:
                passages = self._explained(passages, answered.evidence, answered.retrieved, row)
        # The first sequence is the answer; the others were asked for with num_return_sequences.
        alternatives = tuple(Alternative(*pair) for pair in zip(texts[1:shown], scores[1:shown], strict=True))
        return Answer(example.question, texts[0], passages, scores[0] if scores else None, alternatives), texts

    def _explained(self, passages: tuple[AnswerPassage, ...], found: evidence.Evidence, retrieved: types.Retrieved,
                   row: int) -> tuple[AnswerPassage, ...]:
        """Returns the passages with what each carried, and the attention to its words."""
        without, tokens, shares = (types.required(each)[row] for each in (found.without, found.reader_tokens, found.token_attention))
        # `passages` has no empty slots, so their places among the slots are needed.
        slots = np.flatnonzero(np.isfinite(retrieved.scores[row]))[:len(passages)]
        drops = [float(found.log_likelihood[row] - without[slot]) if len(passages) > 1 else None for slot in slots]
        return tuple(dataclasses.replace(passage, carried=drop, words=words_lib.shares_of_words(
            passage.text, self.reader_tokenizer.encode, tokens[slot].tolist(), shares[slot].tolist()))
                     for passage, slot, drop in zip(passages, slots, drops, strict=True))

    def _judged(self, answer: Answer, found: signals_lib.Signals, abstain_below: float | None) -> Answer:
        """Returns the answer with its signals and, where the model is calibrated, its confidence; withheld if that is too low."""
        chance = None if self.calibration is None else self.calibration.confidence(found)
        answer = dataclasses.replace(answer, confidence=chance, signals=found)
        if abstain_below is None or chance is None or chance >= abstain_below:
            return answer
        return dataclasses.replace(answer, text=WITHHELD, abstained=True, guess=answer.text, alternatives=())


class _Heard:
    """Turns what a step tells into passages and text, for a Listener."""

    def __init__(self, task: task_lib.Task, listener: Listener, examples: Sequence[TaskExample], prepared: prepare.Prepared):
        self._task, self._listener, self._examples, self._prepared = task, listener, examples, prepared
        self._tokens: list[list[int]] = [[] for _ in examples]

    def found(self, retrieved: types.Retrieved) -> None:
        """Takes what was retrieved for the batch."""
        for row, example in enumerate(self._examples):
            self._listener.found(row, passages_of(example, retrieved, row, self._prepared))

    def decoded(self, position: int, tokens: np.ndarray) -> None:
        """Takes the tokens at a position, [batch]."""
        encoder = self._prepared.encoder
        for row, example in enumerate(self._examples):
            self._tokens[row].append(int(tokens[row]))
            text = self._task.answer_text(encoder.written(example, self._tokens[row]))
            self._listener.text(row, text)


def _listened(items: Iterator[Any], heard: _Heard | None) -> Iterator[Any]:
    with listening.listening(heard):
        yield from items


def _power_of_two(questions: int) -> int:
    """Returns the least power of two that is not less than a number of questions, so that most numbers share a compiled program."""
    return 1 << max(questions - 1, 0).bit_length()


def passages_of(example: TaskExample, retrieved: types.Retrieved, row: int, prepared: prepare.Prepared,
                attention: np.ndarray | jax.Array | None = None) -> tuple[AnswerPassage, ...]:
    """Returns the passages of one row of what was retrieved: the index's, or without one the example's own.

    Args:
      example: the example of that row.
      retrieved: [batch, n] scores and ids, on the host.
      row: of the batch.
      prepared: what was searched.
      attention: [batch, n] float32, each passage's share of the decoder's cross attention; None where it was not recorded.
    """
    found = []
    for place, (score, passage_id) in enumerate(zip(retrieved.scores[row], retrieved.passage_ids[row], strict=True)):
        share, passage_id = 0.0 if attention is None else float(attention[row][place]), int(passage_id)
        # -inf marks empty slots: the index may have fewer passages than were asked for.
        if not np.isfinite(score):
            continue
        if prepared.index is not None:
            part, store_row = prepared.index.locate(passage_id, prepared.spec.mesh)
            passage = part.store[store_row]
            found.append(AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share, str(part.index.path)))
        # Own passages are numbered by their place; empty slots lie behind them.
        elif passage_id < len(example.passages):
            passage = example.passages[passage_id]
            found.append(AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share))
    return tuple(found)


def build_index(store_dir: str, index_dir: str, model: ModelSource, dtype: str = 'float32') -> dict[str, Any]:
    """Embeds every passage of a store with a model's passage encoder; a killed build goes on when it is run again.

    Args:
      store_dir: passages, from `atlas-jax data passages`.
      index_dir: folder to write, on a disk or gs://….
      model: the model; where its formats differ from its folder's, training and answering need the same.
      dtype: of the embeddings on disk and on the devices: float32, bfloat16 or int8.

    Returns:
      The index's description: rows, dim, bytes, fingerprints; and `truncated`, how many passages were longer than the model's limit.

    Raises:
      UserError: anything the user can mend, before the first passage is embedded.
    """
    # The store first: it is quick to open, and a wrong path must not cost the loading of a model.
    store = PassageStore.open(store_dir)
    atlas = model.load(AtlasModel)
    built = Index.build(store, atlas, index_dir, dtype=dtype)
    # Said after the build, since only the finished store knows all lengths.
    truncated = atlas.embedder().truncated(built.store.retriever_title_lengths, built.store.retriever_lengths)
    return {**built.index.info(), 'truncated': truncated}
