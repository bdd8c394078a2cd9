"""One name, one thing: a module or a public class is found by its name."""

import ast
import collections

from tests.house.source import SOURCES, module_of, tree_of

# Modules of one name in rooms that are parallel by design.
PARALLEL = {
    '__main__': 'what `python -m` runs',
    'config': 'the options of decoding and of search; gin files bind them as config.DecodingConfig and config.SearchConfig',
    'fever': 'a task, and the published data set that it reads',
    'kilt': 'a task, and the published data set that it reads',
}


def modules() -> dict[str, list[str]]:
    """Returns the modules by the last part of their names; the commands of the command line are named as what they run."""
    found = collections.defaultdict(list)
    for path in SOURCES:
        name = module_of(path)
        if path.name != '__init__.py' and not name.startswith('apps.cli.'):
            found[name.rpartition('.')[2]].append(name)
    return found


def classes() -> dict[str, list[str]]:
    """Returns the modules that define a public class, by the name of the class."""
    found = collections.defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                found[node.name].append(module_of(path))
    return found


def test_no_two_modules_have_one_name():
    twice = {name: places for name, places in modules().items() if len(places) > 1}
    assert twice.keys() <= PARALLEL.keys(), {name: twice[name] for name in twice.keys() - PARALLEL.keys()}
    assert twice.keys() >= PARALLEL.keys() - {'__main__'}, 'an exception that is no longer needed'


def test_no_two_public_classes_have_one_name():
    twice = {name: places for name, places in classes().items() if len(places) > 1}
    assert not twice, twice


def test_the_house_has_no_module_that_is_named_as_a_room():
    rooms = {module_of(path).split('.')[0] for path in SOURCES if '.' in module_of(path)}
    # `evaluation.evaluate` runs one; `demo.demo` is the program of its room.
    assert not {name for name in modules() if name in rooms}
