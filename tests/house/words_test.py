"""Prose as one would say it aloud (CONTRIBUTING.md): descriptions name the thing first, and a few habits that nobody speaks in stay out.

Read are docstrings, comments, messages and help texts of the package, docstrings and comments of tests and benchmarks, and the pages.
"""

import ast
import io
import pathlib
import re
import tokenize

import pytest

from tests.house.source import ALL, PACKAGE, SOURCES, TESTS

ROOT = TESTS.parent
PAGES = [path for name in ('*.md', 'docs/*.md', 'gin_configs/*/*.gin', 'tpu_scripts/*.sh', 'tpu_scripts/*.yaml')
         for path in sorted(ROOT.glob(name)) if path.name != 'CHANGELOG.md']  # what was released is not rewritten
BENCHMARKS = sorted((ROOT / 'benchmarks').glob('*.py'))
# A habit, and what to write in its place.
HABITS = {
    r'\bwhat (?:is|was|are|were)\b(?![^?]*\?)': 'name the thing: "the rows that were found", not "what was found"',
    r'(?<!there )\b(?:is|are|was|were) none\b': 'say what it is: "empty", "invalid", "must be a whole number"',
    r'\bthat there is none of\b': 'say who lacks what',
    r'\bso man(?:y|ieth)th?\b(?! (?:that|as)\b)': '"N", "every N-th", "this many"',
    r'\b[Aa]s of (?:`|_|those|that|its|the)': '"see `batch`", "the same as in ..."',
    r'\bdear(?:est|er)\b': '"slow", "expensive"',
    r'\bword for (?:it|them) is\b': 'drop it',
    r'\banew\b': '"again"',
    r'\bbut for\b': '"except for"',
    r'[,;:] for (?:it|they|he|she|a|an|the|nobody|somebody|one|each|most|some|this|these|those|there)\b [^.;:,]*'
    r'\b(?:is|are|has|have|would|may|can|does|do|knows?|needs?|takes?|holds?)\b': 'because: "for" as a conjunction is not spoken',
}
# The first words of an attribute's, an argument's or a comment's description.
OPENINGS = re.compile(r'(?:[Oo]f|[Ww]hat|[Ww]hether|[Ww]here|[Tt]hat which|[Tt]hose (?:of|that)|[Aa]s) ')
ENTRY = re.compile(r'^\s*(?:\*{0,2}\w+(?:, \*{0,2}\w+)*): +(\S.*)$')
COLUMN = re.compile(r'^\s*\w+(?:, \w+)* {2,}(?:\[[^\]]*\](?: \w+)? {2,})?(\S.*)$')  # `name   [batch] int32   description`


def docstrings(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of the docstrings of a module, its classes and functions."""
    return [(node.body[0].lineno, node.body[0].value.value) for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None]


def comments(text: str) -> list[tuple[int, str]]:
    """(line, text) of the comments; the lines of a block are one text."""
    found: list[tuple[int, str]] = []
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, words = token.start[0], token.string.lstrip('#').strip()
        goes_on = found and found[-1][0] + found[-1][1].count('\n') + 1 == row and lines[row - 1].lstrip().startswith('#')
        found = [*found[:-1], (found[-1][0], f'{found[-1][1]}\n{words}')] if goes_on else [*found, (row, words)]
    return found


def messages(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of the strings of several words, docstrings apart; `…` stands where a value is put in."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            found.append((node.lineno, ''.join(str(part.value) if isinstance(part, ast.Constant) else '…' for part in node.values)))
    found += [(node.lineno, node.value) for node in ast.walk(tree)
              if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped]
    return [(line, text) for line, text in found if text.count(' ') > 2]


def habits(text: str) -> list[str]:
    """The remedies for the habits that a text has."""
    flat = ' '.join(text.split())
    return [remedy for habit, remedy in HABITS.items() if re.search(habit, flat)]


def openings(docstring: str) -> list[str]:
    """The descriptions of a docstring that do not name the thing first."""
    lines = [match[1] for line in docstring.splitlines()[1:] if (match := ENTRY.match(line) or COLUMN.match(line))]
    return [line for line in lines if OPENINGS.match(line)]


def problems(path: pathlib.Path) -> list[str]:
    """Lines `file:line: what to write` of a Python file."""
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    texts = docstrings(tree) + comments(text) + (messages(tree) if path.is_relative_to(PACKAGE) else [])
    name = path.relative_to(ROOT if path.is_relative_to(ROOT) else PACKAGE.parent)
    found = [f'{name}:{line}: {remedy}' for line, words in texts for remedy in habits(words)]
    found += [f'{name}:{line}: names nothing first: {words:.60}' for line, docstring in docstrings(tree) for words in openings(docstring)]
    found += [f'{name}:{line}: names nothing first: {words:.60}' for line, words in comments(text) if re.match(r'[Oo]f ', words)]
    return found


@pytest.mark.parametrize('room', sorted({path.relative_to(PACKAGE).parent.as_posix() for path in SOURCES}))
def test_the_package_is_written_as_one_speaks(room):
    wrong = [line for path in SOURCES if path.relative_to(PACKAGE).parent.as_posix() == room for line in problems(path)]
    assert not wrong, '\n'.join(wrong)


def test_tests_and_benchmarks_are_written_as_one_speaks():
    wrong = [line for path in [*ALL, *BENCHMARKS] if path not in SOURCES and path != pathlib.Path(__file__) for line in problems(path)]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_pages_are_written_as_one_speaks(page):
    text = re.sub(r'^ *```.*?^ *```', '', page.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    wrong = [f'{page.name}: {remedy}: {part:.80}' for part in re.split(r'\n\s*\n|\n(?=\s*[-|#])', text) for remedy in habits(part)]
    assert not wrong, '\n'.join(wrong)


def test_lines_of_the_library_end_at_100_columns():
    wrong = [f'{path.relative_to(PACKAGE)}:{number}: {len(line)} columns' for path in SOURCES
             for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1) if len(line) > 100]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(('text', 'found'), [
    ('Returns what was found.', 1), ('What is the capital of Albania?', 0), ('the best of which there is; half a step is none', 1),
    ('every so manyth shard', 1), ('size: as of `batch`', 1), ('compiles anew', 1), ('Returns the rows that were found.', 0)])
def test_habits_are_found(text, found):
    assert len(habits(text)) == found


def test_openings_are_found():
    docstring = 'Title.\n\n  seed: of the order\n  rows   [batch] int32   of the index\n  size: the number of rows'
    assert openings(docstring) == ['of the order', 'of the index']
