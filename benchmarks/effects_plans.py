"""The experiments of effects.py: which runs there are, in which order, and which figures each gives.

Each generator yields jobs and continues after their rows are kept. It may therefore choose by the rows of earlier jobs, and remove a run's
folder after the last measurement.
"""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import effects_runs
import effects_texts
from effects_rows import MODES, REFRESHED, WAYS, Job, Row
from effects_runs import Bench

from atlas_jax import train
from atlas_jax.answering import api
from atlas_jax.training.refresh import RefreshConfig

# a: without labels. Crops as published except for the batch, and gentler ones: the retriever has already been trained on a billion pairs.
# `cut` are queries cut from passages, with the nearest other passages as hard negatives, trained by the fine-tuning run; they contain no
# question or label.
_CROPS = {'batch_size': 32, 'total_steps': 96, 'warmup_steps': 10, 'temperature': .05}
_CUT = {'batch_size': 16, 'total_steps': 96, 'warmup_steps': 10, 'temperature': .05, 'hard_negatives': 3}
LABEL_FREE: tuple[dict[str, Any], ...] = (
    {'name': 'crops in the batch', 'method': 'inbatch', 'learning_rate': 1e-5, **_CROPS},
    {'name': 'crops, MoCo', 'method': 'moco', 'learning_rate': 1e-5, 'queue_size': 1024, 'momentum': .99, **_CROPS},
    {'name': 'cut queries', 'learning_rate': 2e-5, 'with_title': .5, 'words': (5, 12), **_CUT},
    {'name': 'short cut queries with titles', 'learning_rate': 2e-5, 'with_title': 1., 'words': (2, 6), **_CUT},
)
# The gain of the first of them for random weights, where the papers' retrievers started.
FROM_NOTHING = {'name': 'crops in the batch', 'start': 'random', 'method': 'inbatch', 'learning_rate': 5e-4, **_CROPS, 'total_steps': 192}
OLD_WEIGHTS = (0., .5)
_DEV_SHARE = .3  # share of the articles: settings are compared among fewer passages, and reported among all
_HELD_OUT = ('squad', 'pubmed')
PRETEXT_STEPS = 64


def label_free(bench: Bench) -> Iterator[Job]:
    """Yields the untrained retriever, every setting on dev, then the best one with all seeds: on test, on sets held out, and after further
    training together with a reader.
    """
    def searched(name: str, share: float = 1.0) -> effects_texts.SearchSet:
        return effects_texts.search_set(bench.work, bench.packages, name, share, bench.search_set)

    places = {'dev': (lambda: searched('boolq', _DEV_SHARE), 'dev'), 'test': (lambda: searched('boolq'), 'test'),
              **{name: (functools.partial(searched, name), 'all') for name in _HELD_OUT}}

    def job(setting: Mapping[str, Any], on: str, seed: int, load: Any) -> Job:
        def run() -> Row:
            atlas, (of, split) = load(), places[on]
            scratch = None if setting == {'name': 'untrained'} else bench.folder(f'index-{on}', setting, seed)
            # The other half of the questions as well: docs/search.md measures all of them.
            return effects_runs.ranks(atlas, of(), split, scratch, beside='dev' if on == 'test' else None)
        return Job('a', {**setting, 'on': on, **bench.sizes}, seed, run)

    def untrained() -> api.Atlas:
        return effects_runs.searching_model(bench, bench.models.retriever)

    def sized(setting: Mapping[str, Any]) -> dict[str, Any]:
        steps = bench.steps or setting['total_steps']
        found = {**setting, 'total_steps': steps, 'warmup_steps': min(setting['warmup_steps'], steps)}
        if bench.search_set and 'queue_size' in found:  # at most half of the passages
            found['queue_size'] = min(found['queue_size'], bench.search_set // 2 // found['batch_size'] * found['batch_size'])
        return found

    def of_setting(setting: Mapping[str, Any], old_weights: tuple[float, ...], on: tuple[str, ...], seed: int) -> Iterator[Job]:
        trained = functools.cache(lambda: _label_free_run(bench, searched('boolq'), setting, seed))
        for place in on:
            for old_weight in old_weights:
                yield job({**setting, 'old_weight': old_weight}, place, seed,
                          lambda weight=old_weight: effects_runs.mixed(trained(), untrained(), weight))

    yield job({'name': 'untrained'}, 'dev', 0, untrained)
    for setting in LABEL_FREE:
        yield from of_setting(sized(setting), OLD_WEIGHTS, ('dev',), 0)
    yield job({'name': 'untrained', 'start': 'random'}, 'dev', 0,
              lambda: effects_runs.searching_model(bench, bench.start(FROM_NOTHING)))
    for seed in bench.seeds:
        yield from of_setting(sized(FROM_NOTHING), (0.,), ('dev',), seed)
    for place in ('test', *_HELD_OUT):
        yield job({'name': 'untrained'}, place, 0, untrained)
    best = chosen(bench.mine('a', on='dev'))
    setting = {name: value for name, value in best.items() if name not in ('old_weight', 'on', *bench.sizes)}
    for seed in bench.seeds:
        yield from of_setting(setting, (best['old_weight'],), ('test', *_HELD_OUT), seed)
    steps = bench.steps or PRETEXT_STEPS
    for seed in bench.seeds:
        joint = {'name': 'then joint mlm', 'after': best['name'], 'mlm_steps': steps}
        load = functools.cache(functools.partial(_joint_after, bench, searched('boolq'), setting, best['old_weight'], steps, seed))
        for place in ('test', *_HELD_OUT):
            yield job(joint, place, seed, load)


def chosen(rows: list[Row]) -> dict[str, Any]:
    """Returns the setting with the best R@1 on dev among the trained rows of the packaged retriever; the first of equals.

    Ends the command if there is no such row.
    """
    trained = [row for row in rows if row['setting']['name'] != 'untrained' and 'start' not in row['setting']]
    if not trained:
        raise SystemExit('no setting of a was measured on dev, so none can be chosen: run a without --only first')
    return max(trained, key=lambda row: row['figures']['recall_at_1'])['setting']


def _label_free_run(bench: Bench, searched: effects_texts.SearchSet, setting: Mapping[str, Any], seed: int) -> api.Atlas:
    folder = bench.folder('label-free', setting, seed)
    questions = None
    if 'with_title' in setting:
        questions = _mined(bench, searched, setting['with_title'], tuple(setting['words']))
    effects_runs.train_retriever(folder, bench.start(setting), searched.passages_file, setting, seed, questions)
    return effects_runs.searching_model(bench, folder)


def _mined(bench: Bench, searched: effects_texts.SearchSet, with_title: float, words: tuple[int, int]) -> pathlib.Path:
    """Writes cut queries with hard negatives found by the untrained retriever, as `atlas-jax data negatives --filter none` does."""
    from atlas_jax.evaluation import negative_mining
    name = f'cut-{with_title}-{words[0]}-{words[1]}'
    mined = searched.folder / f'{name}.jsonl'
    if not mined.is_file():
        atlas = effects_runs.searching_model(bench, bench.models.retriever)
        index = effects_runs.passages_index(searched, atlas)
        queries = searched.folder / f'{name}-queries.jsonl'
        effects_texts.write_cut_queries(searched.passages_file, queries, with_title, words)
        negative_mining.mine([str(queries)], lambda: negative_mining.search_by_model(atlas, index, 'exact'), index.store,
                             negative_mining.MiningSettings(10, 4, 'none'), mined)
    return mined


def _joint_after(bench: Bench, searched: effects_texts.SearchSet, setting: Mapping[str, Any], old_weight: float, steps: int,
                 seed: int) -> api.Atlas:
    """Trains the label-free retriever further, together with the packaged reader, on masked spans of the same passages."""
    kept = {**setting, 'old_weight': old_weight, 'mlm_steps': steps}
    retriever, folder, index = (bench.folder(kind, kept, seed) for kind in ('mixed', 'mlm', 'mlm-index'))
    start = effects_runs.mixed(_label_free_run(bench, searched, setting, seed),
                               effects_runs.searching_model(bench, bench.models.retriever), old_weight)
    if not (retriever / 'model.json').is_file():
        start.save(retriever)
    effects_runs.passages_index(searched, start, index)
    effects_runs.pretrain(folder, bench.models.reader, retriever, searched.passages_file, index, seed, steps=steps)
    shutil.rmtree(index, ignore_errors=True)
    return effects_runs.searching_model(bench, folder)


# b, c: how much the retriever learns from the reader, and from how many examples.

_RATE = 5e-5  # the retriever's rate in every run that trains it
STEPS = 24  # updates of a few-shot run with BATCH_SIZE examples each: one and a half passes over 64


def joint_losses(bench: Bench) -> Iterator[Job]:
    """Yields a fixed retriever, each loss with the query side or both sides trained, on two sets, and both sides with an index that
    follows.
    """
    ways = [('frozen', 'pdist'), *((way, mode) for way in ('query_side', 'joint') for mode in MODES), (REFRESHED, 'pdist')]
    for name in ('factbook', 'squad'):
        for seed in bench.seeds:
            for way, mode in ways:
                setting = {'set': name, 'retriever': way, **({} if way == 'frozen' else {'loss': mode}), 'examples': 64,
                           'steps': bench.steps or STEPS, 'n_context': 3, **bench.sizes}
                followed = RefreshConfig(schedule='8') if way == REFRESHED else None
                distill = {'retriever_training': way.partition(',')[0], 'gold_score_mode': mode}
                yield from _few_shot(bench, 'b', setting, seed, distill, refresh=followed)


EXAMPLES: tuple[int | None, ...] = (8, 16, 64, 256, None)
PRETRAINING_STEPS = 200


def examples(bench: Bench) -> Iterator[Job]:
    """Yields closed book, fixed retriever, trained retriever, and trained after joint pre-training, for each number of examples."""
    for seed in bench.seeds:
        for count in EXAMPLES:
            for way in WAYS:
                # One pass over 256 examples; with more examples, the same number of updates.
                steps = bench.steps or (STEPS if count and count <= 64 else 64)
                setting = {'set': 'factbook', 'retriever': way, 'examples': count or 'all', 'steps': steps, 'n_context': 3, **bench.sizes}
                distill = {} if way == 'closed book' else {'retriever_training': way.removeprefix('pre-trained, ')}
                start = functools.partial(_pretrained, bench) if way.startswith('pre-trained') else None
                # Rows of b are reused where the training and the questions are the same.
                same = {**setting, **({} if way == 'frozen' else {'loss': 'pdist'})}
                made = [row for row in bench.rows.of('b', **same) if row['seed'] == seed]
                if made:
                    # Kept rows lack the answers' texts.
                    found = {name: value for name, value in made[0].items() if name not in ('experiment', 'setting', 'seed')}
                    yield Job('c', setting, seed, functools.partial(dict, found))
                else:
                    yield from _few_shot(bench, 'c', setting, seed, distill, start)


def _pretrained(bench: Bench) -> tuple[pathlib.Path, pathlib.Path]:
    """Trains the packaged models together on masked spans of the Factbook's passages. Returns the run and its retriever's index."""
    answered = effects_texts.answer_set(bench.work, bench.packages, 'factbook', bench.countries)
    steps = bench.steps or PRETRAINING_STEPS
    folder, index = (bench.folder(kind, {'pretraining': steps}, 0) for kind in ('pretrained', 'pretrained-index'))
    result = effects_runs.pretrain(folder, bench.models.reader, bench.models.retriever, answered.documents,
                                   effects_runs.index_of(bench, answered), 0, steps=steps)
    return folder, effects_runs.index_of(bench, answered, result.atlas, index)


def _few_shot(bench: Bench, experiment: str, setting: Mapping[str, Any], seed: int, distill: Mapping[str, Any], start: Any = None, *,
              refresh: RefreshConfig | None = None, rate: float = _RATE) -> Iterator[Job]:
    """Yields the job of one training and the answers after it; the run's folder is removed after its row is kept.

    Args:
      bench: folders and sizes.
      experiment: its letter.
      setting: `set`, `examples`, `steps`, `n_context`, `retriever`, and whatever else identifies the run.
      seed: Seeds the choice and the order of the examples.
      distill: fields of DistillConfig.
      start: returns a run to start from and its index; None starts from the packaged models.
      refresh: how the index follows the retriever.
      rate: the retriever's learning rate.
    """
    folder, index_dir = bench.folder('run', {'experiment': experiment, **setting}, seed), bench.folder('index', setting, seed)

    def run() -> Row:
        answered = effects_texts.answer_set(bench.work, bench.packages, setting['set'], bench.countries)
        closed = setting['retriever'] == 'closed book'
        model_dir, index = start() if start else (None, None if closed else effects_runs.index_of(bench, answered))
        count = None if setting['examples'] == 'all' else setting['examples']
        result, costs = effects_runs.measured(folder, lambda: effects_runs.train_reader(
            folder, bench, answered.sample('train', count, seed), index, seed, steps=setting['steps'], n_context=setting['n_context'],
            distill=distill, refresh=refresh, model_dir=model_dir, retriever_learning_rate=rate))
        opened = None
        if not closed:
            # The passage encoder was trained too, so the training's index belongs to another model.
            moved = distill['retriever_training'] == 'joint'
            opened = api.Index.open(effects_runs.index_of(bench, answered, result.atlas, index_dir) if moved else index)
        asked = answered.sample('test', bench.questions, 0)
        row = effects_runs.answered(result.atlas, asked, opened)
        if refresh is not None:
            # The cost of staleness for users who answer without building the index again.
            stale = effects_runs.found(result.atlas, asked, api.Index.open(index, force=True), setting['n_context'])
            row['outcomes']['stale_rank'] = stale
        return {**row, 'figures': row['figures'] | costs}

    yield from effects_runs.forgetting(bench.rows, [Job(experiment, setting, seed, run)], folder, index_dir)


# d: knowledge that changes, and an index that follows its encoder.

YEARS = {'2025': 'factbook', '2014': 'factbook-2014'}
REFRESHES = {'never': RefreshConfig(), 'every 16 steps': RefreshConfig(schedule='16'),
             'rolling, 1 % a step': RefreshConfig(rolling_fraction=.01), 'rolling, 5 % a step': RefreshConfig(rolling_fraction=.05)}


def knowledge(bench: Bench) -> Iterator[Job]:
    """Yields models trained in one year and asked with the index of either year, then joint training with each way to refresh the index."""
    for seed in bench.seeds:
        for trained_in in YEARS:
            for closed in (False, True):
                yield from _of_year(bench, trained_in, closed, seed)
        for name, refresh in REFRESHES.items():
            setting = {'set': 'factbook', 'retriever': 'joint', 'refresh': name, 'examples': 'all', 'steps': bench.steps or 48,
                       'n_context': 3, 'rate': 4 * _RATE, **bench.sizes}
            # A rate at which the passage encoder moves: at the demo's rate the index is hardly stale after these few steps.
            yield from _few_shot(bench, 'd', setting, seed, {'retriever_training': 'joint'}, refresh=refresh, rate=4 * _RATE)


def _of_year(bench: Bench, trained_in: str, closed: bool, seed: int) -> Iterator[Job]:
    """Yields the jobs of a model trained with one year's texts and answers, asked about offices that have changed hands."""
    setting = {'trained_in': trained_in, 'retriever': 'closed book' if closed else 'query_side', 'examples': 64,
               'steps': bench.steps or STEPS, 'n_context': 3, **bench.sizes}
    folder = bench.folder('year', setting, seed)

    def sets() -> dict[str, effects_texts.AnswerSet]:
        return {year: effects_texts.answer_set(bench.work, bench.packages, name, bench.countries) for year, name in YEARS.items()}

    @functools.cache
    def trained() -> api.Atlas:
        of = sets()[trained_in]
        index = None if closed else effects_runs.index_of(bench, of)
        return effects_runs.train_reader(folder, bench, of.sample('train', 64, seed), index, seed, steps=setting['steps'],
                                         retriever_learning_rate=_RATE).atlas

    def run(year: str | None) -> Row:
        from atlas_jax.metrics import answers
        found = sets()
        path = found['2014'].folder / 'offices.jsonl'
        newer = effects_texts.swapped_offices(found['2025'], found['2014'], path)
        index = None if year is None else api.Index.open(effects_runs.index_of(bench, found[year]))
        row = effects_runs.answered(trained(), path, index)
        now = [float(answers.exact_match(text, accepted)) for text, accepted in zip(row['predictions'], newer, strict=True)]
        then = row['outcomes'].pop('exact_match')
        return {**row, 'outcomes': row['outcomes'] | {'of_2014': then, 'of_2025': now},
                'figures': row['figures'] | {'of_2014': sum(then) / len(then), 'of_2025': sum(now) / len(now)}}

    jobs = [Job('d', {**setting, 'index': year or 'none'}, seed, functools.partial(run, year)) for year in ((None,) if closed else YEARS)]
    yield from effects_runs.forgetting(bench.rows, jobs, folder)


# e: how many passages, and which searcher.

CONTEXTS = (1, 2, 5, 10, 20, 40)
TRAINED_WITH = (1, 5, 20, 40)
SEARCHERS = ('exact', 'int8', 'codes', 'scann')


def contexts(bench: Bench) -> Iterator[Job]:
    """Yields models trained with each number of passages and answering with each, then one model with each searcher."""
    for seed in bench.seeds:
        for read in TRAINED_WITH:
            setting = {'set': 'factbook', 'retriever': 'query_side', 'examples': 64, 'steps': bench.steps or STEPS, 'n_context': read,
                       **bench.sizes}
            folder = bench.folder('context', setting, seed)
            load = functools.cache(functools.partial(_of_context, bench, setting, folder, seed))
            ways = [*((asked, 'exact') for asked in CONTEXTS), *((5, searcher) for searcher in SEARCHERS[1:] if read == 5)]
            jobs = [Job('e', {**setting, 'answered_with': asked, 'searcher': searcher}, seed,
                        functools.partial(_asked, bench, load, asked, searcher)) for asked, searcher in ways]
            yield from effects_runs.forgetting(bench.rows, jobs, folder)


def _of_context(bench: Bench, setting: Mapping[str, Any], folder: pathlib.Path, seed: int) -> tuple[train.TrainResult, dict[str, Any]]:
    answered = effects_texts.answer_set(bench.work, bench.packages, 'factbook', bench.countries)
    # Five passages teach the retriever, however many are read. With 20 a batch of four takes 9 GB, and with 40 a batch of two.
    return effects_runs.measured(folder, lambda: effects_runs.train_reader(
        folder, bench, answered.sample('train', 64, seed), effects_runs.index_of(bench, answered), seed, steps=setting['steps'],
        n_context=setting['n_context'], retriever_learning_rate=_RATE, micro_batches=2 if setting['n_context'] > 20 else 1))


def _asked(bench: Bench, load: Any, n_context: int, searcher: str) -> Row:
    from atlas_jax.searchers import codes_building
    from atlas_jax.searchers.config import SearchConfig
    answered = effects_texts.answer_set(bench.work, bench.packages, 'factbook', bench.countries)
    index = api.Index.open(effects_runs.index_of(bench, answered))
    if searcher == 'codes':
        # Set as docs/search.md chooses for a million passages; here every eighth passage is a candidate.
        codes_building.compress(index.index, codes_building.CodesSettings(96, 300, accept_recall=True), show_progress=False)
    result, costs = load()
    row = effects_runs.answered(result.atlas, answered.sample('test', bench.questions, 0), index, n_context=n_context,
                                search=SearchConfig(searcher=searcher), batch_size=max(1, min(16, 80 // n_context)))
    return {**row, 'figures': row['figures'] | costs}


EXPERIMENTS = {'a': label_free, 'b': joint_losses, 'c': examples, 'd': knowledge, 'e': contexts}


def tiny(bench: Bench) -> Bench:
    """Returns the smallest sizes: every run is shown to work, and no figure means anything."""
    return dataclasses.replace(bench, seeds=bench.seeds[:1], questions=6, countries=12, steps=6, search_set=200)
