"""Evaluates a model on files of examples, and writes every answer as a JSON line.

Computes the task's metrics, recall and perplexity.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.answering import api, prepare
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.decoding import DecodingConfig
from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.evaluation import judge as judging
from atlas_jax.evaluation import results
from atlas_jax.io import file_list
from atlas_jax.knowledge import group as index_group
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.model import ModelSource
from atlas_jax.runtime import hosts, notes
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import eval as eval_step
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import multiple_choice
from atlas_jax.tasks import task as task_lib

Group = Sequence[task_lib.TaskExample]  # the permutations of one question, or one example
_SAMPLED = 256  # numbers of each array that go into the model's hash


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers of one model to a set of questions, and their scores.

    Attributes:
      rows: Rows of the results file, one a question, in order (docs/evaluation.md). All
        permutations of a multiple choice are one row.
      seconds: Wall time of answering, compilation included.
      queries_cut: Share of the queries that were cut, 0 to 1.
      left_out: A line for each metric that was left out, or computed for some questions only.
    """

    rows: tuple[results.Row, ...]
    seconds: float = 0.0
    queries_cut: float = 0.0
    left_out: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[api.Answer, ...]:
        """The answers with their passages."""
        return tuple(
            api.Answer(row['question'], row.get('prediction', ''),
                       tuple(api.AnswerPassage(**each) for each in row.get('passages', ())),
                       row.get('score'),
                       tuple(api.Alternative(**each) for each in row.get('alternatives', ())),
                       row.get('confidence'), row.get('abstained', False),
                       signals=row.get('signals'))
            for row in self.rows)

    @property
    def scores(self) -> dict[str, tuple[float, ...]]:
        """Scores (0 to 1) of each question, by metric; empty if nothing was read or labelled."""
        return {name: tuple(row[name] for row in self.rows)
                for name in figures_lib.metrics_of(self.rows)}

    @property
    def exact_match(self) -> tuple[float, ...]:
        """Exact match of each question, for tasks with this metric."""
        return self.scores['exact_match']

    @property
    def gold_ranks(self) -> tuple[int | None, ...]:
        """Rank from 0 of the first gold passage, or None, for questions that name gold passages."""
        return tuple(min(row['gold_ranks'], default=None)
                     for row in self.rows if 'gold_ranks' in row)

    def summary(self, top_k: int | None = None) -> dict[str, Any]:
        """Returns `figures.of_rows` without intervals, and `seconds` and `queries_cut`."""
        figures = figures_lib.of_rows(self.rows, top_k, intervals=False)
        return figures | {'seconds': round(self.seconds, 1), 'queries_cut': self.queries_cut}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of an evaluation.

    Attributes:
      n_context: Passages to read (or to retrieve); None is the number in training.
      batch_size: Questions per batch.
      use_file_passages: Reads the examples' own passages; retrieves nothing.
      retrieve_only: Retrieves passages; reads nothing.
      decoding: How answers are generated; None is greedy.
      search: How passages are found; None is exact.
      compute_dtype: Dtype of activations, float32 or bfloat16; None is the model's own.
      param_dtype: Dtype of the weights on the devices, float32 or bfloat16.
      perplexity: Measures the perplexity of the targets; None does if the task has this metric.
      cross_attention_statistics: Names in losses/attention_scores.STATISTICS to correlate with the
        retriever's scores.
      knowledge: Index and tables of a training run, in place of those on disk; not for gin.
      abstain_below: Answers of less confidence count as withheld; the model must be calibrated
        (docs/confidence.md).
      explain: Adds to the results how much each answer needs each passage, and the words attended
        to.
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
    abstain_below: float | None = None
    explain: bool = False

    def __post_init__(self):
        _ = self.step  # refuses invalid dtypes before a model is loaded

    @property
    def step(self) -> spec_lib.StepConfig:
        """The dtypes, as options of a step."""
        return spec_lib.StepConfig(compute_dtype=self.compute_dtype, param_dtype=self.param_dtype)


def evaluate_examples(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample],
                      index: prepare.Searched, *, label: str = 'answering',
                      options: Options | None = None, log: results.Log | None = None,
                      index_name: str = '', **changes: Any) -> Evaluation:
    """Answers the examples, with the train step's retrieval and assembly, and scores the answers.

    Args:
      atlas: The model.
      examples: At least one; the permutations of a multiple choice follow one another.
      index: An api.Index or several; None is a closed book, or reads the examples' own passages.
      label: Label of the progress bar.
      options, changes: See Options; `changes` replace fields of `options`.
      log: Rows known already, which are not computed again; new rows are added.
      index_name: Tells the rows of several indexes apart.

    Raises:
      ConfigError: no examples, or options that contradict each other.
      IndexFolderError, StoreError: see the index's `check`.
    """
    start = time.perf_counter()
    options = dataclasses.replace(options or Options(), **changes)
    log = log or results.Log()
    if not examples:
        raise errors.ConfigError('there are no examples to evaluate')
    # A group a question: its permutations, or one example. The first example tells which, since
    # all are of one task.
    groups = _groups(examples) if examples[0].choices else [[example] for example in examples]
    firsts = [group[0] for group in groups]
    keys = [(index_name, str(example.example_id)) for example in firsts]
    judge = judging.Judge(atlas, firsts, index_group.as_group(index), retrieves=index is not None
                          or options.use_file_passages, reads=not options.retrieve_only)
    # All processes answer the same questions together; the first one knows which are left.
    answered, measured = hosts.same_everywhere(
        np.array([[log.has(key, name) for key in keys] for name in ('retrieved', 'nll')]))
    left = [group for group, done in zip(groups, answered, strict=True) if not done]
    tag = {'index_name': index_name} if index_name else {}
    for group, answer, more in _answered(atlas, left, index, options, label):
        log.add(tag | judge.row(group[0], answer, more))
    seconds = time.perf_counter() - start  # without the likelihoods
    # A separate pass, since the answer step decodes freely and never sees the targets.
    if _wants_likelihoods(atlas, options):
        unmeasured = [example for example, done in zip(firsts, measured, strict=True) if not done]
        for row in _likelihoods(atlas, unmeasured, index, options):
            log.add(tag | row)
    encoder = atlas.encoder()
    encoder.fit_queries(examples)
    # Processes other than the first may lack the rows of an earlier run.
    rows = tuple(log.rows[key] for key in keys if log.has(key, 'retrieved'))
    return Evaluation(rows, seconds, encoder.queries_cut, tuple(judge.left_out(rows)))


def _answered(atlas: api.Atlas, groups: Sequence[Group], index: prepare.Searched, options: Options,
              label: str) -> Iterator[tuple[Group, api.Answer, results.Row]]:
    """Yields (group, answer, more fields of its row) as they are answered."""
    if options.retrieve_only and index is None and not options.use_file_passages:
        raise errors.ConfigError('retrieve_only needs an index')
    examples = [example for group in groups for example in group]
    if not examples:
        return
    if options.retrieve_only:
        prepared = _prepare(atlas, examples, index, options)
        size = atlas.whole_batch(options.batch_size)
        params = atlas.device_params(options.param_dtype)
        for chunk, retrieved in prepared.search(params, examples, size, 'retrieving'):
            for row, example in enumerate(chunk):
                passages = api.passages_of(example, retrieved, row, prepared)
                yield [example], api.Answer(example.question, '', passages), {}
    elif examples[0].choices:
        yield from _chosen(atlas, groups, index, options, label)
    else:
        answers = atlas.answer_examples(
            examples, index, options.n_context, options.batch_size, label, options.decoding,
            options.search, use_file_passages=options.use_file_passages,
            knowledge=options.knowledge, step=options.step, explain=options.explain,
            abstain_below=options.abstain_below)
        for example, answer in zip(examples, answers, strict=True):
            yield [example], answer, {}


def _prepare(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched,
             options: Options) -> PreparedExamples:
    return prepare.prepare_examples(
        atlas, examples, index,
        prepare.passages_to_read(atlas, index, options.n_context, options.use_file_passages),
        atlas.whole_batch(options.batch_size), use_file_passages=options.use_file_passages,
        search=options.search, knowledge=options.knowledge, step=options.step)


def _chosen(atlas: api.Atlas, groups: Sequence[Group], index: prepare.Searched, options: Options,
            label: str) -> Iterator[tuple[Group, api.Answer, results.Row]]:
    """Yields (permutations of a question, answer, its probabilities and accuracies)."""
    examples = [example for group in groups for example in group]
    prepared = _prepare(atlas, examples, index, options)
    step, waiting = score_step.make_score_step(prepared.spec), iter(groups)
    params, group = atlas.device_params(options.param_dtype), next(waiting)
    likelihoods: list[list[float]] = []
    # With a single order nothing is de-biased: it would be the accuracy again.
    debiases = all(len(each) > 1 for each in groups)
    passages: tuple[api.AnswerPassage, ...] = ()
    for chunk, scored in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size),
                                      label):
        for row, example in enumerate(chunk):
            if not likelihoods:
                passages = () if scored.retrieved is None else api.passages_of(
                    example, scored.retrieved, row, prepared)
            # -inf pads the choices of a question to the widest in the batch.
            likelihoods.append(scored.log_likelihoods[row][:len(example.choices)].tolist())
            if len(likelihoods) == len(group):
                letter, more = _choice(group, likelihoods, debiases)
                yield group, api.Answer(group[0].question, letter, passages), more
                group, likelihoods = next(waiting, []), []


def _choice(group: Group, likelihoods: Sequence[Sequence[float]],
            debiases: bool) -> tuple[str, results.Row]:
    """Returns the letter chosen over all permutations, and accuracies and probabilities."""
    first = group[0]
    marginalized = multiple_choice.marginalize([example.options for example in group], likelihoods)
    # Compared by text: the right option's letter differs between permutations.
    right = first.options[_place(first.answers[0])]
    most_likely = int(np.argmax(likelihoods[0]))  # the first order; ties go to the first letter
    row: results.Row = {'accuracy': float(first.options[most_likely] == right)}
    if debiases:
        # Averaged over all orders, the model's preference for a letter cancels out.
        row['debiased_accuracy'] = float(first.options[_place(marginalized.letter)] == right)
    return marginalized.letter, row | {
        'choice_probs': dict(marginalized.by_letter),
        'all_probs': {name: list(values) for name, values in marginalized.by_option.items()}}


def _place(letter: str) -> int:
    return ord(letter) - ord('A')


def _groups(examples: Sequence[task_lib.TaskExample]) -> list[list[task_lib.TaskExample]]:
    """Groups the permutations of each row, which follow one another."""
    return [list(group) for _, group in itertools.groupby(
        examples, key=lambda example: example.example_id)]


def _wants_likelihoods(atlas: api.Atlas, options: Options) -> bool:
    wanted = options.perplexity
    if wanted is None:
        wanted = 'perplexity' in atlas.task.metrics
    return not options.retrieve_only and bool(wanted or options.cross_attention_statistics)


def _likelihoods(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample],
                 index: prepare.Searched, options: Options) -> Iterator[results.Row]:
    """Yields a row for each question: the target's negative log likelihood and tokens.

    For each cross-attention statistic it also has the correlation of the passages' attention with
    their retrieval scores.
    """
    if not examples:
        return
    prepared = _prepare(atlas, examples, index, options)
    step = eval_step.make_eval_step(prepared.spec, options.cross_attention_statistics)
    params = atlas.device_params(options.param_dtype)
    for chunk, found in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size),
                                     'likelihoods'):
        for row, example in enumerate(chunk):
            values: results.Row = {'example_id': example.example_id, 'nll': float(found.nll[row]),
                                   'target_tokens': float(found.target_tokens[row])}
            if found.attention:
                # None without retrieval: there are no scores to correlate with.
                scores = None if found.retrieved is None else found.retrieved.scores[row].tolist()
                values['correlations'] = {
                    name: None if scores is None else retrieval_metrics.correlation(
                        scores, attention[row].tolist())
                    for name, attention in found.attention.items()}
            yield values


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The files that an evaluation reads and writes.

    Attributes:
      examples_file: JSON lines in the task's format (docs/tasks.md): a file, a folder, a pattern,
        or several of them in order.
      index_dir: Index to retrieve from, or several to search together; None is a closed book.
        {name: index, or several} answers the questions with each in turn, and reports the figures
        side by side.
      results_file: File for every answer, as JSON lines; with it, a stopped evaluation resumes.
      write_passages: Writes the passages of each answer too.
      max_examples: Limit of lines, over all files together; None takes all.
      force_index: Uses the index even if another model built it (--force).
      by: Fields of the examples by whose values figures are reported too.

    Raises:
      ConfigError: results_file is in a bucket; its files cannot be appended to.
    """

    examples_file: str | Sequence[str]
    index_dir: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None
    results_file: str | None = None
    write_passages: bool = True
    max_examples: int | None = None
    force_index: bool = False
    by: tuple[str, ...] = task_lib.LABELS

    def __post_init__(self):
        if self.results_file is not None and '://' in self.results_file:
            raise errors.ConfigError(f'EvalData.results_file is "{self.results_file}"; answers are '
                                     'written to a disk as they come: give a file there, and copy '
                                     'it')


def evaluate(data: EvalData, model: ModelSource, options: Options | None = None) -> dict[str, Any]:
    """Evaluates a model on JSON-lines files of examples; without an index, as a closed book.

    Args:
      data: Examples, index and results file.
      model: The model.
      options: See Options.

    Returns:
      The task's metrics with standard errors and intervals, questions, seconds, queries_cut,
      answer_recall_at_k and gold_recall_at_k, and all figures by label (figures.complete). Metrics
      without meaning for these examples are left out, and a line on stderr says why. Processes
      other than the first return seconds and queries_cut only.

    Raises:
      UserError: any mistake the user can fix, before the first question is answered; ConfigError if
        options contradict each other.
    """
    options = options or Options()
    if options.retrieve_only and not data.results_file:
        raise errors.ConfigError('retrieve_only writes passages: give results_file')
    named = data.index_dir if isinstance(data.index_dir, Mapping) else {'': data.index_dir}
    atlas = model.load(api.Atlas)
    examples = prepare.read_examples(atlas, data.examples_file, labelled=not options.retrieve_only,
                                     max_rows=data.max_examples)
    # All indexes are checked first: a wrong folder must not show up after hours.
    opened = {name: index_group.open_indexes(folders, data.force_index)
              for name, folders in named.items()}
    for index in (index for indexes in opened.values() for index in indexes):
        index.check(atlas)
    # Every process has all answers; the first one writes.
    log = results.Log()
    if data.results_file and hosts.is_first():
        log = results.Log(file=results.partial_of(data.results_file),
                          without=frozenset(() if data.write_passages else ('passages',)))
    evaluations: list[Evaluation] = []
    with contextlib.ExitStack() as kept:
        with hosts.together():  # the first process may refuse the rows of an earlier run
            kept.enter_context(
                log.kept(_description(atlas, examples, opened, options) if log.file else {}))
        for name, indexes in opened.items():
            group = index_group.as_group(indexes) if indexes else None
            label = f'answering with {name}' if name else 'answering'
            evaluations.append(evaluate_examples(atlas, examples, group, options=options, log=log,
                                                 index_name=name, label=label))
    rows = [row for evaluation in evaluations for row in evaluation.rows]
    for line in dict.fromkeys(line for each in evaluations for line in each.left_out):
        notes.say(f'{file_list.summary(data.examples_file)}: {line}')
    if data.results_file and hosts.is_first():
        results.finish(data.results_file, rows, data.write_passages)
    # Fields that are not in the file count in no figure, so that a resumed evaluation has the same
    # figures.
    if log.without:
        rows = [{name: value for name, value in row.items() if name not in log.without}
                for row in rows]
    # Processes other than the first may lack the rows of an earlier run.
    figures = figures_lib.complete(rows, data.by) if hosts.is_first() else {}
    return figures | {'seconds': round(sum(each.seconds for each in evaluations), 1),
                      'queries_cut': evaluations[0].queries_cut}


def _description(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample],
                 opened: Mapping[str, Sequence[api.Index]], options: Options) -> dict[str, Any]:
    """Returns what the rows of an evaluation depend on, by names for messages."""
    questions = hashlib.sha256()
    for example in examples:
        questions.update(repr((example, example.evidence, example.labels)).encode())
    weights = hashlib.sha256(repr((atlas.config, atlas.task)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(atlas.params):
        # A sample of each array is enough, since training changes all numbers; hashing the largest
        # models whole takes minutes.
        if getattr(leaf, 'is_fully_addressable', True):
            sample = np.asarray(leaf.reshape(-1)[::max(1, leaf.size // _SAMPLED)])
            weights.update(f'{jax.tree_util.keystr(path)}{leaf.shape}'.encode() + sample.tobytes())
    keys = ('rows', 'deleted', 'revision', 'model_fingerprint', 'store_fingerprint')
    indexes = {name: [{key: index.index.info()[key] for key in keys} for index in group]
               for name, group in opened.items()}
    settings = {field.name: repr(getattr(options, field.name))
                for field in dataclasses.fields(options)
                if field.name not in ('batch_size', 'knowledge')}
    # With another calibration, the remaining rows would have other confidences.
    return {'questions': questions.hexdigest(), 'model': weights.hexdigest(), 'indexes': indexes,
            'calibration': repr(atlas.calibration), **settings}
