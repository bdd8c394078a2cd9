"""Pages that speak of the code name what the code has: messages, fields of options, bounds, names of T5X and of the original."""

import ast
import functools
import pathlib
import re

import pytest

from atlas_jax.apps.gin_files import t5x_names
from atlas_jax.conversion import original

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))


def text_of(name: str) -> str:
    return (ROOT / 'docs' / name).read_text(encoding='utf-8')


def tables_of(page: str, header: str) -> list[list[str]]:
    """The cells of all tables of a page that have this header."""
    blocks = re.findall(rf'^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)', page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for block in blocks for line in block.splitlines()]


@functools.cache
def texts_of_the_source() -> list[str]:
    """Every text that the program may print, … where a value is put in; docstrings apart."""
    found = []
    for path in sorted((ROOT / 'atlas_jax').rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append(''.join(str(part.value) if isinstance(part, ast.Constant) else '…' for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
    return found


MESSAGES = [row[0].strip('`') for row in tables_of(text_of('troubleshooting.md'), '| message | cause | what to do |')]


def test_there_are_messages():
    assert len(MESSAGES) > 50 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize('message', MESSAGES)
def test_messages_of_the_page_are_those_of_the_source(message):
    # A few letters that are not filled in: "…: …" would stand everywhere.
    assert len(message.replace('…', '')) >= 10 and any(message in text for text in texts_of_the_source())


def test_a_message_that_is_no_more_is_found():
    assert not any('…: no gin file uses this macro' in text for text in texts_of_the_source())


def test_fields_of_options_exist():
    fields: dict[str, set[str]] = {}
    for section in text_of('gin.md').split('\n### ')[1:]:
        owner = section.split('\n')[0].rpartition('.')[2]
        fields[owner] = set(re.findall(r'^\| `(\w+)` \|', section, re.MULTILINE))
    named = {(page.name, owner, field) for page in [*DOCS, ROOT / 'README.md'] for owner, field in
             re.findall(r'\b([A-Z]\w*(?:Config|Data|Task))\.([a-z]\w*)', page.read_text(encoding='utf-8')) if owner in fields}
    assert len(named) > 80
    assert not [each for each in named if each[2] not in fields[each[1]]]


def test_bounds_stand_in_the_tests_that_are_named():
    rows = [line for line in text_of('fidelity.md').splitlines() if line.startswith('|') and '`tests/' in line]
    assert len(rows) > 25
    for row in rows:
        tests = [(ROOT / name).read_text(encoding='utf-8') for name in re.findall(r'`(tests/\S+?\.py)`', row)]
        for bound in re.findall(r'\b\d+e-\d+\b', row):
            assert any(bound in test for test in tests), f'{bound} is in no test of: {row}'


def test_every_name_of_t5x_that_is_refused_stands_on_its_page():
    page = text_of('from-t5x.md')
    assert not [name for name in (*t5x_names.MACROS, *t5x_names.PARAMETERS) if f'`{name}`' not in page]


def test_the_options_of_the_original_stand_on_its_page():
    options = text_of('from-atlas.md').split('\n## Options')[1].split('\n## Files')[0]
    names = [name for row in tables_of(options, '| original | here |') for name in re.findall(r'`(\w+)`', row[0])]
    # 81 is what its parser takes; those that a checkpoint brings are read by these names.
    assert len(names) == len(set(names)) == 81
    assert {*original._INPUTS, *original._DISTILL, *original._TASK} <= set(names)
