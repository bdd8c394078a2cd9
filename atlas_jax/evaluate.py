"""Evaluate a model on a file of examples: the task's metrics, recall, perplexity; every answer as a JSON line."""

import contextlib
import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import api, errors, types
from atlas_jax.decoding import DecodingConfig
from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.evaluation import judge as judging
from atlas_jax.evaluation import results
from atlas_jax.io import file_list
from atlas_jax.knowledge import group as index_group
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.model import ModelSource
from atlas_jax.runtime import hosts
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import eval as eval_step
from atlas_jax.steps import prepare
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import multiple_choice
from atlas_jax.tasks import task as task_lib

_SAMPLED = 256  # numbers of an array that tell one model from another


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers of one model to one set of questions, and their scores.

    Attributes:
      rows: a row of the results file a question, in their order; the orders of one multiple choice are one row (docs/evaluation.md).
      seconds: wall time of the answers, compilation included.
      queries_cut: the share of the queries that were over the limit, 0 to 1.
      left_out: a line for each metric that means nothing for these questions.
    """

    rows: tuple[results.Row, ...]
    seconds: float = 0.0
    queries_cut: float = 0.0
    left_out: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[api.Answer, ...]:
        """The answers with their passages."""
        return tuple(api.Answer(row['question'], row.get('prediction', ''),
                                tuple(api.AnswerPassage(**each) for each in row.get('passages', ())), row.get('score'),
                                tuple(api.Alternative(**each) for each in row.get('alternatives', ())), row.get('confidence'),
                                row.get('abstained', False), signals=row.get('signals')) for row in self.rows)

    @property
    def scores(self) -> dict[str, tuple[float, ...]]:
        """Per metric and question, 0 to 1; none where nothing was read or the answers are not known."""
        return {name: tuple(row[name] for row in self.rows) for name in figures_lib.metrics_of(self.rows)}

    @property
    def exact_match(self) -> tuple[float, ...]:
        """Per question, for tasks that have this metric."""
        return self.scores['exact_match']

    @property
    def answer_ranks(self) -> tuple[int | None, ...]:
        """The rank from 0 of the first passage with an answer in it, None if there is none; of questions of which it means something."""
        return tuple(row['answer_rank'] for row in self.rows if 'answer_rank' in row)

    @property
    def gold_ranks(self) -> tuple[int | None, ...]:
        """The rank from 0 of the first gold passage, None if there is none; of questions that name gold passages."""
        return tuple(min(row['gold_ranks'], default=None) for row in self.rows if 'gold_ranks' in row)

    def summary(self, top_k: int | None = None, intervals: bool = False) -> dict[str, Any]:
        """Returns the figures that programs read: see figures.of_rows, and `seconds` and `queries_cut`."""
        figures = figures_lib.of_rows(self.rows, top_k, intervals)
        return figures | {'seconds': round(self.seconds, 1), 'queries_cut': self.queries_cut}


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
      abstain_below: answers of less confidence count as withheld; the model must be calibrated (docs/confidence.md).
      explain: the results say how much each answer needs each passage, and which words were looked at.
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
        # A typing error must not cost the loading of a model.
        _ = self.step  # refuses what is no dtype, before a model is loaded

    @property
    def step(self) -> spec_lib.StepConfig:
        """The dtypes as a step takes them."""
        return spec_lib.StepConfig(compute_dtype=self.compute_dtype, param_dtype=self.param_dtype)


def evaluate_examples(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched, *, label: str = 'answering',
                      options: Options | None = None, log: results.Log | None = None, index_name: str = '',
                      **changes: Any) -> Evaluation:
    """Answers the examples through the train step's own retrieval and assembly, and scores the answers.

    Args:
      atlas: the model.
      examples: at least one; the permutations of one multiple choice one after another.
      index: an api.Index or several; None is a closed book, or reads the examples' own passages.
      label: of the progress bar.
      options, changes: see Options; `changes` are fields of it.
      log: what is known already, which is not asked again; what is found is added to it.
      index_name: tells rows of several indexes apart.

    Raises:
      ConfigError: no examples, or options that contradict each other. IndexFolderError, StoreError: as the index's check.
    """
    start = time.perf_counter()
    options = dataclasses.replace(options or Options(), **changes)
    log = log or results.Log()
    if not examples:
        raise errors.ConfigError('there are no examples to evaluate')
    # One group a question: permutations of a multiple choice count once. A file holds examples of one task: the first speaks for all.
    groups = _groups(examples) if examples[0].choices else [[example] for example in examples]
    firsts = [group[0] for group in groups]
    keys = [(index_name, str(example.example_id)) for example in firsts]
    judge = judging.Judge(atlas, firsts, index_group.of(index), retrieves=index is not None or options.use_file_passages,
                          reads=not options.retrieve_only)
    # Several processes answer the same questions together: the first one knows which are left.
    answered, measured = hosts.same_everywhere(np.array([[log.has(key, name) for key in keys] for name in ('retrieved', 'nll')]))
    asked = [group for group, done in zip(groups, answered, strict=True) if not done]
    for group, answer, more in _answered(atlas, asked, index, options, label):
        row = judge.row(group[0], answer, more)
        log.add(({'index_name': index_name} if index_name else {}) | row)
    seconds = time.perf_counter() - start  # of the answers alone
    # A pass of its own: the answer step decodes freely and never sees the targets.
    if _wants_likelihoods(atlas, options):
        unmeasured = [example for example, done in zip(firsts, measured, strict=True) if not done]
        for row in _likelihoods(atlas, unmeasured, index, options):
            log.add(({'index_name': index_name} if index_name else {}) | row)
    encoder = atlas.encoder()
    encoder.fit_queries(examples)
    # Other processes than the first may lack what an earlier run has found.
    rows = tuple(log.rows[key] for key in keys if log.has(key, 'retrieved'))
    return Evaluation(rows, seconds, encoder.queries_cut, tuple(judge.left_out(rows)))


def _answered(atlas: api.Atlas, groups: Sequence[Sequence[task_lib.TaskExample]], index: prepare.Searched, options: Options,
              label: str) -> Iterator[tuple[Sequence[task_lib.TaskExample], api.Answer, results.Row]]:
    """Yields (orders of one question, answer, more fields of its row) as they are answered."""
    if options.retrieve_only and index is None and not options.use_file_passages:
        raise errors.ConfigError('retrieve_only needs an index')
    examples = [example for group in groups for example in group]
    if not examples:
        return
    if options.retrieve_only:
        prepared = _prepare(atlas, examples, index, options)
        size = atlas.whole_batch(options.batch_size)
        for chunk, retrieved in prepared.search(atlas.device_params(options.param_dtype), examples, size, 'retrieving'):
            for row, example in enumerate(chunk):
                yield [example], api.Answer(example.question, '', api.passages_of(example, retrieved, row, prepared)), {}
    elif examples[0].choices:
        yield from _choose(atlas, groups, index, options, label)
    else:
        answers = atlas.answer_examples(examples, index, options.n_context, options.batch_size, label, options.decoding, options.search,
                                        use_file_passages=options.use_file_passages, knowledge=options.knowledge, step=options.step,
                                        explain=options.explain, abstain_below=options.abstain_below)
        for example, answer in zip(examples, answers, strict=True):
            yield [example], answer, {}


def _prepare(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched, options: Options) -> prepare.Prepared:
    return prepare.prepare(atlas, examples, index, prepare.passages_to_read(atlas, index, options.n_context, options.use_file_passages),
                           atlas.whole_batch(options.batch_size), use_file_passages=options.use_file_passages, search=options.search,
                           knowledge=options.knowledge, step=options.step)


def _choose(atlas: api.Atlas, groups: Sequence[Sequence[task_lib.TaskExample]], index: prepare.Searched, options: Options,
            label: str) -> Iterator[tuple[Sequence[task_lib.TaskExample], api.Answer, results.Row]]:
    """Yields (orders of one question, answer, its probabilities and accuracies)."""
    examples = [example for group in groups for example in group]
    prepared = _prepare(atlas, examples, index, options)
    step, waiting = score_step.make_score_step(prepared.spec), iter(groups)
    params, group = atlas.device_params(options.param_dtype), next(waiting)
    likelihoods: list[list[float]] = []
    # In one order alone it is the accuracy again, and nothing was de-biased.
    debiases = all(len(each) > 1 for each in groups)
    passages: tuple[api.AnswerPassage, ...] = ()
    for chunk, scored in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size), label):
        for row, example in enumerate(chunk):
            if not likelihoods:
                passages = () if scored.retrieved is None else api.passages_of(example, scored.retrieved, row, prepared)
            # Questions of a batch may have fewer choices than the widest; the rest of the row is -inf.
            likelihoods.append(scored.log_likelihoods[row][:len(example.choices)].tolist())
            if len(likelihoods) == len(group):
                letter, more = _chosen(group, likelihoods, debiases)
                yield group, api.Answer(group[0].question, letter, passages), more
                group, likelihoods = next(waiting, []), []


def _chosen(group: Sequence[task_lib.TaskExample], likelihoods: Sequence[Sequence[float]], debiases: bool) -> tuple[str, results.Row]:
    """Returns the letter that was chosen over all orders of one question, and its accuracies and probabilities."""
    first = group[0]
    marginalized = multiple_choice.marginalize([example.options for example in group], likelihoods)
    # Compared by text: the letter of the right option changes with the order of the options.
    right = first.options[_place(first.answers[0])]
    most_likely = int(np.argmax(likelihoods[0]))  # of the first order; ties go to the first letter
    row: results.Row = {'accuracy': float(first.options[most_likely] == right)}
    if debiases:
        # Averaged over all orders, the model's preference for a letter cancels out.
        row['debiased_accuracy'] = float(first.options[_place(marginalized.letter)] == right)
    return marginalized.letter, row | {'choice_probs': dict(marginalized.by_letter),
                                       'all_probs': {name: list(values) for name, values in marginalized.by_option.items()}}


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


def _wants_likelihoods(atlas: api.Atlas, options: Options) -> bool:
    # Language modelling tasks have no other metric.
    wanted = 'perplexity' in atlas.task.metrics if options.perplexity is None else options.perplexity
    return not options.retrieve_only and bool(wanted or options.cross_attention_statistics)


def _likelihoods(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], index: prepare.Searched,
                 options: Options) -> Iterator[results.Row]:
    """Yields for each question the target's negative log likelihood, its tokens, and for each cross-attention statistic the correlation of
    a passage's attention and its retrieval score.
    """
    if not examples:
        return
    prepared = _prepare(atlas, examples, index, options)
    step = eval_step.make_eval_step(prepared.spec, options.cross_attention_statistics)
    params = atlas.device_params(options.param_dtype)
    for chunk, found in prepared.run(step, params, examples, atlas.whole_batch(options.batch_size), 'likelihoods'):
        for row, example in enumerate(chunk):
            values: results.Row = {'example_id': example.example_id, 'nll': float(found.nll[row]),
                                   'target_tokens': float(found.target_tokens[row])}
            if found.attention:
                # Without retrieval there is nothing to correlate with.
                scores = None if found.retrieved is None else found.retrieved.scores[row].tolist()
                values['correlations'] = {name: None if scores is None else retrieval_metrics.correlation(scores, attention[row].tolist())
                                          for name, attention in found.attention.items()}
            yield values


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The files that an evaluation reads and writes.

    Attributes:
      examples_file: lines as the task wants them (docs/tasks.md); a file, a folder, a pattern, or several of them in their order.
      index_dir: the index to retrieve from, or several to search together; None is closed book. By name, {name: index, or several}, the
        questions are asked with each in turn, and the figures stand side by side.
      results_file: where every answer goes, as JSON lines; with it a killed evaluation goes on where it was.
      write_passages: with the passages of each answer.
      max_examples: the first so many lines of all files together.
      force_index: uses the index even if another model built it (--force).
      by: fields of the examples file by whose values figures are reported too, where it has them.

    Raises:
      ConfigError: results_file is in a bucket, whose files cannot grow answer by answer.
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
            raise errors.ConfigError(f'EvalData.results_file is "{self.results_file}"; answers are written to a disk as they come: give a '
                                     'file there, and copy it')


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
      The task's metrics with their standard errors and intervals, questions, seconds, queries_cut, answer_recall_at_k, gold_recall_at_k,
      and `by` label the same (figures.complete). A metric that means nothing for these examples is left out, and a line on stderr says
      why. On other processes than the first, seconds and queries_cut alone.

    Raises:
      UserError: anything the user can mend, before the first question is answered; ConfigError where options contradict each other.
    """
    options = options or Options()
    if options.retrieve_only and not data.results_file:
        raise errors.ConfigError('retrieve_only writes passages: give results_file')
    named = data.index_dir if isinstance(data.index_dir, Mapping) else {'': data.index_dir}
    atlas = model.load(api.Atlas)
    examples = prepare.read_examples(atlas, data.examples_file, labelled=not options.retrieve_only, max_rows=data.max_examples)
    # All of them first: a wrong folder must not show after hours with the others.
    opened = {name: open_indexes(folders, data.force_index) for name, folders in named.items()}
    for index in (index for indexes in opened.values() for index in indexes):
        index.check(atlas)
    # Every process has all answers; one of them writes.
    log = results.Log()
    if data.results_file and hosts.is_first():
        log = results.Log(file=results.partial_of(data.results_file), without=frozenset(() if data.write_passages else ('passages',)))
    found: list[Evaluation] = []
    with contextlib.ExitStack() as kept:
        with hosts.together():  # the first process may refuse what an earlier run has left
            kept.enter_context(log.kept(_described(atlas, examples, opened, options) if log.file else {}))
        for name, indexes in opened.items():
            group = index_group.of(indexes) if indexes else None
            found.append(evaluate_examples(atlas, examples, group, options=options, log=log, index_name=name,
                                           label=f'answering with {name}' if name else 'answering'))
    rows = [row for evaluation in found for row in evaluation.rows]
    if hosts.is_first():
        for line in dict.fromkeys(line for evaluation in found for line in evaluation.left_out):
            print(f'{file_list.shown(data.examples_file)}: {line}', file=sys.stderr, flush=True)
        if data.results_file:
            results.finish(data.results_file, rows, data.write_passages)
    # What is not kept in the file counts in no figure: an evaluation that was killed and goes on ends with the same ones.
    if log.without:
        rows = [{name: value for name, value in row.items() if name not in log.without} for row in rows]
    # Others than the first process may lack what an earlier run has found.
    figures = figures_lib.complete(rows, data.by) if hosts.is_first() else {}
    return figures | {'seconds': round(sum(each.seconds for each in found), 1), 'queries_cut': found[0].queries_cut}


def _described(atlas: api.Atlas, examples: Sequence[task_lib.TaskExample], opened: Mapping[str, Sequence[api.Index]],
               options: Options) -> dict[str, Any]:
    """Returns what the rows of an evaluation depend on, by the name that a user would give it."""
    asked = hashlib.sha256()
    for example in examples:
        asked.update(repr((example, example.evidence, example.labels)).encode())
    weights = hashlib.sha256(repr((atlas.config, atlas.task)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(atlas.params):
        # A few hundred numbers of each array: training changes all of them, and reading the largest models whole takes minutes.
        if getattr(leaf, 'is_fully_addressable', True):
            sample = np.asarray(leaf.reshape(-1)[::max(1, leaf.size // _SAMPLED)])
            weights.update(f'{jax.tree_util.keystr(path)}{leaf.shape}'.encode() + sample.tobytes())
    indexes = {name: [{key: index.index.info()[key] for key in ('rows', 'deleted', 'revision', 'model_fingerprint', 'store_fingerprint')}
                      for index in group] for name, group in opened.items()}
    settings = {field.name: repr(getattr(options, field.name)) for field in dataclasses.fields(options)
                if field.name not in ('batch_size', 'knowledge')}
    # A confidence that was fitted anew would be another one for the rows that are left.
    return {'questions': asked.hexdigest(), 'model': weights.hexdigest(), 'indexes': indexes, 'calibration': repr(atlas.calibration),
            **settings}
