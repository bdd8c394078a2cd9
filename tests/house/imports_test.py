"""The rooms of the house: what may import what (docs/design.md, section 3)."""

import ast

from tests.house.source import SOURCES, TESTS, imports_of, module_of, tree_of

# Each level imports only from those above it in this list.
LEVELS = (
    {'errors'},
    {'types', 'partitioning', 'runtime', 'io'},
    {'nn', 'tokenizers', 'losses', 'metrics', 'decoding'},
    {'corpus', 'models', 'tasks', 'input', 'checkpoints'},
    {'index', 'searchers', 'conversion', 'datasets'},
    {'model', 'knowledge'},
    {'steps'},
    {'training'},
    {'planning', 'report'},
    {'api'},
    {'evaluation'},
    {'evaluate'},
    {'train'},
    {'compare', 'gin_files'},
    {'demo', 'reproduce'},
    {'project'},
    {'serving'},
    {'cli'},
    {'__init__', '__main__'},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Imports within one level: from the first room to the second.
EXCEPTIONS = {('nn', 'tokenizers'), ('tasks', 'corpus'), ('input', 'corpus'), ('input', 'tasks'), ('searchers', 'index')}
# Who may import heavy or optional packages, by the start of the module's name.
RESERVED = {
    'gin': ('gin_files.',),
    'grain': ('input.',),
    'mwparserfromhell': ('datasets.corpora.',),
    'onnx': ('demo.',),
    'optax': ('training.',),
    'orbax': ('checkpoints.',),
    'pickle': (),
    'prometheus_client': ('serving.',),
    'rensa': ('datasets.duplicates.',),
    'scann': ('searchers.scann.',),
    'sentencepiece': ('tokenizers.',),
    'starlette': ('serving.',),
    'tensorflow': (),
    'tensorflow_datasets': ('datasets.tfds.',),
    'tokenizers': ('tokenizers.',),
    'torch': ('conversion.', 'compare.pytorch.'),
    'transformers': ('compare.pytorch.',),
    'uvicorn': ('serving.',),
}

# What README's test command does not install: a test file of these names could not even be collected there (pytest.importorskip).
NOT_OF_README = {'libtpu', 'mkdocs', 'sentence_transformers', 'tensorboard', 'torch', 'transformers'}


def room_of(module: str) -> str:
    """The first part of a module's name: a folder, or a module at the package's root."""
    return module.split('.')[0]


def is_allowed(importer: str, imported: str) -> bool:
    """Returns whether a room may import another one."""
    return importer == imported or LEVEL[imported] < LEVEL[importer] or (importer, imported) in EXCEPTIONS


def test_every_room_has_a_level():
    rooms = {room_of(module_of(path)) for path in SOURCES}
    assert rooms == set(LEVEL), f'without a level: {sorted(rooms - set(LEVEL))}; no such room: {sorted(set(LEVEL) - rooms)}'


def test_imports_go_down():
    wrong = [f'{module_of(path)} may not import {name}' for path in SOURCES for name in sorted(imports_of(path))
             if name.startswith('atlas_jax.') and room_of(module_of(path)) in LEVEL and name.split('.')[1] in LEVEL
             and not is_allowed(room_of(module_of(path)), name.split('.')[1])]
    assert not wrong, '\n'.join(wrong)


def test_few_exceptions_and_each_is_used():
    assert len(EXCEPTIONS) <= 5
    used = {(room_of(module_of(path)), name.split('.')[1]) for path in SOURCES for name in imports_of(path)
            if name.startswith('atlas_jax.')}
    assert used >= EXCEPTIONS
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
    assert is_allowed('training', 'models') and is_allowed('cli', 'train') and is_allowed('train', 'evaluate')
    assert is_allowed('steps', 'knowledge') and is_allowed('index', 'index')
    assert not is_allowed('models', 'training') and not is_allowed('losses', 'models') and not is_allowed('evaluate', 'train')
    assert not is_allowed('tasks', 'index') and not is_allowed('api', 'cli') and not is_allowed('nn', 'losses')
    assert not is_allowed('corpus', 'tasks') and not is_allowed('index', 'searchers')

