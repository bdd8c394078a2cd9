"""Fakes of a model take what callers give the model: an option that a fake lacks fails where nobody looks, in a server's thread."""

import ast
import inspect

import pytest

from atlas_jax.answering import api
from tests.house.source import SOURCES, TESTS, tree_of

_METHODS = {name: inspect.signature(getattr(api.Atlas, name)) for name in ('answer', 'answer_examples')}
_FAKES = {'serving': ('apps/serving', 'testing'), 'project': ('apps/project',)}  # a room that asks a model, and where its tests' fakes are


def given(room: str) -> dict[str, set[str]]:
    """Returns the keywords that a room's calls of each method give."""
    found: dict[str, set[str]] = {name: set() for name in _METHODS}
    for path in SOURCES:
        if path.parent.name == room:
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
                    found[node.func.attr] |= {each.arg for each in node.keywords if each.arg}
    return found


def fakes(room: str) -> list[tuple[str, ast.FunctionDef]]:
    """Returns the methods of a room's tests, and of what they share, that stand for the model's."""
    paths = [path for folder in _FAKES[room] for path in (TESTS / folder).rglob('*.py')]
    return [(str(path.relative_to(TESTS)), node) for path in paths for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef) and node.name in _METHODS and node.args.args and node.args.args[0].arg == 'self']


def lacks(fake: ast.FunctionDef, keywords: set[str]) -> set[str]:
    """Returns the keywords that a fake would refuse, and its own that the model does not know."""
    names = {each.arg for each in (*fake.args.args, *fake.args.kwonlyargs)}
    unknown = names - set(_METHODS[fake.name].parameters)
    return unknown | (set() if fake.args.kwarg else keywords - names)


@pytest.mark.parametrize('room', _FAKES)
def test_fakes_take_what_the_model_is_given(room):
    found, keywords = fakes(room), given(room)
    assert found and any(keywords.values())
    assert [(path, fake.name, missing) for path, fake in found if (missing := lacks(fake, keywords[fake.name]))] == []


def test_a_fake_that_lacks_an_option_is_found():
    [fake] = ast.parse('def answer_examples(self, examples, index, surplus): ...').body
    assert lacks(fake, {'index', 'signals'}) == {'surplus', 'signals'}
    [fake] = ast.parse('def answer_examples(self, examples, **options): ...').body
    assert lacks(fake, {'index', 'signals'}) == set()
