"""Writes docs/gin.md, the page of all classes and functions that gin can bind, from the code.

    python -m atlas_jax.apps.gin_files.page > docs/gin.md

The shipped gin files name the classes and functions; signatures and docstrings give the rest. A
test compares page and code.
"""

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any

from atlas_jax.apps.gin_files import checker as gin_check
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.gin_files import values as gin_values

_INTRODUCTION = """# Options for gin files

Every class and function that a gin file can bind, with its parameters. This page is made from the
code: edit the docstrings, then run `python -m atlas_jax.apps.gin_files.page > docs/gin.md`.

A gin file imports a module and binds parameters as `module.Class.parameter = value`. On the command
line, write `--gin.Class.parameter=value`. The shipped files in [gin_configs](../gin_configs) set
most parameters through macros; their headers list these.

A gin file can import only modules of atlas_jax, and refer (`@`) only to the options classes below.
To use a class of your own, such as a task, name its module on the command line:
`--gin_import my_tasks`. Include other files by a name relative to the working folder, to
gin_configs, or to a folder of `--gin_search_paths`.
"""
_SECTION = re.compile(r'^(Attributes|Args):$')
_HEADING = re.compile(r'^([A-Z]\w+):$|^Raises\b')
_ENTRY = re.compile(r'^(\w+(?:(?:, | and )\w+)*): +(.*)$')


def configurables() -> dict[str, Any]:
    """Returns the classes and functions that the shipped gin files name, and the dataclasses of
    their parameters, by full name.
    """
    checker = gin_check.Checker(gin_parse.find_file, gin_parse.known_files())
    for file in gin_parse.known_files():
        checker.check_file(file)
    found: dict[str, Any] = {}
    # Options nested in options, such as DecodingConfig in an evaluation, may be named in no shipped
    # file.
    waiting = list(checker.configurables.values())
    while waiting:
        configurable = waiting.pop()
        name = f'{configurable.__module__}.{configurable.__qualname__}'
        if name not in found:
            found[name] = configurable
            hints = gin_values.hints_of(configurable)
            waiting += _dataclasses_in([hint for parameter, hint in hints.items()
                                        if parameter != 'return'])
    return dict(sorted(found.items()))


def page() -> str:
    """Returns the page's text."""
    parts = [_INTRODUCTION]
    module = ''
    for configurable in configurables().values():
        # They are sorted by full name, so the classes of a module come together.
        if configurable.__module__ != module:
            module = configurable.__module__
            package, _, short = module.rpartition('.')
            parts.append(f'\n## {module}\n\n`from {package} import {short}`\n')
        parts.append(_described(configurable))
    return '\n'.join(parts)


def documented(docstring: str, parameters: Collection[str]) -> tuple[str, dict[str, str]]:
    """Splits a docstring into its prose and the meaning of each parameter.

    Args:
      docstring: has entries `name: text` or `name, other: text`, either in a section `Attributes:`
        or `Args:`, or without a heading.
      parameters: names that may have an entry.
    """
    prose: list[str] = []
    meanings: dict[str, str] = {}
    names: list[str] = []  # the parameters that the current entry describes
    in_section = hidden = False
    for line in inspect.cleandoc(docstring).splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        entry = _ENTRY.match(text) if indent == (2 if in_section else 0) else None
        entry_names = re.split(r', | and ', entry.group(1)) if entry else []
        if _SECTION.match(line):
            in_section, hidden, names = True, False, []
        elif _HEADING.match(line):  # Raises, Returns: a gin file needs neither
            in_section, hidden, names = False, True, []
        elif hidden:
            continue
        elif entry and all(name in parameters for name in entry_names):
            names = entry_names
            meanings |= dict.fromkeys(names, entry.group(2))
        elif names and text and indent >= (4 if in_section else 2):
            meanings |= {name: f'{meanings[name]} {text}' for name in names}
        elif not in_section:
            names = []
            prose.append(text)
    return '\n'.join(prose).strip(), meanings


def _described(configurable: Any) -> str:
    """Returns the heading, prose and table of one class or function."""
    short = configurable.__module__.rpartition('.')[2]
    hints, parameters = gin_values.hints_of(configurable), _defaults(configurable)
    prose, _ = documented(inspect.getdoc(configurable) or '', parameters)
    meanings = _meanings(configurable, parameters)
    rows = [f'| `{name}` | {_type_text(hints.get(name))} | {default} | {meanings.get(name, "")} |'
            for name, default in parameters.items()]
    table = ['| parameter | type | default | meaning |', '|---|---|---|---|',
             *(row.replace('  |', ' |') for row in rows)] if rows else ['It has no parameters.']
    return '\n'.join([f'\n### {short}.{configurable.__qualname__}\n', prose, '', *table, ''])


def _meanings(configurable: Any, parameters: Collection[str]) -> dict[str, str]:
    """Returns the meaning of each parameter, from the class and its base classes."""
    classes = inspect.getmro(configurable) if inspect.isclass(configurable) else (configurable,)
    # Base classes come first, so that the class's own docstring wins.
    found: dict[str, str] = {}
    for each in reversed(classes):
        if each is not object:
            found |= documented(each.__doc__ or '', parameters)[1]
    return {name: _cell(text) for name, text in found.items()}


def _dataclasses_in(annotations: list[Any]) -> Iterator[Callable[..., Any]]:
    """Yields the dataclasses of atlas_jax among the annotations, including those in unions and
    tuples.
    """
    for annotation in annotations:
        yield from _dataclasses_in(list(typing.get_args(annotation)))
        if (inspect.isclass(annotation) and dataclasses.is_dataclass(annotation)
                and annotation.__module__.startswith('atlas_jax.')
                and not _is_arrays(annotation)):
            yield annotation


def _is_arrays(dataclass: Any) -> bool:
    """Returns whether a dataclass is a flax tree of arrays, which a gin file cannot express."""
    # flax.struct.dataclass sets the first, PyTreeNode the second.
    return hasattr(dataclass, '_flax_dataclass') or hasattr(dataclass, 'replace')


def _type_text(annotation: Any) -> str:
    # Full module names would make the column too wide, and "|" ends a cell.
    text = re.sub(r'\b(?:\w+\.)+(?=\w)', '',
                  gin_values.type_name(annotation).replace('NoneType', 'None'))
    return f'`{text}`'.replace('|', '\\|') if annotation is not None else ''


def _defaults(configurable: Any) -> dict[str, str]:
    """Returns the default of each parameter as text."""
    fields = dataclasses.fields(configurable) if dataclasses.is_dataclass(configurable) else ()
    factories = {field.name: field.default_factory for field in fields
                 if field.default_factory is not dataclasses.MISSING}
    found = {}
    for name, parameter in inspect.signature(configurable).parameters.items():
        default = factories[name]() if name in factories else parameter.default
        if default is parameter.empty:
            found[name] = 'must be set'
        elif dataclasses.is_dataclass(default):
            found[name] = f'`{type(default).__name__}()`'
        else:
            found[name] = _cell(f'`{default!r}`')
    return found


def _cell(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')


if __name__ == '__main__':
    sys.stdout.write(page())
