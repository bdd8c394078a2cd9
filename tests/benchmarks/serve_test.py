"""The benchmark of the server computes what it says."""

import importlib
import time

import pytest

serve = importlib.import_module('serve')


def test_figures_of_both_sides(monkeypatch):
    asked = []

    def ask(port, body, connection=None):
        seconds = .002 * len(body.get('questions', [0])) if port == 1 else .01
        time.sleep(seconds)
        asked.append(body)
        return seconds

    monkeypatch.setattr(serve, '_ask', ask)
    found = serve.measure({'batched': 1, 'one at a time': 2}, ['a', 'b', 'c'], [1, 3], .1, 1)
    assert found['step']['ratio'] == pytest.approx(16) and [row['clients'] for row in found['rows']] == [1, 3]
    for row in found['rows']:
        batched, single = (row['sides'][name]['requests_per_second'] for name in serve.SIDES)
        assert row['ratio'] == pytest.approx(batched / single) and row['p99_ratio'] == pytest.approx(.2)
        assert row['sides']['batched']['p50'] == .002
    assert {body['question'] for body in asked if 'question' in body} == {'a', 'b', 'c'}


def test_a_tiny_project_can_be_served(tmp_path):
    from atlas_jax.apps.project import project_folder
    project = project_folder.open_project(serve.tiny_project(tmp_path / 'p'))
    project.require(*project_folder.ANSWERING)
    assert project.model.is_dir() and project.index.is_dir()
