"""`atlas-jax evaluate`: its ways, what they print and write, and mistakes in their options."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.evaluation import results
from tests.e2e import commands_test
from tests.evaluation import beir_folder_test
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The files that docs/evaluation.md takes as given: a run, its index, one of other years, files of questions, a BEIR folder."""
    path = tmp_path_factory.mktemp('evaluate-command')
    atlas = tiny_run.atlas(dropout_rate=0.0)
    inputs = dataclasses.replace(atlas.config.inputs, text_max_tokens=61)  # room for the options of a choice
    atlas = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, inputs=inputs))
    atlas.save(path / 'run')
    tiny_run.index(atlas, path)
    for name in ('index-2017', 'index-2020'):
        shutil.copytree(path / 'index', path / name)
    rows = [row | {'year': 2017 + number % 2} for number, row in enumerate(tiny_run.rows(4))]
    choices = {'options': {'A': 'red', 'B': 'blue', 'C': 'grey'}, 'answer': 'B', 'group': 'STEM'}
    for file, written in (('nq/test.jsonl', rows), ('templama/test.jsonl', rows),
                          *((f'mmlu/test.{name}.jsonl', [choices | {'question': f'{name} ?', 'subject': name}] * 2) for name in 'ab')):
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).write_text('\n'.join(map(json.dumps, written)))
    beir_folder_test.write(path / 'beir' / 'scifact', beir_folder_test.CORPUS, beir_folder_test.QUERIES, beir_folder_test.QRELS)
    return path


def asking(*more) -> list[str]:
    return ['evaluate', '--gin_file', 'runs/evaluate.gin', '--gin.MODEL_DIR="run"', '--gin.EXAMPLES_FILE="nq/test.jsonl"', *more]


def test_the_commands_of_the_page(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    questions, choices, exchange, everything, comparison, retrieval, rescoring, _ = commands_test.commands('docs/evaluation.md')

    def printed(arguments) -> str:
        assert cli.main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert 'exact_match by year' not in printed(questions) and json.loads(pathlib.Path('nq.json').read_text())['questions'] == 4
    found = printed(choices)
    for part in ('debiased_accuracy', 'subject        questions  accuracy', 'mean of these  2'):
        assert part in found, part
    assert [row['labels'] for row in results.read('results/mmlu.jsonl')] == [{'group': 'STEM', 'subject': name} for name in 'aabb']
    found = printed(exchange)
    assert 'exact_match by year  2017' in found and 'before: index 2017; after: index 2020' in found
    rows = results.read('results/nq.jsonl')
    results.finish('results/nq-trained.jsonl', [{**row, 'exact_match': 1.0} for row in rows])
    found = printed(everything)
    assert 'results/evaluation.html: 4 results, 1 comparisons' in found and 'templama.jsonl 2017: 4 questions' in found
    assert json.loads(pathlib.Path('results/evaluation.json').read_text())['results']['nq-trained.jsonl']['exact_match_interval'] == [1, 1]
    assert 'exact_match 0.000 1.000 1.000 +1.000 to +1.000' in ' '.join(printed(comparison).split())
    assert 'Better after, by exact match' in pathlib.Path('comparison.html').read_text()
    assert [line.split()[0] for line in printed(retrieval).splitlines()] == ['ndcg_at_10', 'recall_at_100', 'mrr', 'map',
                                                                             'precision_at_10', 'questions']
    found = json.loads(pathlib.Path('scifact.json').read_text())
    assert found['questions'] == 6 and found['ndcg_at_10_interval'][0] < found['ndcg_at_10'] < found['ndcg_at_10_interval'][1]
    assert len(pathlib.Path('scifact/run.trec').read_text().splitlines()) == 5 * 23 + 22
    assert len(results.read('scifact/results.jsonl')) == 6
    assert printed(rescoring).startswith('ndcg_at_10') and pathlib.Path('rescored/results.jsonl').read_text() == (
        pathlib.Path('scifact/results.jsonl').read_text())
    pathlib.Path('results/templama.jsonl').unlink()
    pathlib.Path('results/mmlu.jsonl').unlink()
    assert 'all files: 8 questions' in printed([*everything, '--pool'])


@pytest.mark.parametrize(('arguments', 'says'), [
    ([], 'or one of --gin_file, --all, --compare and --task'), (['--all', 'x', '--compare', 'a', 'b'], 'or one of'),
    (['--all', 'x', '--model', 'm'], '--model is of no use with --all'), (['--compare', 'a', 'b', '--pool'], '--pool is of no use'),
    (['--all', 'x', '--report', 'r.html'], '--report is of no use with --all'),
    (['--all', 'x', '--gin.EXAMPLES=3'], '--gin.EXAMPLES=3 needs a --gin_file'), (['--all', 'nowhere'], 'nowhere: no such folder'),
    (['--compare', 'a', 'b'], 'a: no such file'), (['--task', 'retrieval', '--data', 'x'], '--task retrieval needs --data'),
    (['--task', 'retrieval', '--data', 'x', '--out', 'y'], 'give either --model, or both'),
    (['--task', 'retrieval', '--data', 'x', '--out', 'y', '--index', 'a', '--index', 'b', '--model', 'm'], 'takes one --index'),
    (['--task', 'retrieval', '--data', 'nowhere', '--out', 'y', '--model', 'run'], 'nowhere: no such folder'),
    (['--task', 'retrieval', '--data', 'x', '--out', 'y', '--run', 'r', '--model', 'run'], '--run scores an existing run'),
    (['--all', 'x', '--run', 'r'], '--run is of no use with --all'),
    (asking('--index', 'a', '--index', 'b')[1:], '--index a: give NAME=DIR, each with a name of its own'),
    (asking('--index', 'a=index', '--index', 'a=index')[1:], '--index a=index: the name a is taken'),
    (asking('--index', 'a=index', '--index', 'b=nowhere')[1:], 'nowhere'),
    (asking('--index', 'a=index', '--out', 'x')[1:], '--out is of no use'),
    (asking('--index', 'index', '--abstain_below', '0.5')[1:], 'run is not calibrated: `atlas-jax calibrate --model run'),
    (asking('--index', 'index', '--abstain_below', '2')[1:], '--abstain_below 2.0: it must be from 0 to 1'),
    (['--all', 'x', '--abstain_below', '0.5'], '--abstain_below is of no use with --all')])
def test_mistakes_get_one_line(folder, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(folder)
    assert cli.main(['evaluate', *arguments]) == 2
    printed = capsys.readouterr().err
    assert says in printed and printed.count('\n') == 1
    assert not pathlib.Path('y').exists()
