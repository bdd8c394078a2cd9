"""docs/tasks.md is true: its lines give the queries and targets that it says, its table the metrics, its options exist."""

import json
import pathlib
import re

import pytest

from atlas_jax.tasks import registry

PAGE = (pathlib.Path(__file__).parents[2] / 'docs' / 'tasks.md').read_text(encoding='utf-8')
SECTIONS = dict(re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)', PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize('name', registry.TASKS)
def test_the_line_gives_this_query_and_target(name):
    row, query, target = re.search(r'```json\n(.*?)\n```\n- query `(.*?)`.*?\n- target `(.*?)`', SECTIONS[name], re.DOTALL).groups()
    example = registry.make(name).example(json.loads(row), 0)
    if registry.make(name).draws:
        # As many words are masked as on the page, perhaps others.
        assert example.query.count('<extra_id_') == example.target.count('<extra_id_') == 1
        assert len(example.query.split()) + len(example.target.split()) == len(json.loads(row)['text'].split()) + 2
    else:
        assert (example.query, example.target) == (query, target)


@pytest.mark.parametrize('name', registry.TASKS)
def test_the_table_names_fields_and_metrics(name):
    fields, metrics, query, target = re.search(rf'^\| `{name}` \| (.*?) \| (.*?) \| (\d+), (\d+) \|$', PAGE, re.MULTILINE).groups()
    task = registry.make(name)
    assert {task.asks, task.label} <= set(re.findall(r'`(\w+)`', fields)) <= set(task.reads) | {'passages'}
    assert (task.query_max_tokens, task.target_max_tokens) == (int(query), int(target))
    if metrics != 'as `mlm`':
        shown = metrics.lower().replace(', -2, -l', ', rouge-2, rouge-l').replace('de-biased', 'debiased')
        assert tuple(re.sub('[ -]', '_', metric) for metric in shown.split(', ')) == tuple(metric.lower() for metric in task.metrics)
    else:
        assert task.metrics == registry.make('mlm').metrics


def test_every_option_stands_on_the_page():
    for kind in registry.TASKS.values():
        for option in kind.__dataclass_fields__:
            assert f'`{option}`' in PAGE or f'`{option}=' in PAGE, option
