"""Reads the package's source and the tests as syntax trees, for the tests of the house."""

import ast
import dataclasses
import functools
import pathlib

from atlas_jax import errors

PACKAGE = pathlib.Path(errors.__file__).parent
TESTS = pathlib.Path(__file__).parents[1]
SOURCES = sorted(PACKAGE.rglob('*.py'))
ALL = SOURCES + sorted(TESTS.rglob('*.py'))
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Function:
    """A public function, or a public method of a public class.

    where            module and name, such as `index/rows.py: Rows.read`
    node             its syntax tree
    docstring        its own docstring
    class_docstring  the docstring of its class; empty for a function
    """

    where: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    docstring: str
    class_docstring: str = ''


@functools.cache
def tree_of(path: pathlib.Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding='utf-8'))


def name_of(path: pathlib.Path) -> str:
    """The path from the folder that holds the package or the tests."""
    return str(path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else TESTS.parent))


def module_of(path: pathlib.Path) -> str:
    """The module's name without `atlas_jax.`."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' and len(parts) > 1 else parts)


def line_count(path: pathlib.Path) -> int:
    """Number of lines of a file."""
    return len(path.read_text(encoding='utf-8').splitlines())


def imports_of(path: pathlib.Path) -> set[str]:
    """The names that a file imports, those inside functions too: `package.module.name`."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import; import the module by its full name'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def public_functions(path: pathlib.Path) -> list[Function]:
    """The public functions of a module, and the public methods and `__call__` of its public classes."""
    found = []
    for node in tree_of(path).body:
        if isinstance(node, FUNCTION) and not node.name.startswith('_'):
            found.append(Function(f'{name_of(path)}: {node.name}', node, ast.get_docstring(node) or ''))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            found += [Function(f'{name_of(path)}: {node.name}.{method.name}', method, ast.get_docstring(method) or '',
                               ast.get_docstring(node) or '')
                      for method in node.body
                      if isinstance(method, FUNCTION) and (method.name == '__call__' or not method.name.startswith('_'))]
    return found


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """All parameters of a function but `*args` and `**kwargs`."""
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
