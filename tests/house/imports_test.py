"""The rooms of the house: what may import what (docs/design.md, section 3)."""

import ast
import pathlib
import re

from tests.house.source import SOURCES, TESTS, imports_of, module_of, tree_of

# Each level imports only from those above it in this list. The library comes first; the programs are the rooms of apps/.
LEVELS = (
    {'errors'},
    {'options', 'types', 'partitioning', 'runtime', 'io'},
    {'nn', 'tokenizers', 'losses', 'metrics', 'decoding'},
    {'corpus', 'models', 'tasks', 'input', 'checkpoints'},
    {'index', 'searchers', 'conversion'},
    {'model', 'knowledge'},
    {'steps'},
    {'answering'},
    {'training'},
    {'report'},
    {'evaluation'},
    {'train'},
    {'apps.compare', 'apps.datasets', 'apps.gin_files', 'apps.planning'},
    {'apps.demo', 'apps.reproduce'},
    {'apps.project'},
    {'apps.serving'},
    {'apps.cli'},
    {'apps', '__init__', '__main__'},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Imports within one level: from the first room to the second.
EXCEPTIONS = {('nn', 'tokenizers'), ('tasks', 'corpus'), ('input', 'corpus'), ('input', 'tasks'), ('searchers', 'index')}
# Who may import heavy or optional packages, by the start of the module's name.
RESERVED = {
    'gin': ('apps.gin_files.',),
    'grain': ('input.',),
    'mwparserfromhell': ('apps.datasets.corpora.',),
    'onnx': ('apps.demo.',),
    'optax': ('training.',),
    'orbax': ('checkpoints.',),
    'pickle': (),
    'prometheus_client': ('apps.serving.',),
    'rensa': ('apps.datasets.duplicates.',),
    'scann': ('searchers.scann.',),
    'sentencepiece': ('tokenizers.',),
    'starlette': ('apps.serving.',),
    'tensorflow': (),
    'tensorflow_datasets': ('apps.datasets.tfds.',),
    'tokenizers': ('tokenizers.',),
    'torch': ('conversion.', 'apps.compare.pytorch.'),
    'transformers': ('apps.compare.pytorch.',),
    'uvicorn': ('apps.serving.',),
}

# What README's test command does not install: a test file of these names could not even be collected there (pytest.importorskip).
NOT_OF_README = {'libtpu', 'mkdocs', 'sentence_transformers', 'tensorboard', 'torch', 'transformers'}


def room_of(module: str) -> str:
    """The room of a module named without `atlas_jax.`: a folder, a folder of apps/, or a module at the package's root."""
    parts = module.split('.')
    return '.'.join(parts[:2 if parts[0] == 'apps' else 1])


def imported_rooms(path: pathlib.Path) -> set[str]:
    """The rooms that a file imports from."""
    return {room_of(name.removeprefix('atlas_jax.')) for name in imports_of(path) if name.startswith('atlas_jax.')} & set(LEVEL)


def is_allowed(importer: str, imported: str) -> bool:
    """Returns whether a room may import another one."""
    return importer == imported or LEVEL[imported] < LEVEL[importer] or (importer, imported) in EXCEPTIONS


def test_every_room_has_a_level():
    rooms = {room_of(module_of(path)) for path in SOURCES}
    assert rooms == set(LEVEL), f'without a level: {sorted(rooms - set(LEVEL))}; no such room: {sorted(set(LEVEL) - rooms)}'


def test_imports_go_down():
    wrong = [f'{module_of(path)} may not import from {room}' for path in SOURCES for room in sorted(imported_rooms(path))
             if not is_allowed(room_of(module_of(path)), room)]
    assert not wrong, '\n'.join(wrong)


def test_the_library_imports_no_program():
    wrong = [f'{module_of(path)} imports {name}' for path in SOURCES for name in sorted(imports_of(path))
             if name.startswith('atlas_jax.apps') and module_of(path).split('.')[0] not in ('apps', '__main__')]
    assert not wrong, '\n'.join(wrong)


def test_few_exceptions_and_each_is_used():
    assert len(EXCEPTIONS) <= 5
    assert {(room_of(module_of(path)), room) for path in SOURCES for room in imported_rooms(path)} >= EXCEPTIONS
    assert all(LEVEL[importer] == LEVEL[imported] for importer, imported in EXCEPTIONS)


def test_heavy_packages_stay_in_their_rooms():
    wrong = [f'{module_of(path)} may not import {name}' for path in SOURCES for name in sorted(imports_of(path))
             if not f'{module_of(path)}.'.startswith(RESERVED.get(name.split('.')[0], ''))]
    assert not wrong, '\n'.join(wrong)


def test_every_test_file_is_collected_with_what_readme_installs():
    wrong = [f'{path.relative_to(TESTS)} imports {name} at its top' for path in sorted(TESTS.rglob('*.py')) for node in tree_of(path).body
             if isinstance(node, ast.Import | ast.ImportFrom)
             for name in ([node.module or ''] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
             if name.split('.')[0] in NOT_OF_README]
    assert not wrong, '\n'.join(wrong)


def test_the_rules_know_up_from_down():
    assert room_of('apps.cli.train') == 'apps.cli' and room_of('steps.compile') == 'steps' and room_of('train') == 'train'
    assert is_allowed('training', 'models') and is_allowed('apps.cli', 'train') and is_allowed('train', 'evaluation')
    assert is_allowed('steps', 'knowledge') and is_allowed('index', 'index') and is_allowed('apps.project', 'apps.demo')
    assert not is_allowed('models', 'training') and not is_allowed('losses', 'models') and not is_allowed('evaluation', 'train')
    assert not is_allowed('tasks', 'index') and not is_allowed('answering', 'apps.cli') and not is_allowed('nn', 'losses')
    assert not is_allowed('corpus', 'tasks') and not is_allowed('index', 'searchers') and not is_allowed('apps.demo', 'apps.project')


def test_the_picture_of_the_house_shows_every_room():
    shown = set(re.findall(r'>(\w+)</text>', (TESTS.parent / 'docs' / 'design-rooms.svg').read_text(encoding='utf-8')))
    assert not {room.removeprefix('apps.') for room in LEVEL} - shown - {'apps', '__init__', '__main__'}


def test_meshes_are_made_in_partitioning_alone():
    # jax changes the default kind of axis between versions; partitioning names ours.
    made = re.compile(r'(?<!partitioning\.)(?<!def )\bmake_mesh\(|AbstractMesh\(|sharding\.Mesh\(|\bset_mesh\(')
    files = [*SOURCES, *sorted(TESTS.rglob('*.py')), *sorted((TESTS.parent / 'benchmarks').glob('*.py'))]
    found = {path for path in files if made.search(path.read_text(encoding='utf-8'))}
    assert {path.name for path in found - {pathlib.Path(__file__)}} == {'partitioning.py'}
