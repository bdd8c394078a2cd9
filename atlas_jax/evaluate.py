"""Evaluate a model on a file of questions: exact match, F1, recall; every answer as a JSON line."""

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

from atlas_jax import api, errors
from atlas_jax.io import jsonl
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.metrics import statistics
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.tasks import protocol


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers of one model to one set of questions, and their scores.

    Attributes:
      answers: in the order of the examples.
      exact_match, f1: per question, 0 to 1.
      answer_ranks, gold_ranks: rank from 0 of the first passage with an answer string in it, and of the first gold passage; None if
        there is none among those retrieved. gold_ranks is empty where the examples name no gold passages.
      seconds: wall time, compilation included.
    """

    answers: tuple[api.Answer, ...]
    exact_match: tuple[float, ...]
    f1: tuple[float, ...]
    answer_ranks: tuple[int | None, ...]
    gold_ranks: tuple[int | None, ...]
    seconds: float

    def summary(self, top_k: int) -> dict[str, Any]:
        """The figures that programs read; recalls up to `top_k` passages."""
        exact_match, stderr = statistics.mean_and_standard_error(self.exact_match)
        figures = {'exact_match': exact_match, 'stderr': stderr, 'f1': statistics.mean_and_standard_error(self.f1)[0],
                   'questions': len(self.answers), 'seconds': round(self.seconds, 1)}
        for k in (k for k in (1, 2, 5, 10, 20, 50, 100) if k <= top_k):
            figures[f'answer_recall_at_{k}'] = retrieval_metrics.recall_at_k(self.answer_ranks, k)
            if self.gold_ranks:
                figures[f'gold_recall_at_{k}'] = retrieval_metrics.recall_at_k(self.gold_ranks, k)
        return figures


def evaluate_examples(atlas: api.Atlas, examples: Sequence[protocol.TaskExample], index: api.Index | None, *, n_context: int | None = None,
                      batch_size: int = 16, label: str = 'answering') -> Evaluation:
    """Answers the examples through the train step's own retrieval and assembly, and scores the answers."""
    start = time.perf_counter()
    answers = tuple(atlas.answer_examples(examples, index, n_context, batch_size, label))
    gold = [set(example.gold_docids) for example in examples]
    pairs = list(zip(answers, examples, strict=True))
    return Evaluation(
        answers=answers,
        exact_match=tuple(float(answer_metrics.exact_match(answer.text, example.answers)) for answer, example in pairs),
        f1=tuple(answer_metrics.f1(answer.text, example.answers) for answer, example in pairs),
        answer_ranks=tuple(retrieval_metrics.first_answer_rank([passage.text for passage in answer.passages], example.answers)
                           for answer, example in pairs),
        gold_ranks=tuple(retrieval_metrics.first_gold_rank([passage.docid for passage in answer.passages], docids)
                         for answer, docids in zip(answers, gold, strict=True)) if any(gold) else (),
        seconds=time.perf_counter() - start)


def write_results(path: str | os.PathLike, evaluation: Evaluation, examples: Sequence[protocol.TaskExample]) -> None:
    """One JSON line a question: question, answers, prediction, scores, passages."""
    def row(number: int, answer: api.Answer, example: protocol.TaskExample) -> dict[str, Any]:
        return {'example_id': example.example_id, 'question': answer.question, 'answers': list(example.answers), 'prediction': answer.text,
                'exact_match': evaluation.exact_match[number], 'f1': evaluation.f1[number],
                'passages': [dataclasses.asdict(passage) for passage in answer.passages]}

    jsonl.write(path, [row(i, *pair) for i, pair in enumerate(zip(evaluation.answers, examples, strict=True))])


def load_model(model_dir: str | None, reader_dir: str | None, retriever_dir: str | None, inputs: atlas_lib.InputConfig | None,
               task: protocol.Task | None) -> api.Atlas:
    """The model of a run folder, or of two Hugging Face folders.

    Raises:
      ConfigError: neither or both are given.
    """
    if bool(model_dir) == bool(reader_dir or retriever_dir) or bool(reader_dir) != bool(retriever_dir):
        raise errors.ConfigError('give either one model folder, or a reader folder and a retriever folder')
    if model_dir:
        atlas = api.Atlas.load(model_dir)
        if inputs is not None:
            atlas.config = dataclasses.replace(atlas.config, inputs=inputs)
        if task is not None:
            atlas.task = task
        return atlas
    return api.Atlas.from_pretrained(reader=reader_dir, retriever=retriever_dir, inputs=inputs, task=task)


def evaluate(examples_file: str, model_dir: str | None = None, reader_dir: str | None = None, retriever_dir: str | None = None,
             index_dir: str | None = None, n_context: int | None = None, batch_size: int = 16, results_file: str | None = None,
             task: protocol.Task | None = None, inputs: atlas_lib.InputConfig | None = None, max_examples: int | None = None) -> dict[str, Any]:
    """Evaluates a model folder on a JSON-lines file of questions; without an index, closed book.

    Args:
      examples_file: lines with question, and answers or target; gold_docids where known.
      model_dir: a folder that train wrote; or reader_dir and retriever_dir, Hugging Face folders.
      index_dir: the index to retrieve from.
      n_context: passages read, default what the model was trained with.
      batch_size: questions at a time.
      results_file: where every answer goes, as JSON lines.
      task, inputs: formats, where they are to differ from the model's own.
      max_examples: the first so many lines only.

    Returns:
      exact_match, stderr, f1, questions, seconds, answer_recall_at_k, gold_recall_at_k.
    """
    atlas = load_model(model_dir, reader_dir, retriever_dir, inputs, task)
    examples = protocol.read_examples(examples_file, atlas.task)[:max_examples]
    index = None if index_dir is None else api.Index.open(index_dir)
    evaluation = evaluate_examples(atlas, examples, index, n_context=n_context, batch_size=batch_size)
    if results_file:
        write_results(results_file, evaluation, examples)
    return evaluation.summary(top_k=len(evaluation.answers[0].passages))
