"""`atlas-jax demo`: its options reach the demo, and its figures a file."""

import json

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.demo import demo


@pytest.mark.parametrize(('words', 'options'), [
    ([], {'countries': 60, 'questions': 96, 'seed': 0, 'report_file': None, 'packages_dir': None}),
    (['--steps', '3', '--seed', '5', '--questions', '7', '--countries', '11', '--report', 'r.html', '--packages', 'p'],
     {'countries': 11, 'questions': 7, 'seed': 5, 'report_file': 'r.html', 'packages_dir': 'p', 'steps': 3}),
])
def test_options_reach_the_demo(words, options, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(demo, 'demo', lambda work, **others: seen.append((work, others)) or {'exact_match': 0.5})
    assert cli.main(['demo', '--work', 'w', '--json', str(tmp_path / 'figures.json'), *words]) == 0
    assert seen == [('w', options)] and json.loads((tmp_path / 'figures.json').read_text()) == {'exact_match': 0.5}
