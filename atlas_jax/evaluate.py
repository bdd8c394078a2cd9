"""Evaluate a model on a file of examples: the task's metrics, recall, perplexity; every answer as a JSON line."""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import api, errors, types
from atlas_jax.decoding import DecodingConfig
from atlas_jax.io import file_list, jsonl
from atlas_jax.knowledge import group as index_group
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.metrics import statistics
from atlas_jax.model import ModelSource
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import eval as eval_step
from atlas_jax.steps import prepare
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import multiple_choice
from atlas_jax.tasks import task as task_lib

# Cut-offs of the reported recalls; papers report most of these.
_TOP = (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Likelihoods:
    """The likelihood of the targets by the reader.

    nll            per question: sum over the target's tokens of their negative log likelihood
    target_tokens  per question: their number
    correlations   for each cross-attention statistic: the mean correlation of a passage's attention and its retrieval score
    """

    nll: tuple[float, ...]
    target_tokens: tuple[float, ...]
    correlations: Mapping[str, float | None]

    def summary(self) -> dict[str, Any]:
        """Returns the perplexity of all target tokens together, and the correlations."""
        figures: dict[str, Any] = {}
        if tokens := sum(self.target_tokens):
            # By token, not by question: long targets count for what they are, as in the original.
            loss = sum(self.nll) / tokens
            figures = {'eval_loss': loss, 'perplexity': math.exp(min(loss, 700))}
        return figures | {f'correlation_{name}': value for name, value in self.correlations.items() if value is not None}

    def left_out(self) -> list[str]:
        """Returns a line for each of these figures that means nothing here."""
        lines = [] if sum(self.target_tokens) else ['perplexity is left out: no target has a token']
        constant = [f'correlation_{name}' for name, value in self.correlations.items() if value is None]
        return lines + ([f'{", ".join(constant)} is left out: no question has two passages with different scores'] if constant else [])


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers of one model to one set of questions, and their scores.

    Attributes:
      answers: in the order of the questions; those to one multiple choice in several orders of its options are one answer.
      scores: by metric, per question, 0 to 1; none where nothing was read or the answers are not known.
      answer_ranks, gold_ranks: rank from 0 of the first passage with an answer string in it, and of the first gold passage; None if
        there is none among those retrieved. Only of questions whose answers can stand in a passage, or that name gold passages.
      seconds: wall time, compilation included.
      likelihoods: where they were asked for.
      choices: of multiple choice, per question: probabilities by letter, and of each option in every order.
      queries_cut: the share of the queries that were over the limit, 0 to 1.
      left_out: a line for each metric that means nothing for these questions.
    """

    answers: tuple[api.Answer, ...]
    scores: Mapping[str, tuple[float, ...]]
    answer_ranks: tuple[int | None, ...]
    gold_ranks: tuple[int | None, ...]
    seconds: float
    likelihoods: Likelihoods | None = None
    choices: tuple[multiple_choice.Marginalized, ...] = ()
    queries_cut: float = 0.0
    left_out: tuple[str, ...] = ()

    @property
    def exact_match(self) -> tuple[float, ...]:
        """Per question, for tasks that have this metric."""
        return self.scores['exact_match']

    def summary(self, top_k: int) -> dict[str, Any]:
        """Returns the figures that programs read; recalls up to `top_k` passages. `stderr` is that of the first metric."""
        figures: dict[str, Any] = {}
        for name, values in self.scores.items():
            figures[name], error = statistics.mean_and_standard_error(values)
            # Programs read `stderr` of the main metric under one name, whatever the task. One question has none.
            if len(values) > 1:
                figures[f'{name}_stderr' if 'stderr' in figures else 'stderr'] = error
        figures |= {} if self.likelihoods is None else self.likelihoods.summary()
        figures |= {'questions': len(self.answers), 'seconds': round(self.seconds, 1), 'queries_cut': self.queries_cut}
        for k in (k for k in _TOP if k <= top_k):
            for name, ranks in (('answer', self.answer_ranks), ('gold', self.gold_ranks)):
                if ranks:
                    figures[f'{name}_recall_at_{k}'] = retrieval_metrics.recall_at_k(ranks, k)
        return figures


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of an evaluation.

    Attributes:
      n_context: passages read (or retrieved), default what the model was trained with.
      batch_size: questions at a time.
      use_file_passages: the examples' own passages are read; nothing is retrieved.
      retrieve_only: passages are found, nothing is read.
      decoding: how answers are generated; None is greedy.
      search: how passages are found; None is exact.
      compute_dtype, param_dtype: of activations, and of the weights on the devices: float32 or bfloat16; a compute_dtype of None is the
        model's own.
      perplexity: of the targets; None where the task names it among its metrics.
      cross_attention_statistics: names of losses/attention_scores.STATISTICS whose correlation with the retriever's scores is wanted.
      knowledge: the index and tables of a run that refreshes them, in place of what is on disk; not for gin.
    """

    n_context: int | None = None
    batch_size: int = 16
    use_file_passages: bool = False
    retrieve_only: bool = False
    decoding: DecodingConfig | None = None
    search: SearchConfig | str | None = None
    compute_dtype: str | None = None
    param_dtype: str = 'float32'
    perplexity: bool | None = None
    cross_attention_statistics: tuple[str, ...] = ()
    knowledge: types.Knowledge | None = None

    def __post_init__(self):
        # A typing error must not cost the loading of a model.
        _ = self.step  # refuses what is no dtype, before a model is loaded

    @property
    def step(self) -> spec_lib.StepConfig:
        """The dtypes as a step takes them."""
        return spec_lib.StepConfig(compute_dtype=self.compute_dtype, param_dtype=self.param_dtype)


def evaluate_examples(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched, *, label: str = 'answering',
                      options: Options | None = None, **changes: Any) -> Evaluation:
    """Answers the examples through the train step's own retrieval and assembly, and scores the answers.

    Args:
      atlas: the model.
      examples: at least one; the permutations of one multiple choice one after another.
      index: an api.Index or several; None is a closed book, or reads the examples' own passages.
      label: of the progress bar.
      options, changes: see Options; `changes` are fields of it.

    Raises:
      ConfigError: no examples, or options that contradict each other. IndexFolderError, StoreError: as the index's check.
    """
    start = time.perf_counter()
    options = dataclasses.replace(options or Options(), **changes)
    if not examples:
        raise errors.ConfigError('there are no examples to evaluate')
    choices: tuple[multiple_choice.Marginalized, ...] = ()
    # One example a question: permutations of a multiple choice count once.
    firsts, scores = list(examples), {}
    if options.retrieve_only:
        answers = _retrieve(atlas, examples, index, options, 'retrieving')
    # A file holds examples of one task, so the first one speaks for all.
    elif examples[0].choices:
        firsts = [group[0] for group in _groups(examples)]
        answers, choices, scores = _choose(atlas, examples, index, options, label)
    else:
        answers = tuple(atlas.answer_examples(examples, index, options.n_context, options.batch_size, label, options.decoding,
                                              options.search, use_file_passages=options.use_file_passages, knowledge=options.knowledge,
                                              step=options.step))
        scores = _score_texts(atlas.task, answers, examples)
    answer_ranks, gold_ranks, left_out = _ranks(atlas, answers, firsts, index_group.of(index))
    seconds = time.perf_counter() - start  # of the answers alone
    # A pass of its own: the answer step decodes freely and never sees the targets.
    likelihoods = _likelihoods(atlas, firsts, index, options)
    encoder = atlas.encoder()
    encoder.fit_queries(examples)
    if not options.retrieve_only:
        left_out = [*_unscored(atlas.task, firsts, scores), *left_out, *([] if likelihoods is None else likelihoods.left_out())]
    return Evaluation(answers, scores, answer_ranks, gold_ranks, seconds, likelihoods, choices, encoder.queries_cut, tuple(left_out))


def _prepare(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched, options: Options) -> prepare.Prepared:
    return prepare.prepare(atlas, examples, index, prepare.passages_to_read(atlas, index, options.n_context, options.use_file_passages),
                           atlas.whole_batch(options.batch_size), use_file_passages=options.use_file_passages, search=options.search,
                           knowledge=options.knowledge, step=options.step)


def _retrieve(atlas: api.Atlas, examples, index: prepare.Searched, options: Options, label: str) -> tuple[api.Answer, ...]:
    if index is None and not options.use_file_passages:
        raise errors.ConfigError('retrieve_only needs an index')
    prepared = _prepare(atlas, examples, index, options)
    found = prepared.search(atlas.device_params(options.param_dtype), examples, atlas.whole_batch(options.batch_size), label)
    return tuple(api.Answer(example.question, '', api.passages_of(example, retrieved, row, prepared))
                 for chunk, retrieved in found for row, example in enumerate(chunk))


def _score_texts(task: task_lib.Task, answers: Sequence[api.Answer], examples) -> dict[str, tuple[float, ...]]:
    # Unlabelled files are answered too; a mean over some of the questions would mislead.
    if not all(example.answers for example in examples):
        return {}
    rows = [answer_metrics.of_text(task.metrics, answer.text, example.answers) for answer, example in zip(answers, examples, strict=True)]
    return {name: tuple(row[name] for row in rows) for name in rows[0]}


def _choose(atlas: api.Atlas, examples, index: prepare.Searched, options: Options, label: str):
    """Returns (answers, probabilities over all orders of the options, accuracies), one of each a question."""
    prepared = _prepare(atlas, examples, index, options)
    step, passages, likelihoods = score_step.make_score_step(prepared.spec), [], []
    params = atlas.device_params(options.param_dtype)
    for chunk, scored in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size), label):
        for row, example in enumerate(chunk):
            # Questions of a batch may have fewer choices than the widest; the rest of the row is -inf.
            likelihoods.append(scored.log_likelihoods[row][:len(example.choices)].tolist())
            passages.append(() if scored.retrieved is None else api.passages_of(example, scored.retrieved, row, prepared))
    answers, choices, raw, debiased, done = [], [], [], [], 0
    for group in _groups(examples):
        first, values = group[0], likelihoods[done:done + len(group)]
        marginalized = multiple_choice.marginalize([example.options for example in group], values)
        # Compared by text: the letter of the right option changes with the order of the options.
        right = first.options[_place(first.answers[0])]
        most_likely = int(np.argmax(values[0]))  # of the first order; ties go to the first letter
        raw.append(float(first.options[most_likely] == right))
        # Averaged over all orders, the model's preference for a letter cancels out.
        debiased.append(float(first.options[_place(marginalized.letter)] == right))
        answers.append(api.Answer(first.question, marginalized.letter, passages[done]))
        choices.append(marginalized)
        done += len(group)
    scores = {'accuracy': tuple(raw)}
    # In one order alone it is the accuracy again, and nothing was de-biased.
    if all(len(group) > 1 for group in _groups(examples)):
        scores['debiased_accuracy'] = tuple(debiased)
    return tuple(answers), tuple(choices), scores


def _unscored(task: task_lib.Task, examples: Sequence[task_lib.TaskExample], scores: Mapping[str, Any]) -> list[str]:
    """Returns a line for each reason why metrics of the task were not computed."""
    missing = [name for name in task.metrics if name not in scores and (name in answer_metrics.OF_TEXT or name == 'debiased_accuracy')]
    if not missing:
        return []
    if examples[0].choices:
        return [f'{", ".join(missing)} is left out: the options were read in one order; give eval_permutations "cyclic" or "all"']
    unanswered = sum(not example.answers for example in examples)
    return [f'{", ".join(missing)} are left out: {unanswered} of {len(examples)} questions have no answers']


def _place(letter: str) -> int:
    return ord(letter) - ord('A')


def _groups(examples: Sequence[task_lib.TaskExample]) -> list[list[task_lib.TaskExample]]:
    """Groups the permutations of one row."""
    groups: list[list[task_lib.TaskExample]] = []
    for example in examples:
        # Permutations of one row follow one another in what a task yields.
        if groups and groups[-1][0].example_id == example.example_id:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def _ranks(atlas: api.Atlas, answers: Sequence[api.Answer], examples: Sequence[task_lib.TaskExample],
           index: index_group.IndexGroup | None = None):
    """Returns (answer_ranks, gold_ranks, lines for the user) of what was retrieved; a rank is that of a question where it has a meaning."""
    pairs, left_out = list(zip(answers, examples, strict=True)), []
    if not any(answer.passages for answer in answers):
        return (), (), []
    # The answer to a multiple choice is a letter, which any passage contains; that to a claim is true or false.
    found = []
    if 'answer_recall' in atlas.task.metrics:
        found = [(answer, example) for answer, example in pairs if answer_metrics.stand_in_texts(example.answers)]
        if len(found) < len(pairs):
            left_out.append(_counted('answer_recall', len(found), len(pairs), 'answers that a passage can hold (not true, yes, or none)'))
    by_answer = tuple(retrieval_metrics.first_answer_rank([passage.text for passage in answer.passages], example.answers)
                      for answer, example in found)
    golden = [(answer, set(example.gold_docids)) for answer, example in pairs if example.gold_docids]
    # Of another corpus: a recall of 0 would speak of the files, not of the retriever.
    if golden and index is not None and not any(index.rows_of(docid, atlas.mesh) for _, docids in golden for docid in docids):
        golden, left_out = [], [*left_out, 'gold_recall is left out: none of the gold_docids is in the index']
    # Most files name no gold passages at all, which needs no line.
    elif golden and len(golden) < len(pairs):
        left_out.append(_counted('gold_recall', len(golden), len(pairs), 'gold_docids'))
    by_gold = tuple(retrieval_metrics.first_gold_rank([passage.docid for passage in answer.passages], docids) for answer, docids in golden)
    return by_answer, by_gold, left_out


def _counted(metric: str, counted: int, total: int, what: str) -> str:
    if not counted:
        return f'{metric} is left out: no question has {what}'
    return f'{metric} is of {counted} of {total} questions: the others have no {what}'


def _likelihoods(atlas: api.Atlas, examples, index: prepare.Searched, options: Options) -> Likelihoods | None:
    # Language modelling tasks have no other metric.
    wanted = 'perplexity' in atlas.task.metrics if options.perplexity is None else options.perplexity
    if options.retrieve_only or not (wanted or options.cross_attention_statistics):
        return None
    prepared = _prepare(atlas, examples, index, options)
    step = eval_step.make_eval_step(prepared.spec, options.cross_attention_statistics)
    nll: list[float] = []
    tokens: list[float] = []
    retriever: list[list[float]] = []
    attention: dict[str, list[list[float]]] = {name: [] for name in options.cross_attention_statistics}
    params = atlas.device_params(options.param_dtype)
    for chunk, found in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size), 'likelihoods'):
        rows = slice(len(chunk))
        nll += found.nll[rows].tolist()
        tokens += found.target_tokens[rows].tolist()
        # Without retrieval there is nothing to correlate with.
        retriever += [] if found.retrieved is None else found.retrieved.scores[rows].tolist()
        for name, values in found.attention.items():
            attention[name] += values[rows].tolist()
    correlations = {name: retrieval_metrics.mean_correlation(retriever, values) if retriever else None
                    for name, values in attention.items()}
    return Likelihoods(tuple(nll), tuple(tokens), correlations)


def write_results(path: str | os.PathLike, evaluation: Evaluation, examples: Sequence[task_lib.TaskExample],
                  write_passages: bool = True) -> None:
    """Writes one JSON line a question: query, answers, prediction, scores, and where wanted the passages."""
    def row(number: int, answer: api.Answer, example: task_lib.TaskExample) -> dict[str, Any]:
        values: dict[str, Any] = {'example_id': example.example_id, 'question': answer.question, 'query': example.query,
                                  'answers': list(example.answers)}
        if answer.text or evaluation.scores:
            values['prediction'] = answer.text
        values |= {name: scores[number] for name, scores in evaluation.scores.items()}
        if evaluation.likelihoods is not None:
            values |= {'nll': evaluation.likelihoods.nll[number], 'target_tokens': evaluation.likelihoods.target_tokens[number]}
        if answer.score is not None:
            values |= {'score': answer.score, 'alternatives': [dataclasses.asdict(other) for other in answer.alternatives]}
        if evaluation.choices:
            values |= {'choice_probs': dict(evaluation.choices[number].by_letter), 'all_probs': dict(evaluation.choices[number].by_option)}
        return values | ({'passages': [dataclasses.asdict(passage) for passage in answer.passages]} if write_passages else {})

    # A line a question, whatever the number of orders its options were read in.
    firsts = [group[0] for group in _groups(examples)] if examples[0].choices else examples
    jsonl.write(path, [row(i, *pair) for i, pair in enumerate(zip(evaluation.answers, firsts, strict=True))])


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The files that an evaluation reads and writes.

    Attributes:
      examples_file: lines as the task wants them (docs/tasks.md); a file, a folder, a pattern, or several of them in their order.
      index_dir: the index to retrieve from, or several; None is closed book.
      results_file: where every answer goes, as JSON lines.
      write_passages: with the passages of each answer.
      max_examples: the first so many lines of all files together.
      force_index: uses the index even if another model built it (--force).
    """

    examples_file: str | Sequence[str]
    index_dir: str | Sequence[str] | None = None
    results_file: str | None = None
    write_passages: bool = True
    max_examples: int | None = None
    force_index: bool = False


def open_indexes(index_dir: str | Sequence[str] | None, force: bool = False) -> list[api.Index]:
    """Opens the index of a folder, or of several; none of None. `force` takes models that did not build it.

    Raises IndexFolderError, StoreError.
    """
    folders = [index_dir] if isinstance(index_dir, str) else index_dir or []
    return [api.Index.open(folder, force=force) for folder in folders]


def evaluate(data: EvalData, model: ModelSource, options: Options | None = None) -> dict[str, Any]:
    """Evaluates a model on a JSON-lines file of examples; without an index, closed book.

    Args:
      data: examples, index, results.
      model: the model.
      options: see Options.

    Returns:
      The task's metrics with their standard errors, questions, seconds, queries_cut, answer_recall_at_k, gold_recall_at_k. A metric that
      means nothing for these examples is left out, and a line on stderr says why.

    Raises:
      UserError: anything the user can mend, before the first question is answered; ConfigError where options contradict each other.
    """
    options = options or Options()
    if options.retrieve_only and not data.results_file:
        raise errors.ConfigError('retrieve_only writes passages: give results_file')
    atlas = model.load(api.Atlas)
    examples = prepare.read_examples(atlas, data.examples_file, labelled=not options.retrieve_only, max_rows=data.max_examples)
    indexes = open_indexes(data.index_dir, data.force_index)
    evaluation = evaluate_examples(atlas, examples, index_group.of(indexes) if indexes else None, options=options)
    # Every process has all answers; one of them writes.
    if jax.process_index() == 0:
        for line in evaluation.left_out:
            print(f'{file_list.shown(data.examples_file)}: {line}', file=sys.stderr, flush=True)
        if data.results_file:
            write_results(data.results_file, evaluation, examples, data.write_passages)
    return evaluation.summary(top_k=max(len(answer.passages) for answer in evaluation.answers))
