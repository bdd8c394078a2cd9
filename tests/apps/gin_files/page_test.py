"""docs/gin.md says what the code says, and docstrings are taken apart as they are written here."""

import dataclasses
import pathlib

from atlas_jax.apps.gin_files import page

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMMAND = 'python -m atlas_jax.apps.gin_files.page > docs/gin.md'


def test_the_page_is_up_to_date():
    written = (ROOT / 'docs' / 'gin.md').read_text(encoding='utf-8')
    assert written == page.page(), f'docs/gin.md is not what the code says; run: {COMMAND}'
    assert COMMAND in written


def test_every_configurable_and_parameter_is_on_the_page():
    written, found = page.page(), page.configurables()
    assert {'atlas_jax.train.RunConfig', 'atlas_jax.train.train', 'atlas_jax.searchers.config.SearchConfig'} <= found.keys()
    for name, configurable in found.items():
        assert '### ' + '.'.join(name.split('.')[-2:]) in written
        if dataclasses.is_dataclass(configurable):
            assert all(f'| `{field.name}` |' in written for field in dataclasses.fields(configurable))
    undocumented = [line for line in written.splitlines() if line.endswith('| |')]
    assert not undocumented, f'without a meaning in their docstrings (Attributes or Args): {undocumented}'
    assert 'Knowledge' not in {name.rpartition('.')[2] for name in found}  # arrays, which no gin file can write down


def test_docstrings_are_taken_apart():
    prose, meanings = page.documented("""Does a thing.

        More: not an entry.

        Attributes:
          width: how wide it is,
            all of it. none: nothing.
          low, high: borders.

        Raises ConfigError where they cross.
        """, ('width', 'low', 'high'))
    assert prose == 'Does a thing.\n\nMore: not an entry.' and list(meanings) == ['width', 'low', 'high']
    assert meanings['width'] == 'how wide it is, all of it. none: nothing.' and meanings['low'] == meanings['high'] == 'borders.'


def test_entries_without_a_heading_and_other_sections():
    text = 'One line.\n\nfirst: a.\nsecond: b\n  and c.\n\nReturns:\n  third: not this.\n'
    prose, meanings = page.documented(text, ('first', 'second', 'third'))
    assert prose == 'One line.' and meanings == {'first': 'a.', 'second': 'b and c.'}
    assert page.documented('', ()) == ('', {})


def test_defaults_and_types():
    @dataclasses.dataclass
    class Options:
        """Options."""

        must: int
        some: str | None = 'a|b'
        many: list[int] = dataclasses.field(default_factory=lambda: [7])

    described = page._described(Options)
    assert '| `must` | `int` | must be set | |' in described
    assert '| `some` | `str \\| None` | `\'a\\|b\'` | |' in described and '| `many` | `list[int]` | `[7]` | |' in described
