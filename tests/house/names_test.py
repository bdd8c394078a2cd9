"""Names from files stay in their folders: `io.untrusted.inside` joins a folder and a name, and nothing goes round it."""

import ast
import re

import pytest

from tests.house.source import SOURCES, module_of, name_of, tree_of

# The left side of a `/` that joins paths; a division's is a number.
_PLACE = re.compile(r'folder|path|dir|place|\.local\b|parent|root|cache|home|\bout\b|written|made|store|segment|base|temporary',
                    re.IGNORECASE)
# A Folder checks each name that it is given; these two join nothing but Folders, apart from `.local`.
_FOLDERS = ('corpus', 'index')
_CHECKS_ITSELF = ('io.contents', 'io.folder', 'io.untrusted')  # the first asks `inside` for each name of a list that it reads
# Names that no file gave: constants of ours under a variable's name, command-line arguments, digests.
_OWN_NAMES = {
    'checkpoints.integrity': {'folder / item'},  # a Folder
    'apps.cli.file_checks': {'folder / name'},
    'apps.cli.verify': {'folder / path', 'folder / name'},  # a Folder
    'conversion.convert': {'folder / name', "folder / 'tokenizers' / name"},
    'conversion.loading': {'folder / part', 'parent / name', 'path / name', "path / 'checkpoint' / name",
                           'place / file'},
    'conversion.hf_files': {'folder / file', 'folder / index', 'folder / single', 'self.path / index_name'},
    'conversion.t5x': {'folder / name'},
    # A copy has the name of the file that the user gave.
    'apps.datasets.contamination': {'folder / compressed.plain_name(file).name'},
    'apps.demo.demo_data': {"folder / f'{split}.jsonl'"},
    'apps.demo.factbook': {"folder / f'{name}.jsonl'"},
    'apps.demo.packages': {'cache_dir / package.file_name', 'folder / package.file_name', 'pathlib.Path(folder) / package.file_name'},
    'apps.gin_files.parse': {'folder / name'},
    'io.atomic': {'folder / name'},
    # Each name is checked where the list is read.
    'io.appending': {'folder.local / name'},
    'io.contents': {'folder / name', 'folder.local / name'},
    'apps.planning.tpu_plan': {"cache_dir / f'{_key(texts, slice_.name)}.json'"},
    # Names of this package's own parts of a project.
    'apps.project.project_folder': {"self.path / ('run' if self.trains else 'model')",
                       "self.path / 'results' / ('test.jsonl' if name == 'evaluate' else 'closed_book.jsonl')"},
    'apps.project.making': {'self._project.path / _WRITES[step]'},
    'apps.project.project_report': {"project.path / 'results' / each"},
    'apps.project.project_steps': {"project.path / 'questions' / f'{name}.jsonl'"},
    'searchers.on_host': {'pathlib.Path(self.index.path) / name'},
    'tokenizers.bert_tokenizer': {'folder / file'},
    # Where a checkpoint of the original says that its models are: looked at for tokenizers, and for nothing else.
    'conversion.original': {'parent / option', 'parent / pathlib.PurePath(option).name'},
    # io/folder.Folder checks names that are joined to it.
    'knowledge.verify': {'folder / name'},
    # A store may be anywhere: an index names it as a user would.
    'index.index_manifest': {'folder.local / manifest.store'},
}
# Other ways to write files under the names that an archive gives, or to join.
_OTHER_WAYS = {'joinpath', 'extractall', 'extract_all', 'unpack_archive'}


def is_constant(node: ast.expr) -> bool:
    """Returns whether a name is written out, or is a module's constant."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
    return isinstance(node, ast.Constant) or name is not None and name.strip('_').isupper()


def joins(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, expression) of each `/` that joins a folder and a name which is no constant."""
    return [(node.lineno, ast.unparse(node)) for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            and not is_constant(node.right) and _PLACE.search(ast.unparse(node.left))]


def other_ways(tree: ast.AST) -> list[int]:
    """Lines that join or unpack by any other way."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and (node.attr in _OTHER_WAYS or ast.unparse(node) == 'os.path.join')]


def wrong(module: str, tree: ast.AST) -> list[int]:
    """Lines of a module that join a name which may come from a file without asking `inside`."""
    if module in _CHECKS_ITSELF:
        return []
    folders = module.split('.')[0] in _FOLDERS
    return [line for line, text in joins(tree) if text not in _OWN_NAMES.get(module, ())
            and not (folders and not re.search(r'\.local\b|\.path\b|Path\(', text))] + other_ways(tree)


def test_names_from_files_are_joined_by_one_function():
    found = [f'{name_of(path)}:{line}: join by io/untrusted.inside' for path in SOURCES for line in wrong(module_of(path), tree_of(path))]
    assert not found, '\n'.join(found)


def test_the_exceptions_are_needed():
    by_module = {module_of(path): {text for _, text in joins(tree_of(path))} for path in SOURCES}
    unused = {module: names - by_module.get(module, set()) for module, names in _OWN_NAMES.items()}
    assert not any(unused.values()), f'no longer there: { {module: names for module, names in unused.items() if names} }'


@pytest.mark.parametrize(('module', 'text', 'lines'), [
    ('conversion.x', 'folder / module["path"]', [1]), ('conversion.x', 'folder / "config.json"', []), ('conversion.x', 'folder / FILE', []),
    ('conversion.x', 'self.path / file', [1]), ('conversion.x', 'seconds / count', []), ('conversion.x', 'os.path.join(a, b)', [1]),
    ('demo.x', 'tar.extractall(out)', [1]), ('index.x', 'folder / entry.name', []), ('index.x', 'folder.local / entry.name', [1]),
    ('corpus.x', 'pathlib.Path(path) / segment.name', [1]),
])
def test_the_ways_round_are_found(module, text, lines):
    assert wrong(module, ast.parse(text)) == lines
