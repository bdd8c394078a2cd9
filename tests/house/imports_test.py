"""The rooms of the house: what may import what (docs/design.md, the house)."""

import ast
import pathlib

from atlas_jax import errors

PACKAGE = pathlib.Path(errors.__file__).parent
LEVELS = (
    {'errors'},
    {'types', 'partitioning', 'io', 'hosts', 'watch', 'accelerators'},
    {'nn', 'tokenizers', 'losses', 'metrics', 'decoding'},
    {'corpus', 'models', 'tasks', 'input'},
    {'index', 'searchers'},
    {'checkpoints', 'training', 'conversion'},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
TOP = len(LEVELS)
# Imports within one level, from room to room.
SAME_LEVEL = {
    ('nn', 'tokenizers'), ('tasks', 'corpus'), ('input', 'tasks'), ('input', 'corpus'), ('searchers', 'index'), ('training', 'checkpoints'),
    ('conversion', 'checkpoints'),
    ('evaluate', 'api'), ('search', 'api'), ('build_index', 'api'), ('build_index', 'evaluate'), ('train', 'api'), ('train', 'evaluate'),
    ('api', 'prepare'), ('evaluate', 'prepare'), ('train', 'prepare'), ('prepare', 'index_group'), ('verify_index', 'api'),
    ('api', 'index_group'), ('evaluate', 'index_group'), ('train', 'index_group'), ('search', 'prepare'),
    ('run_log', 'report'), ('run_profile', 'report'), ('train', 'run_log'), ('train', 'run_profile'), ('train', 'preemption'),
    ('gin_utils', 'gin_check'), ('gin_utils', 'gin_values'), ('gin_check', 'gin_values'), ('__main__', 'cli'),
}
MAY_IMPORT_THEIR_LEVEL = ('demo', 'cli', 'compare', '__init__')
# Who may import heavy or optional packages, by the start of the module's name.
RESERVED = {
    'gin': ('gin_utils', 'gin_check', 'gin_values'), 'scann': ('searchers.scann',), 'torch': ('conversion', 'baseline'),
    'transformers': ('baseline',), 'tensorflow': (), 'onnx': ('conversion',), 'sentencepiece': ('tokenizers',),
    'tokenizers': ('tokenizers',),
    'pickle': (), 'optax': ('training', 'planning'), 'orbax': ('checkpoints',), 'grain': ('input',),
}
FILES = sorted(PACKAGE.rglob('*.py'))


def module_of(path: pathlib.Path) -> str:
    """The module's name without `atlas_jax.`."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' and len(parts) > 1 else parts)


def imports_of(path: pathlib.Path) -> set[str]:
    """The modules that a file imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import; import the module by its full name'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def is_allowed(importer: str, imported: str) -> bool:
    """Whether a room may import another one."""
    mine, theirs = LEVEL.get(importer, TOP), LEVEL.get(imported, TOP)
    if importer == imported or theirs < mine or (importer, imported) in SAME_LEVEL:
        return True
    group = importer.split('_')[0] if importer != '__init__' else importer
    return mine == theirs == TOP and (group in MAY_IMPORT_THEIR_LEVEL)


def test_imports_go_down():
    wrong = [f'{module_of(path)} may not import {name}' for path in FILES for name in sorted(imports_of(path))
             if name.startswith('atlas_jax.') and not is_allowed(module_of(path).split('.')[0], name.split('.')[1])]
    assert not wrong, '\n'.join(wrong)


def test_heavy_packages_stay_in_their_rooms():
    wrong = [f'{module_of(path)} may not import {name}' for path in FILES for name in sorted(imports_of(path))
             if not module_of(path).startswith(RESERVED.get(name.split('.')[0], ''))]
    assert not wrong, '\n'.join(wrong)


def test_the_rules_know_up_from_down():
    assert is_allowed('training', 'models') and is_allowed('cli_index', 'build_index') and is_allowed('train', 'evaluate')
    assert not is_allowed('models', 'training') and not is_allowed('losses', 'models') and not is_allowed('evaluate', 'train')
    assert not is_allowed('tasks', 'index') and not is_allowed('api', 'cli') and not is_allowed('nn', 'losses')
