"""The effects' results: kept one by one, gone on with, and summed up; the texts that they are of; and one row of a tiny model."""

import json
import math
import pathlib
import sys
import types

import effects
import effects_report
import effects_rows
import effects_runs
import effects_texts
import numpy as np
import pytest

from atlas_jax.io import jsonl

PAGE = ''.join(f'## {letter}\n\n<!-- {letter} -->\nstale\n<!-- /{letter} -->\n\nkept {letter}\n' for letter in 'abcde')


def row(experiment: str, setting: dict, seed: int, **values) -> dict:
    """A made-up row."""
    figures = values.pop('figures', {'cpu_seconds_a_step': 2.0, 'training_cpu_seconds': 60.0, 'passages': 10, 'questions': 4})
    return {'experiment': experiment, 'setting': setting, 'seed': seed, 'figures': figures, 'outcomes': values}


def jobs_of(made: list, fails_at: int | None = None):
    """Four jobs of two settings, and what the generator does after each pair."""
    def run(name: str, seed: int) -> dict:
        if len(made) == fails_at:
            raise KeyboardInterrupt
        made.append((name, seed))
        return {'figures': {'x': seed}, 'outcomes': {'exact_match': [1.0, 0.0]}}

    for name in ('one', 'two'):
        for seed in (0, 1):
            yield effects_rows.Job('b', {'name': name}, seed, lambda name=name, seed=seed: run(name, seed))
        made.append(f'behind {name}')


def test_a_killed_run_goes_on_behind_its_last_row(tmp_path):
    path, made = tmp_path / 'new' / 'rows.jsonl', []
    with pytest.raises(KeyboardInterrupt):
        effects_rows.finish(jobs_of(made, fails_at=4), effects_rows.Rows(path))
    assert made == [('one', 0), ('one', 1), 'behind one', ('two', 0)]
    with path.open('a') as file:
        file.write('{"experiment": "b", "sett')  # killed while it wrote
    again = []
    effects_rows.finish(jobs_of(again), effects_rows.Rows(path))
    assert again == ['behind one', ('two', 1), 'behind two']
    found = effects_rows.Rows(path)
    assert [(each['setting']['name'], each['seed']) for each in found.rows] == [('one', 0), ('one', 1), ('two', 0), ('two', 1)]
    assert found.has('b', {'name': 'two'}, 1) and not found.has('b', {'name': 'two'}, 2) and not found.has('c', {'name': 'two'}, 1)
    assert len(path.read_text().splitlines()) == 4
    # An unfinished line would have been read as a part of the next one.
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_only_makes_the_rows_whose_settings_have_the_texts(tmp_path):
    made: list = []
    effects_rows.finish(jobs_of(made), effects_rows.Rows(tmp_path / 'rows.jsonl'), ['"name"', 'two'])
    assert made == ['behind one', ('two', 0), ('two', 1), 'behind two']


def test_a_run_that_is_passed_over_keeps_its_folder(tmp_path):
    rows, runs = effects_rows.Rows(tmp_path / 'rows.jsonl'), tmp_path / 'runs'

    def of_two_runs():
        for name in ('one', 'two'):
            (runs / name).mkdir(parents=True)
            jobs = [effects_rows.Job('e', {'name': name, 'asked': asked}, 0, lambda: {'figures': {}, 'outcomes': {}}) for asked in (1, 5)]
            yield from effects_runs.forgetting(rows, jobs, runs / name, tmp_path / 'absent')

    for only, left in ((['two', '5'], ['one', 'two']), (['two'], ['one']), ([], [])):
        effects_rows.finish(of_two_runs(), rows, only)
        assert sorted(path.name for path in runs.iterdir()) == left, only
        runs.rename(tmp_path / f'runs before {only}')


def test_means_are_over_questions_and_seeds_and_differences_are_paired():
    # A question's difficulty counts a hundred times what the training brought: only pairs show it.
    hard = np.random.default_rng(0).integers(0, 2, 400).astype(float)
    before = [row('a', {'name': 'untrained'}, 0, exact_match=(hard * .9).tolist())]
    after = [row('a', {'name': 'cut'}, seed, exact_match=(hard * .9 + .01 + .02 * seed).tolist()) for seed in (0, 1, 2)]
    found = effects_rows.difference(before, after, effects_rows.exact_match)
    assert found.mean == pytest.approx(.03) and found.low == pytest.approx(.03) and found.high == pytest.approx(.03)
    assert found.seeds == 3 and found.spread == pytest.approx(.02)  # sum of .01, .03 and .05
    alone = effects_rows.summary(after, effects_rows.exact_match)
    assert alone.mean == pytest.approx(hard.mean() * .9 + .03) and alone.spread == pytest.approx(.02)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * .9 * hard.std() / math.sqrt(400), rel=.1)
    assert str(effects_rows.Summary(-.0124, None, 1, -.0301, 1.)) == '-.012 (-.030 to 1.000)'
    assert effects_rows.summary(before, effects_rows.exact_match).spread is None


def test_seeds_that_one_side_lacks_do_not_count():
    # A seed draws the examples: seed 2's are worth ten times what the training brings.
    before = [row('c', {}, seed, exact_match=[worth, 0.]) for seed, worth in ((0, .1), (1, .1), (2, .9))]
    after = [row('c', {}, seed, exact_match=[worth, 0.]) for seed, worth in ((1, .2), (0, .2))]
    for pair in ((before, after), (before[:2], [*after, row('c', {}, 3, exact_match=[.9, .9])])):
        found = effects_rows.difference(*pair, effects_rows.exact_match)
        assert found.mean == pytest.approx(.05) and found.seeds == 2 and found.spread == pytest.approx(0)
    assert effects_report._apart(before, after, effects_rows.exact_match, 3).endswith('; 2 of 3 seeds')
    assert effects_report._apart(before[2:], after, effects_rows.exact_match, 2) == '–'
    with pytest.raises(ValueError, match='no seed in common'):
        effects_rows.difference(before[2:], after, effects_rows.exact_match)


def test_a_cell_of_fewer_seeds_than_its_line_says_so():
    found = {'dev_rank': [1, 2], 'gold_rank': [1, 2]}
    joint = {'name': 'then joint mlm', 'after': 'x', 'mlm_steps': 8}
    rows = [row('a', {**setting, 'on': on}, seed, **found) for setting, on, seeds in (
        ({'name': 'untrained'}, 'test', (0,)), ({'name': 'untrained'}, 'squad', (0,)), (joint, 'test', (0, 1, 2)), (joint, 'squad', (1,)))
        for seed in seeds]
    last = '\n'.join(effects_report._tables_a(rows)).splitlines()[-1]
    assert last.startswith('| then joint mlm, 8 updates of 4 | 3 |')
    assert last.count('1 of 3 seeds') == 2  # nDCG@10 of squad, and its difference


def test_rows_of_other_questions_are_not_compared():
    with pytest.raises(ValueError, match=r'rows of \[2, 3\] questions'):
        effects_rows.summary([row('b', {}, 0, exact_match=[1, 0]), row('b', {}, 1, exact_match=[1, 0, 1])], effects_rows.exact_match)
    # Nor is a line that stands for "not yet run".
    for compare in (effects_rows.difference, lambda *sides: effects_report._apart(*sides, 1)):
        with pytest.raises(ValueError, match='same questions'):
            compare([row('b', {}, 0, exact_match=[1])], [row('b', {}, 0, exact_match=[1, 0])], effects_rows.exact_match)


def test_figures_of_ranks():
    ranks = [1, 2, 0, 10, 11]
    assert effects_rows.recall_at(ranks, 1) == [1, 0, 0, 0, 0] and effects_rows.recall_at(ranks, 10) == [1, 1, 0, 1, 0]
    assert effects_rows.ndcg_at_10(ranks) == pytest.approx([1, 1 / math.log2(3), 0, 1 / math.log2(11), 0])


def made_up() -> list[dict]:
    """Rows of every letter, two seeds each where there are seeds."""
    cut = {'name': 'cut queries', 'learning_rate': 1e-5, 'total_steps': 9, 'batch_size': 4, 'with_title': .5,
           'words': (5, 12), 'old_weight': .5}
    ranks = {'untrained': [2] * 40 + [1] * 60, 'cut queries': [1] * 90 + [3] * 10, 'then joint mlm': [2] * 40 + [1] * 60}
    found = [row('a', {**setting, 'on': on}, seed, gold_rank=ranks[setting['name']], dev_rank=[1, 2])
             for on in ('dev', 'test', 'squad', 'pubmed') for setting in ({'name': 'untrained'}, cut)
             for seed in ((0, 1) if setting is cut and on != 'dev' else (0,))]
    found += [row('a', {**setting, 'start': 'random', 'on': 'dev'}, 0, gold_rank=ranks[name])
              for name, setting in (('untrained', {'name': 'untrained'}), ('cut queries', cut))]
    found += [row('a', {'name': 'then joint mlm', 'after': 'cut queries', 'mlm_steps': 5, 'on': 'test'}, 0,
                  gold_rank=ranks['then joint mlm'], dev_rank=[1, 1])]
    for seed in (0, 1):
        right = {'exact_match': [1, 0, 1, seed], 'gold_rank': [1, 2, 0, 1]}
        found += [row('b', {'set': 'factbook', 'retriever': way, **more}, seed, **right)
                  for way, more in (('frozen', {}), ('joint', {'loss': 'pdist'}))]
        found += [row('c', {'retriever': way, 'examples': count}, seed, **right) for way in ('closed book', 'query_side')
                  for count in (8, 'all')]
        found += [row('d', {'trained_in': '2025', 'index': year}, seed, of_2014=[1, 0], of_2025=[0, 1]) for year in ('2014', '2025')]
        found += [row('d', {'refresh': name, 'retriever': 'joint'}, seed, stale_rank=[0, 1, 1, 1], **right)
                  for name in ('never', 'rolling, 1 % a step')]
        found += [row('e', {'n_context': 5, 'answered_with': read, 'searcher': searcher}, seed, **right)
                  for read, searcher in ((5, 'exact'), (10, 'exact'), (5, 'int8'))]
    return found


def test_the_report_fills_the_page_from_rows_alone(tmp_path, monkeypatch):
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    rows = effects_rows.Rows(tmp_path / 'first.jsonl'), effects_rows.Rows(tmp_path / 'second.jsonl')
    for number, each in enumerate(made_up()):
        rows[number % 2].add(each)
    monkeypatch.setattr(sys, 'argv', ['effects.py', '--report', str(page), '--json', str(rows[0].path), str(rows[1].path)])
    effects.main()
    text = page.read_text()
    assert 'stale' not in text and all(f'kept {letter}' in text for letter in 'abcde') and 'Not yet run' not in text
    assert '| cut queries of 5 to 12 words, titles before 50%; rate 1e-05, 9 updates of 4; 50% old weights | 2 | .900 ± .000' in text
    assert '**.300 ± .000 (.170 to .430)**' in text and '1 were tried' in text
    joint = next(line for line in text.splitlines() if line.startswith('| then joint mlm'))
    assert joint.count('.000 (.000 to .000)') == 2 and joint.endswith('| – | – | – | – |')  # it is as before, and not yet run elsewhere
    assert '| random weights | 1 | .600' in text and text.count('From random weights') == 1
    assert '| frozen | – | 2 | .625 ± .177' in text and '| joint | pdist | 2 |' in text
    assert '| 8 | 2 | .625' in text and '| 2025 | 2014 | 2 | .500' in text and '| int8 | 2 | .625' in text
    assert '| rolling, 1 % a step | 2 |' in text and '| .750 ± .000' in text
    assert '| trained with | 5 | 10 | CPU s an update |' in text
    for name, *_ in effects_report.PICTURES.values():
        assert '<svg' in (tmp_path / f'evidence-{name}.svg').read_text() and text.count(f'](evidence-{name}.svg)') == 1
    before = text
    effects.main()
    assert page.read_text() == before  # the same rows give the same page


def test_the_page_in_docs_is_made_of_the_results_that_are_kept(tmp_path):
    root = pathlib.Path(effects.__file__).parents[1]
    page, text = tmp_path / 'evidence.md', (root / 'docs' / 'evidence.md').read_text()
    page.write_text(text)
    effects_report.write(page, effects_rows.Rows(root / 'benchmarks' / 'effects.jsonl').rows)
    assert page.read_text() == text, 'make it again: benchmarks/effects.py --report docs/evidence.md --json benchmarks/effects.jsonl'


def test_a_figure_is_written_the_same_in_whatever_order_it_was_summed():
    values = (.1, .2, .3, .6, .7)
    assert sum(values) != sum(reversed(values))
    # The nearest floats to 39/80 lie on both sides of it.
    assert {effects_rows.written(.4875 + away, 3) for away in (-1e-15, -6e-17, 0, 6e-17, 1e-15)} == {'0.487'}


def test_kept_rows_are_added_once_and_without_what_was_answered(tmp_path):
    first = row('b', {'set': 'factbook'}, 0, exact_match=[1.0, 0.0]) | {'predictions': ['a', 'b']}
    kept = effects_rows.kept([first], tmp_path / 'kept.jsonl')
    again = effects_rows.kept([first, row('b', {'set': 'factbook'}, 1, exact_match=[0.0, 0.0])], tmp_path / 'kept.jsonl')
    assert again[0] == kept[0] == {**{name: value for name, value in first.items() if name != 'predictions'},
                                   'outcomes': {'exact_match': [1, 0]}}
    assert [each['seed'] for each in effects_rows.Rows(tmp_path / 'kept.jsonl').rows] == [0, 1]


def test_reduced_sizes_stand_apart_and_what_is_missing_is_named(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    right = {'exact_match': [1, 0], 'gold_rank': [1, 2]}
    effects_report.write(page, [row('b', {'set': 'factbook', 'retriever': 'frozen', **sizes}, 0, **right)
                                for sizes in ({'questions': 2}, {})])
    text = page.read_text()
    assert text.count('Not yet run.') == 4 and text.count('| frozen | – | 1 |') == 2
    assert text.index('| frozen') < text.index('At reduced size (2 questions a set):') < text.rindex('| frozen')
    assert not list(tmp_path.glob('*.svg')) and '.svg' not in text
    page.write_text('# nothing\n')
    with pytest.raises(ValueError, match='has no place <!-- a -->'):
        effects_report.write(page, [])


def test_samples_are_nested_and_cut_queries_are_of_their_passage(tmp_path):
    answered = effects_texts.AnswerSet('made up', tmp_path)
    jsonl.write(answered.questions('train'), ({'question': f'q{number}'} for number in range(50)))
    asked = [[row['question'] for _, row in jsonl.read(answered.sample('train', count, 1))] for count in (8, 16)]
    assert asked[0] == asked[1][:8] and len(set(asked[1])) == 16 and asked[1] != sorted(asked[1])
    assert answered.sample('train', None, 1) == answered.questions('train')
    passages = [{'id': f'p{number}', 'title': f'Title{number}', 'text': ' '.join(f'w{number}.{word}' for word in range(40))}
                for number in range(30)]
    jsonl.write(tmp_path / 'passages.jsonl', passages)
    for share in (0., 1.):
        effects_texts.write_cut_queries(tmp_path / 'passages.jsonl', tmp_path / 'cut.jsonl', share, (5, 12))
        queries = [row for _, row in jsonl.read(tmp_path / 'cut.jsonl')]
        assert [query['gold_docids'] for query in queries] == [[each['id']] for each in passages]
        for query, each in zip(queries, passages, strict=True):
            words = query['question'].split()
            assert (words[0] == each['title']) == bool(share)
            assert 1 <= len(words[bool(share):]) <= 12 and set(words[bool(share):]) <= set(each['text'].split())


def test_a_row_of_a_tiny_retriever(tmp_path):
    import effects_runs

    from tests.testing import tiny_run
    atlas = tiny_run.atlas(dropout_rate=0.0)
    passages = [{'id': f'd{i}', 'title': f'thing {i}', 'text': f'The thing {i} is {tiny_run.COLOURS[i % 7]} .'} for i in range(23)]
    jsonl.write(tmp_path / 'passages.jsonl', passages)
    jsonl.write(tmp_path / 'corpus.jsonl', ({'_id': each['id'], 'text': each['text']} for each in passages))
    jsonl.write(tmp_path / 'queries.jsonl', ({'_id': f'q{i}', 'text': f'what is thing {i} ?'} for i in range(11)))
    (tmp_path / 'qrels').mkdir()
    pathlib.Path(tmp_path / 'qrels' / 'dev.tsv').write_text(''.join(f'q{i} 0 d{i} 1\n' for i in range(11)))
    searched = effects_texts.SearchSet('made up', tmp_path)
    made = effects_runs.ranks(atlas, searched, 'dev', tmp_path / 'scratch', beside='dev')
    index = effects_runs.passages_index(searched, atlas)
    found = atlas.search([f'what is thing {i} ?' for i in range(11)], index, 23)
    expected = [[each.passage.docid for each in row].index(f'd{i}') + 1 for i, row in enumerate(found)]
    assert made['outcomes'] == {'gold_rank': expected, 'dev_rank': expected} and len(set(expected)) > 1
    assert made['figures']['recall_at_1'] == sum(rank == 1 for rank in expected) / 11 and made['figures']['questions'] == 11
    # The trained retriever's index goes, the packaged one's stays.
    assert not (tmp_path / 'scratch').exists() and (tmp_path / 'index').is_dir()


def test_runs_of_a_retriever_alone_and_of_both_models_are_searched_with(tmp_path, monkeypatch):
    import effects_runs

    from tests.testing import tiny_run
    both, alone = tiny_run.atlas(), tiny_run.retriever()
    both.save(tmp_path / 'both')
    alone.save(tmp_path / 'alone')
    monkeypatch.setattr(effects_texts, 'models', lambda *_: effects_texts.Models(tmp_path / 'both', tmp_path / 'both'))
    bench = effects_runs.Bench(tmp_path, None, effects_rows.Rows(tmp_path / 'rows.jsonl'))
    for folder, layers in (('both', both.config.retriever.num_layers), ('alone', 1)):
        found = effects_runs.searching_model(bench, tmp_path / folder)
        assert found.config.retriever.num_layers == layers and found.task.qa_prompt_format == '{question}'


def test_the_best_setting_on_dev_is_chosen():
    import effects_plans
    found = {'untrained': .9, 'x': .7, 'y': .8, 'z': .8}
    rows = [row('a', {'name': name}, 0, figures={'recall_at_1': value}) for name, value in found.items()]
    # A retriever that knew nothing is no setting of the packaged one, however well it does.
    nothing = row('a', {'name': 'x', 'start': 'random'}, 0, figures={'recall_at_1': 1.})
    assert effects_plans.chosen([nothing, *rows]) == {'name': 'y'}
    with pytest.raises(SystemExit, match='run a without --only first'):
        effects_plans.chosen(rows[:1])


def test_a_shorter_training_is_never_warmed_up_for_longer_than_it_takes(tmp_path):
    import effects_plans
    import effects_runs
    bench = effects_runs.Bench(tmp_path, None, effects_rows.Rows(tmp_path / 'rows.jsonl'), steps=6)
    found = []
    with pytest.raises(SystemExit, match='no setting of a was measured'):  # nothing is run, so nothing can be chosen
        for job in effects_plans.label_free(bench):
            found.append(job.setting)
    trained = [setting for setting in found if 'total_steps' in setting]
    assert {setting.get('start') for setting in trained} == {None, 'random'}
    assert all(setting['warmup_steps'] <= setting['total_steps'] == 6 for setting in trained)


def test_a_training_is_measured_by_what_the_processor_worked(tmp_path, monkeypatch):
    import effects_runs
    history = tuple({'seconds': seconds} for seconds in (90., 4., 2., 8.))
    # 100 seconds in which the process had the processor for 50, as beside another one.
    clocks = {name: iter(times * 2).__next__ for name, times in (('perf_counter', (0., 100.)), ('process_time', (7., 57.)))}
    monkeypatch.setattr(effects_runs, 'time', types.SimpleNamespace(**clocks))
    result, costs = effects_runs.measured(tmp_path, lambda: types.SimpleNamespace(history=history))
    assert result.history == history and costs == {'cpu_seconds_a_step': 2., 'training_cpu_seconds': 7.}
    (tmp_path / 'metrics.jsonl').touch()  # another process began it, and had a share of its own
    _, costs = effects_runs.measured(tmp_path, lambda: types.SimpleNamespace(history=history))
    assert costs == {'cpu_seconds_a_step': None, 'training_cpu_seconds': None}


def test_a_training_of_both_experiments_is_made_once(tmp_path):
    import effects_plans
    import effects_runs
    bench = effects_runs.Bench(tmp_path, None, effects_rows.Rows(tmp_path / 'rows.jsonl'), seeds=(0,))
    for job in effects_plans.joint_losses(bench):
        if job.setting['set'] == 'factbook' and job.setting.get('loss', 'pdist') == 'pdist':
            bench.rows.add(row('b', dict(job.setting), 0, exact_match=[1]) | {'predictions': [job.setting['retriever']]})
    found = {(job.setting['examples'], job.setting['retriever']): job.run for job in effects_plans.examples(bench)}
    assert set(found[64, 'joint']()) == {'figures', 'outcomes', 'predictions'}
    assert [found[64, way]()['predictions'] for way in ('frozen', 'query_side', 'joint')] == [['frozen'], ['query_side'], ['joint']]
    assert {way for _, way in found} == set(effects_rows.WAYS) and len(found) == 30


def test_weights_between_old_and_new():
    import effects_runs

    from atlas_jax.answering import api
    new, old = (api.Atlas(None, {'reader': {}, 'retriever': {'layer': np.full(3, value)}}, None, None) for value in (1., 5.))
    moved = effects_runs.mixed(new, old, .25).params['retriever']['layer']
    np.testing.assert_allclose(moved, [2.] * 3)
    assert effects_runs.mixed(new, old, 0) is new
