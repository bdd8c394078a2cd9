"""The public API: Atlas (a model that answers), Index (its knowledge), PassageStore, Answer.

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
from atlas_jax.answering import closed_book as closed_book_lib
from atlas_jax.answering import confidence, prepare
from atlas_jax.answering import signals as signals_lib
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.corpus.store import PassageStore
from atlas_jax.decoding import DecodingConfig
from atlas_jax.input import words as words_lib
from atlas_jax.knowledge import group
from atlas_jax.knowledge.index_with_store import FoundPassage, Index
from atlas_jax.model import AtlasModel, ModelSource
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import answer as answer_lib
from atlas_jax.steps import evidence, listening
from atlas_jax.steps.spec import StepConfig
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.task import TaskExample

WITHHELD = 'I do not know'  # replaces an answer whose confidence is too low


@dataclasses.dataclass(frozen=True)
class AnswerPassage:
    """A passage behind an answer.

    Attributes:
      docid, title, text: the passage as it was indexed.
      score: the retriever's score.
      attention: share of the decoder's cross attention, 0 to 1. It shows where the decoder looked,
        not what caused the answer.
      index: folder of the passage's index.
      carried: how much the answer's log likelihood falls when this passage alone is left out. None
        without `explain`, or if no other passage was read.
      words: (word, share of the attention) for the words of the text, in order; only with
        `explain`.
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
    """Another answer from the same beam search, and its score."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer and the passages it was read from, best retrieved first.

    Attributes:
      score: log likelihood / length ** length_penalty with beam search, else None.
      alternatives: the next best answers, if more than one was requested.
      confidence: probability that the answer is right, 0 to 1; None if the model is not calibrated.
      abstained: the confidence was too low: `text` is WITHHELD, and `guess` holds the generated
        answer.
      guess: the withheld answer; None if the answer is shown.
      signals: numbers that the confidence is computed from (answering/signals.py); None if they
        were not computed.
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


class AnswerListener(Protocol):
    """Receives the passages and texts of a batch of questions while it is answered.

    A thread of jax calls it, so it must be quick and must not raise.
    """

    def found(self, row: int, passages: tuple[AnswerPassage, ...]) -> None:
        """Receives the passages that a question's answer will be read from; their attention is not
        known yet.
        """

    def text(self, row: int, text: str) -> None:
        """Receives the text of a question's answer so far."""


@dataclasses.dataclass
class Atlas(AtlasModel):
    """A retriever and a reader with their tokenizers. It answers questions.

    model.AtlasModel has its data, loading and saving.
    """

    def answer(self, questions: Sequence[str], index: Index | Sequence[Index] | None = None,
               n_context: int | None = None, batch_size: int | None = None,
               decoding: DecodingConfig | None = None, search: SearchConfig | str | None = None, *,
               explain: bool = False, abstain_below: float | None = None,
               signals: bool | None = None) -> list[Answer]:
        """Answers questions from the index's passages; without an index, from the reader's memory
        alone.

        Args:
          questions: plain questions.
          index: index to search, or several to search together; None is closed book.
          n_context: number of passages to read; None is the number the model was trained with.
          batch_size: questions read at a time.
          decoding: how answers are generated; None is greedy.
          search: how passages are found, or the name of a searcher; None is exact.
          explain: computes what each passage carried, and the attention to its words.
          abstain_below: withholds answers with a lower confidence; the model must be calibrated
            (`atlas-jax calibrate`).
          signals: see `answer_examples`; False skips the confidence.

        Raises:
          IndexFolderError, StoreError: another model built the index, or it is damaged.
            ConfigError: options contradict each other.
        """
        examples = [task_lib.ask(self.task, question, i) for i, question in enumerate(questions)]
        # A power of two: few sizes share few programs, and few rows are fillers, which cost as much
        # as questions.
        batch_size = batch_size or min(_power_of_two(len(questions)), 16)
        return list(
            self.answer_examples(examples, index, n_context, batch_size, decoding=decoding,
                                 search=search, explain=explain, abstain_below=abstain_below,
                                 signals=signals))

    def answer_examples(self, examples: Sequence[TaskExample],
                        index: Index | Sequence[Index] | group.IndexGroup | None,
                        n_context: int | None = None, batch_size: int = 16,
                        progress_label: str | None = None, decoding: DecodingConfig | None = None,
                        search: SearchConfig | str | None = None, *,
                        use_file_passages: bool = False, knowledge: types.Knowledge | None = None,
                        step: StepConfig | None = None, explain: bool = False,
                        abstain_below: float | None = None, signals: bool | None = None,
                        listener: AnswerListener | None = None) -> Iterator[Answer]:
        """Answers task examples in order; with a label it shows a progress bar.

        Args:
          examples, index, n_context, batch_size, decoding, search, explain, abstain_below: see
            `answer`.
          use_file_passages: reads the examples' own passages; nothing is searched.
          knowledge: a training run's index on the devices, used instead of the one on disk.
          step: dtypes of weights and activations.
          signals: computes the numbers that a confidence is made from; None does so if the model is
            calibrated.
          listener: receives passages and tokens while they are computed; for one batch and greedy
            decoding.

        Raises IndexFolderError, StoreError, ConfigError: the same errors as `answer`.
        """
        if abstain_below is not None:
            confidence.check(abstain_below, self.calibration)
            signals = True
        if not examples:
            return
        signals = self.calibration is not None if signals is None else signals
        decoding = decoding or DecodingConfig()
        batch_size = self.whole_batch(batch_size)  # fillers complete the last batch
        prepared = prepare.prepare_examples(
            self, examples, index,
            prepare.passages_to_read(self, index, n_context, use_file_passages), batch_size,
            use_file_passages=use_file_passages, search=search, knowledge=knowledge, step=step)
        run = self._answer_step(prepared, batch_size, decoding, signals, explain,
                                listener is not None)
        params = self.device_params(prepared.spec.step.param_dtype)
        closed_book = closed_book_lib.ClosedBook(
            self, examples, batch_size, step) if signals and not prepared.spec.closed_book else None
        if self.calibration is not None and signals:
            confidence.say_differences(self.calibration,
                                       confidence.settings_of(self.task, prepared, decoding))
        heard = None if listener is None else _Heard(self.task, listener, examples, prepared)
        for chunk, answered in _listened(
                prepared.run(run, params, examples, batch_size, progress_label), heard):
            likelihoods = None if closed_book is None else closed_book.log_likelihoods(
                params, chunk, answered.tokens[:, 0])
            for row, example in enumerate(chunk):
                answer, texts = self._to_answer(example, answered, row, prepared,
                                                decoding.num_return_sequences)
                if signals:
                    read = [f'{passage.title} {passage.text}' for passage in answer.passages]
                    without = None if likelihoods is None else float(likelihoods[row])
                    answer = self._judged(
                        answer,
                        signals_lib.of_row(answered, row, texts, read, without, example.question),
                        abstain_below)
                yield answer

    def _answer_step(self, prepared: PreparedExamples, batch_size: int, decoding: DecodingConfig,
                     signals: bool, explain: bool, heard: bool) -> answer_lib.AnswerStep:
        wanted: evidence.Wanted = 'likelihood' if signals else 'nothing'
        if explain and not prepared.spec.closed_book:
            wanted = 'passages'
        # The agreement of beams needs all of them, however many are returned.
        searched = dataclasses.replace(
            decoding, num_return_sequences=decoding.num_beams) if signals else decoding
        word_starts = self.reader_tokenizer.word_starts if decoding.quote else b''
        # An earlier step may serve: the second call of a session then compiles nothing.
        return answer_lib.step_for(prepared.spec, batch_size, searched, wanted, word_starts, heard)

    def search(self, questions: Sequence[str], index: Index | Sequence[Index], top_k: int,
               search: SearchConfig | str | None = None, *,
               with_prompt: bool = True) -> list[list[FoundPassage]]:
        """Returns the `top_k` passages found for each question, best first; fewer if the index has
        fewer. Nothing is read.

        Args:
          questions: plain questions.
          index: index to search, or several to search together.
          top_k: number of passages for each question.
          search: how passages are found, or the name of a searcher; None is exact.
          with_prompt: searches for the questions in the task's format, as answering does. False
            searches for the plain questions, which a retriever trained alone expects.

        Raises:
          IndexFolderError: another model built the index. StoreError: its passages are missing or
            damaged.
          ConfigError: an unknown searcher, or its package is missing.
        """
        if not questions:
            return []
        examples = [
            task_lib.search_example(self.task, question, i, with_prompt)
            for i, question in enumerate(questions)]
        # One batch: a search costs little, its compilation much.
        size = self.whole_batch(_power_of_two(len(examples)))
        prepared = prepare.prepare_examples(self, examples, index, top_k, size, search=search)
        [(_, retrieved)] = prepared.search(self.device_params(), examples, size)
        index_group = types.required(prepared.index)

        def found(row: int, score: float) -> FoundPassage:
            part, place = index_group.locate(row, self.mesh)
            return FoundPassage(part.store[place], score, str(part.index.path))

        # Fillers end the batch; their rows are left out.
        ids, scores = (each[:len(questions)] for each in (retrieved.passage_ids, retrieved.scores))
        return [[found(int(row), float(score)) for row, score in zip(*pair, strict=True)
                 if np.isfinite(score)] for pair in zip(ids, scores, strict=True)]

    def _to_answer(self, example: TaskExample, answered: answer_lib.Answered, row: int,
                   prepared: PreparedExamples, shown: int) -> tuple[Answer, list[str]]:
        """Returns the answer with `shown` sequences, and the texts of all of them."""
        # The task removes its own format: sentinels, prefixes, prompts.
        texts = [
            self.task.answer_text(prepared.encoder.decode_answer(example, tokens.tolist()))
            for tokens in answered.tokens[row]]
        # Greedy decoding ranks nothing, so it has no scores.
        scores = [] if answered.scores is None else answered.scores[row].tolist()
        passages: tuple[AnswerPassage, ...] = ()
        if answered.retrieved is not None:
            passages = passages_of(example, answered.retrieved, row, prepared, answered.attention)
            if answered.evidence is not None and answered.evidence.without is not None:
                passages = self._explained(passages, answered.evidence, answered.retrieved, row)
        # The first sequence is the answer; num_return_sequences asks for the others.
        alternatives = tuple(
            Alternative(*pair) for pair in zip(texts[1:shown], scores[1:shown], strict=True))
        return Answer(example.question, texts[0], passages, scores[0] if scores else None,
                      alternatives), texts

    def _explained(self, passages: tuple[AnswerPassage, ...], found: evidence.Evidence,
                   retrieved: types.Retrieved, row: int) -> tuple[AnswerPassage, ...]:
        """Returns the passages with `carried` and `words` filled in."""
        without, tokens, shares = (types.required(each)[row]
                                   for each in (found.without, found.reader_tokens,
                                                found.token_attention))
        # `passages` leaves out empty slots; these are the slots of those it has.
        slots = np.flatnonzero(np.isfinite(retrieved.scores[row]))[:len(passages)]
        drops = [
            float(found.log_likelihood[row] - without[slot]) if len(passages) > 1 else None
            for slot in slots]
        return tuple(
            dataclasses.replace(
                passage, carried=drop, words=words_lib.shares_of_words(
                    passage.text, self.reader_tokenizer.encode, tokens[slot].tolist(),
                    shares[slot].tolist()))
            for passage, slot, drop in zip(passages, slots, drops, strict=True))

    def _judged(self, answer: Answer, found: signals_lib.Signals,
                abstain_below: float | None) -> Answer:
        """Returns the answer with its signals, and its confidence if the model is calibrated;
        withholds it if the confidence is too low.
        """
        chance = None if self.calibration is None else self.calibration.confidence(found)
        answer = dataclasses.replace(answer, confidence=chance, signals=found)
        if abstain_below is None or chance is None or chance >= abstain_below:
            return answer
        return dataclasses.replace(answer, text=WITHHELD, abstained=True, guess=answer.text,
                                   alternatives=())


class _Heard:
    """Turns the results that a running step reports into passages and text for a listener."""

    def __init__(self, task: task_lib.Task, listener: AnswerListener,
                 examples: Sequence[TaskExample], prepared: PreparedExamples):
        self._task, self._listener = task, listener
        self._examples, self._prepared = examples, prepared
        self._tokens: list[list[int]] = [[] for _ in examples]

    def found(self, retrieved: types.Retrieved) -> None:
        """Receives the passages retrieved for the batch."""
        for row, example in enumerate(self._examples):
            self._listener.found(row, passages_of(example, retrieved, row, self._prepared))

    def decoded(self, position: int, tokens: np.ndarray) -> None:
        """Receives the tokens at a position, [batch]."""
        encoder = self._prepared.encoder
        for row, example in enumerate(self._examples):
            self._tokens[row].append(int(tokens[row]))
            text = self._task.answer_text(encoder.decode_answer(example, self._tokens[row]))
            self._listener.text(row, text)


def _listened(items: Iterator[Any], heard: _Heard | None) -> Iterator[Any]:
    with listening.listening(heard):
        yield from items


def _power_of_two(questions: int) -> int:
    """Returns the smallest power of two >= the number of questions, so that many numbers share a
    compiled program.
    """
    return 1 << max(questions - 1, 0).bit_length()


def passages_of(example: TaskExample, retrieved: types.Retrieved, row: int,
                prepared: PreparedExamples,
                attention: np.ndarray | jax.Array | None = None) -> tuple[AnswerPassage, ...]:
    """Returns the passages retrieved for one row of a batch: the index's, or without an index the
    example's own.

    Args:
      example: the example in that row.
      retrieved: [batch, n] scores and ids, on the host.
      row: row of the batch.
      prepared: the batch's examples, with their index.
      attention: [batch, n] float32, each passage's share of the decoder's cross attention; None if
        it was not recorded.
    """
    found = []
    for place, (score, passage_id) in enumerate(
            zip(retrieved.scores[row], retrieved.passage_ids[row], strict=True)):
        share = 0.0 if attention is None else float(attention[row][place])
        passage_id = int(passage_id)
        # -inf marks empty slots: the index may have fewer passages than were requested.
        if not np.isfinite(score):
            continue
        if prepared.index is not None:
            part, store_row = prepared.index.locate(passage_id, prepared.spec.mesh)
            passage = part.store[store_row]
            found.append(
                AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share,
                              str(part.index.path)))
        # The ids of own passages are their places; empty slots come after them.
        elif passage_id < len(example.passages):
            passage = example.passages[passage_id]
            found.append(
                AnswerPassage(passage.docid, passage.full_title, passage.text, float(score), share))
    return tuple(found)


def build_index(store_dir: str, index_dir: str, model: ModelSource,
                dtype: str = 'float32') -> dict[str, Any]:
    """Embeds every passage of a store with a model's passage encoder; a killed build continues when
    it is run again.

    Args:
      store_dir: folder of passages, from `atlas-jax data passages`.
      index_dir: folder to write, on a disk or gs://….
      model: the model. If its formats differ from its folder's, training and answering need the
        same formats.
      dtype: type of the embeddings on disk and on the devices: float32, bfloat16 or int8.

    Returns:
      The index's description: rows, dim, bytes, fingerprints; and `truncated`, the number of
      passages longer than the model's limit.

    Raises:
      UserError: anything the user can fix, before the first passage is embedded.
    """
    # The store first: it opens quickly, and a wrong path should not wait for a model to load.
    store = PassageStore.open(store_dir)
    atlas = model.load(AtlasModel)
    built = Index.build(store, atlas, index_dir, dtype=dtype)
    # Only the finished store knows all lengths.
    truncated = atlas.embedder().truncated(built.store.retriever_title_lengths,
                                           built.store.retriever_lengths)
    return {**built.index.info(), 'truncated': truncated}
