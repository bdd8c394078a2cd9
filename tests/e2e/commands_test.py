"""The commands of README and docs, run one after the other as they stand there: fewer countries, questions and steps, tiny models.

.ci/run runs the demo with the real models; here the point is that every command does its part with what the one before it wrote.
"""

import io
import json
import pathlib
import re
import shlex

import flax.linen as nn
import jax
import pytest

from atlas_jax.answering import api
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.project import configs
from atlas_jax.conversion import hf
from atlas_jax.io import contents
from atlas_jax.models import contriever, t5

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORTER = {'train': ['--gin.TOTAL_STEPS=2', '--gin.EXAMPLES=8'], 'evaluate': ['--gin.EXAMPLES=5'],
           'demo': ['--questions', '5', '--steps', '2'],
           'new': ['--reader', 'demo-data/models/reader', '--retriever', 'demo-data/models/retriever']}


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks in one language."""
    return re.findall(rf'^```{language}\n(.*?)^```', (ROOT / page).read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The arguments of the page's `atlas-jax` commands, those with && (the setup) apart."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith('atlas-jax ') and '&&' not in line]


def run(arguments: list[str], wheels: pathlib.Path) -> None:
    """One command, made shorter."""
    if arguments[:2] == ['data', 'demo'] or arguments[0] == 'demo':
        arguments = [*arguments, '--packages', str(wheels), '--countries', '6']
    if '--examples' in arguments:  # SHORTER has fewer
        place = arguments.index('--examples')
        arguments = arguments[:place] + arguments[place + 2:]
    # A flag and a macro that contradict each other are refused.
    shorter = [] if '--steps' in arguments or '--compare' in arguments else SHORTER.get(arguments[0], [])
    assert cli.main(arguments + shorter) == 0, shlex.join(arguments)
    if arguments[:2] == ['data', 'demo']:
        make_tiny(pathlib.Path('demo-data/models'))


def make_tiny(models: pathlib.Path) -> None:
    """Gives both models random weights of the size models/tiny.gin; their tokenizers stay."""
    gin_parse.parse(['models/tiny.gin'])
    for name, write, init in (('reader', hf.write_params, t5.init_params), ('retriever', hf.write_params, contriever.init_params)):
        config = gin_parse.value_of(name.upper())
        write(models / name, config, jax.device_get(nn.unbox(init(config, jax.random.key(0)))))
        contents.write(models / name)  # the list of the real model's files no longer fits


@pytest.mark.slow  # most commands load and compile a model: only in sequence do they show that one reads what another wrote
def test_commands_of_readme_and_search(demo_packages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in commands('README.md'):
        run(arguments, demo_packages.wheels)
    assert {'exact_match', 'stderr', 'questions'} <= json.loads(pathlib.Path('demo-data/figures.json').read_text()).keys()
    assert len(pathlib.Path('demo-data/results.jsonl').read_text().splitlines()) == 5
    assert 'train.TrainData.max_examples' in pathlib.Path('demo-data/run/config.gin').read_text()
    for arguments in commands('docs/search.md'):
        run(arguments, demo_packages.wheels)
    assert json.loads(pathlib.Path('searchers.json').read_text())['fit'] and pathlib.Path('demo-data/index/hybrid.json').is_file()
    capsys.readouterr()
    names = {'atlas': api.Atlas.load('demo-data/run'), 'index': api.Index.open('demo-data/index')}
    exec(blocks('docs/search.md', 'python')[0], names)
    out = capsys.readouterr().out
    found = [line for line in out.partition('questions,')[0].splitlines() if line.startswith('0.')]
    assert len(found) == 3 and 'Saved beside the index' in out


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by the name in backquotes before each."""
    text = (ROOT / page).read_text(encoding='utf-8')
    return dict(re.findall(r'`([\w./-]+\.(?:md|jsonl|csv))`[^`]*:\n\n```(?:markdown|json|csv)\n(.*?)^```', text, re.MULTILINE | re.DOTALL))


@pytest.mark.slow  # as above: from an empty folder, with what the page shows and nothing else
def test_your_documents_from_nothing(demo_packages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # The shipped run has no flag for its length; two steps show that each command reads what the one before it wrote.
    monkeypatch.setattr(configs, 'steps_for', lambda questions: 2)
    for name, text in files('docs/your-documents.md').items():
        pathlib.Path(name).parent.mkdir(exist_ok=True)
        pathlib.Path(name).write_text(text)
    run(['data', 'demo', '--out', 'demo-data'], demo_packages.wheels)  # tiny models in place of those that `new` would fetch
    monkeypatch.setattr('sys.stdin', io.StringIO('Who looks after the bees?\n:without 1\n:export talk.jsonl\n'))
    found = ''
    for arguments in commands('docs/your-documents.md'):
        if arguments[:2] != ['data', 'demo']:
            capsys.readouterr()
            run(arguments, demo_packages.wheels)
        if arguments[:2] == ['index', 'search']:
            found = capsys.readouterr().out
        if arguments[:2] == ['index', 'info']:
            info = json.loads(capsys.readouterr().out)
    assert 'Martha Lind' in found and 'Boskoop' in found  # three passages in all
    assert info['deleted'] == 1 and info['rows'] - info['deleted'] == 3
    first, second = map(json.loads, pathlib.Path('talk.jsonl').read_text().splitlines())
    assert len(first['passages']) == 3 and second['passages'][0]['docid'] == first['passages'][1]['docid']
    assert len(pathlib.Path('my-results.jsonl').read_text().splitlines()) == 2 and pathlib.Path('my-project/longer').is_dir()
    results = [pathlib.Path(f'my-project/results/{name}.jsonl').read_text().splitlines() for name in ('test', 'closed_book', 'longer')]
    assert {len(lines) for lines in results} == {2} and pathlib.Path('my-project/report.html').is_file()
