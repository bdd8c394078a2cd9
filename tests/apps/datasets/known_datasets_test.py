"""The published data sets by name: the command line offers each."""

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.datasets import known_datasets
from atlas_jax.tasks import registry as tasks


def test_names_are_unique_and_none_is_a_command():
    names = [source.name for module in known_datasets._MODULES for source in module.SOURCES]
    assert len(names) == len(set(names)) == len(known_datasets.SOURCES) and not {'passages', 'demo'} & set(names)


@pytest.mark.parametrize('source', known_datasets.SOURCES.values(), ids=known_datasets.SOURCES)
def test_each_is_a_command_with_its_options(source):
    options = cli.parse(['data', source.name, '--from', 'a', 'b', '--to', 'c'])
    assert options.files == ['a', 'b'] and {name: getattr(options, name) for name in source.options} == dict(source.options)
    assert hasattr(options, 'max_passages') == (source.makes == 'passages')
    assert source.makes in ('passages', 'examples') and bool(source.task) == (source.makes == 'examples')
    assert not source.task or tasks.make(source.task)
