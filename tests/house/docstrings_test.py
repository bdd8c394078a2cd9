"""Docstrings: everything public has one, in plain English, with shapes and errors."""

import ast
import re

from tests.house.source import FUNCTION, SOURCES, name_of, parameters_of, public_functions, tree_of

OPENINGS = re.compile(r'(What|Of|Where|Whether|That which)\b')
ARRAY = re.compile(r'\b(jax\.Array|np\.ndarray)\b')


def test_modules_classes_and_functions_say_what_they_are_for():
    wrong = []
    for path in SOURCES:
        tree = tree_of(path)
        public = [node for node in tree.body if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith('_')]
        wrong += [f'{name_of(path)}: {getattr(node, "name", "the module")}' for node in [tree, *public] if not ast.get_docstring(node)]
    assert not wrong, '\n'.join(['no docstring:', *wrong])


def test_docstrings_open_with_a_verb_or_a_noun():
    wrong = [f'{name_of(path)}: {getattr(node, "name", "the module")}: {docstring.splitlines()[0]}' for path in SOURCES
             for node in ast.walk(tree_of(path)) if isinstance(node, FUNCTION | ast.ClassDef | ast.Module)
             if OPENINGS.match(docstring := ast.get_docstring(node) or '')]
    assert not wrong, '\n'.join(wrong)


def raised(node: ast.AST) -> set[str]:
    """Names of our errors that a function raises itself: `raise errors.X(...)`, or `raise errors.X`."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and inner.exc is not None:
            error = inner.exc.func if isinstance(inner.exc, ast.Call) else inner.exc
            if isinstance(error, ast.Attribute) and isinstance(error.value, ast.Name) and error.value.id == 'errors':
                found.add(error.attr)
    return found


def test_functions_name_the_errors_they_raise():
    wrong = []
    for function in (function for path in SOURCES for function in public_functions(path)):
        text = function.docstring + function.class_docstring
        if missing := sorted(name for name in raised(function.node) if 'Raises' not in text or name not in text):
            wrong.append(f'{function.where}: Raises {", ".join(missing)}')
    assert not wrong, '\n'.join(wrong)


def test_array_functions_name_shapes():
    wrong = []
    for function in (function for path in SOURCES for function in public_functions(path)):
        annotations = [function.node.returns, *(parameter.annotation for parameter in parameters_of(function.node))]
        has_arrays = any(ARRAY.search(ast.unparse(node)) for node in annotations if node)
        if has_arrays and '[' not in function.docstring + function.class_docstring:
            wrong.append(function.where)
    assert not wrong, '\n'.join(wrong)
