"""One door for compiled programs, and our own types in public signatures."""

import ast
import pathlib

import pytest

from tests.house.source import SOURCES, module_of, name_of, parameters_of, public_functions, tree_of

# The one module that compiles what holds a StepSpec.
DOOR = 'steps.compile'
THROUGH_THE_DOOR = ('steps', 'training', 'answering', 'evaluation', 'knowledge', 'train', 'model', 'report', 'apps')
# Parameters that stand for a type of ours.
OWN = {'atlas', 'index', 'store', 'spec', 'prepared', 'model', 'batch', 'knowledge', 'encoder', 'step'}


def jit_lines(tree: ast.AST) -> list[int]:
    """Line numbers of `jit` and `pjit`: taken from a module, imported by name, or called."""
    return sorted({node.lineno for node in ast.walk(tree)
                   if isinstance(node, ast.Attribute) and node.attr in ('jit', 'pjit')
                   or isinstance(node, ast.Name) and node.id in ('jit', 'pjit')
                   or isinstance(node, ast.ImportFrom) and any(alias.name in ('jit', 'pjit') for alias in node.names)})


def mentions(tree: ast.AST, name: str) -> bool:
    """Returns whether a name stands anywhere in a tree, written alone or after a dot."""
    return any(isinstance(node, ast.Attribute) and node.attr == name or isinstance(node, ast.Name) and node.id == name
               for node in ast.walk(tree))


def test_steps_are_compiled_through_one_door():
    wrong = [f'{name_of(path)}:{line}: compile through atlas_jax/steps/compile.py' for path in SOURCES for line in jit_lines(tree_of(path))
             if module_of(path) != DOOR and module_of(path).split('.')[0] in THROUGH_THE_DOOR]
    assert not wrong, '\n'.join(wrong)


def test_nothing_else_that_is_compiled_holds_a_step_spec():
    wrong = [name_of(path) for path in SOURCES
             if module_of(path) != DOOR and jit_lines(tree_of(path)) and mentions(tree_of(path), 'StepSpec')]
    assert not wrong, '\n'.join(['jax.jit beside StepSpec; compile through atlas_jax/steps/compile.py:', *wrong])


@pytest.mark.parametrize(('text', 'lines'), [
    ('import jax\nrun = jax.jit(f)', [2]),
    ('import functools\nimport jax\n@functools.partial(jax.jit, static_argnames="k")\ndef run(): ...', [3]),
    ('from jax import jit', [1]),
    ('from jax.experimental import pjit as p\np.pjit(f)', [1, 2]),
    ('jitter = 1\nx = jitter', []),
])
def test_jit_is_found_however_it_is_written(text, lines):
    assert jit_lines(ast.parse(text)) == lines


def is_any(annotation: ast.expr) -> bool:
    """Returns whether an annotation leaves the value's own type open; what a callable takes and returns may be anything."""
    return not ast.unparse(annotation).startswith('Callable[') and mentions(annotation, 'Any')


def untyped(path: pathlib.Path) -> list[str]:
    """The parameters of public functions that stand for a type of ours and are annotated Any."""
    return [f'{function.where}: {parameter.arg}: {ast.unparse(parameter.annotation)}' for function in public_functions(path)
            for parameter in parameters_of(function.node)
            if parameter.arg in OWN and parameter.annotation is not None and is_any(parameter.annotation)]


def test_our_own_types_are_named_in_public_signatures():
    wrong = [line for path in SOURCES for line in untyped(path)]
    assert not wrong, '\n'.join(wrong)


def json_lines(tree: ast.AST) -> list[int]:
    """Line numbers of `json.loads` and `json.load`; a copy by `json.loads(json.dumps(...))` reads no file."""
    def is_json(node: ast.AST, *names: str) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.value, ast.Name) and node.value.id == 'json'

    copies = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and is_json(node.func, 'loads') and node.args
              and isinstance(node.args[0], ast.Call) and is_json(node.args[0].func, 'dumps')}
    return sorted({node.lineno for node in ast.walk(tree) if is_json(node, 'loads', 'load') and node not in copies
                   or isinstance(node, ast.ImportFrom) and node.module == 'json'})


def test_json_of_files_is_parsed_in_one_place():
    # line_process talks to the process that it has started itself.
    wrong = [f'{name_of(path)}:{line}: parse by atlas_jax/io/untrusted.py' for path in SOURCES for line in json_lines(tree_of(path))
             if module_of(path) not in ('io.untrusted', 'runtime.line_process')]
    assert not wrong, '\n'.join(wrong)


def test_json_is_recognised():
    assert json_lines(ast.parse('x = json.loads(y)\nz = json.load(y)\nfrom json import loads\njson.loads(json.dumps(x))')) == [1, 2, 3]


# Names by which a device is read or waited for, besides the conversions below.
READS = {'device_get', 'block_until_ready', 'process_allgather', 'addressable_data', 'item', 'to_host'}
# Conversions in the loop of values that are on the host already. Anything else may be an array, and would silently wait for the devices.
ON_THE_HOST = {'float(value)', 'float(next(iter(figures.values())))'}


def reads(tree: ast.AST) -> list[int]:
    """Line numbers where arrays may be read other than by `hosts.fetch`."""
    def is_read(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr in READS or ast.unparse(node) in ('np.asarray', 'np.array')
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('float', 'int'):
            return ast.unparse(node) not in ON_THE_HOST
        return isinstance(node, ast.Name) and node.id in READS

    return sorted({node.lineno for node in ast.walk(tree) if is_read(node)})


def function_of(tree: ast.AST, line: int) -> str:
    """The innermost function that a line stands in."""
    return max((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)),
               key=lambda node: node.lineno).name


def test_the_training_loop_reads_the_devices_through_one_door():
    modules = ('train', 'training.batches', 'training.waiting', 'evaluation.while_training')
    trees = {name_of(path): tree_of(path) for path in SOURCES if module_of(path) in modules}
    # A run that has diverged is over: it may wait.
    wrong = [f'{name}:{line}: read arrays through hosts.fetch' for name, tree in trees.items() for line in reads(tree)
             if function_of(tree, line) != '_stop_if_diverged']
    assert not wrong, '\n'.join(wrong)
    assert len(trees) == len(modules) and mentions(trees['atlas_jax/training/waiting.py'], 'fetch')


@pytest.mark.parametrize(('text', 'lines'), [
    ('loss = float(metrics["loss"])', [1]), ('import numpy as np\nloss = np.asarray(loss)', [2]), ('jax.device_get(state)', [1]),
    ('state.step.block_until_ready()', [1]), ('step = state.step.item()', [1]), ('from jax import device_get\nx = device_get(y)', [2]),
    ('step = int(state.step)', [1]), ('rows = {float(value) for value in hosts.fetch(metrics)}', [])])
def test_reads_are_found_however_they_are_written(text, lines):
    assert reads(ast.parse(text)) == lines
