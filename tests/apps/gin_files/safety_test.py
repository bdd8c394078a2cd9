"""gin files from anywhere: they run nothing, exhaust nothing, and each gets one line. Run folders are exchanged with their config.gin."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import plan
from atlas_jax.apps.gin_files import parse as gin_parse
from tests.house.source import PACKAGE, SOURCES, module_of, tree_of

DYNAMIC = 'from __gin__ import dynamic_registration\n'
EVIL = "open('ran', 'w').close()\n"
# Each tries to run something, or to read the user's other files.
ATTACKS = {
    'module': f'{DYNAMIC}import os\nX = @os.getcwd()\n',
    'command': f"{DYNAMIC}import os\nX = @os.system()\nos.system.command = 'touch ran'\n",
    'from': f'{DYNAMIC}from os import path\nX = 1\n',
    'alias': f'{DYNAMIC}import subprocess as atlas_jax\nX = @atlas_jax.getoutput()\n',
    'working directory': f'{DYNAMIC}import evilmod\n',
    'without registration': 'import evilmod\n',
    'a switch that is a module': 'import __gin__.dynamic_registration\n',
    'an aliased switch': 'from __gin__ import dynamic_registration as d\n',
    'another switch': 'from __gin__ import evilmod\n',
    'future': 'from __future__ import annotations\n',
    'through a module of ours': f'{DYNAMIC}from atlas_jax import train\nX = @train.pathlib.os.system()\n',
    'through a package': f'{DYNAMIC}import atlas_jax.train\nX = @atlas_jax.train.json.loads()\n',
    'binding through a module': f"{DYNAMIC}from atlas_jax import train\ntrain.json.loads.s = '1'\n",
    'block through a module': f"{DYNAMIC}from atlas_jax import train\ntrain.json.loads:\n  s = '1'\n",
    'builtins': f'{DYNAMIC}from atlas_jax import train\nX = @train.__builtins__.exec()\n',
    'private': f'{DYNAMIC}from atlas_jax.apps.gin_files import parse\nX = @parse._quiet()\n',
    'a function of ours': f'{DYNAMIC}from atlas_jax import api\nX = @api.build_index()\n',
    'a class that acts': f'{DYNAMIC}from atlas_jax.io import folder\nX = @folder.Folder()\n',
    'a method': f'{DYNAMIC}from atlas_jax import model\nX = @model.AtlasModel.load()\n',
    'a model': f'{DYNAMIC}from atlas_jax import api\nX = @api.Atlas()\n',
    'the command itself': f'{DYNAMIC}import atlas_jax.__main__\n',
    "gin's own": f'{DYNAMIC}X = @gin.singleton()\n',
    "gin's macro": 'X/gin.macro.value = 3\n',
    'include outside': f"{DYNAMIC}include '../outside.gin'\n",
    'include of a system file': "include '/etc/hostname'\n",
    'include of nothing': "include 'a\\x00b'\n",
    'f-string': "X = f'{__import__(\"os\")}'\n",
    'call': 'X = open("ran", "w")\n',
}
# Each would run for ever, fill the memory or the stack, or end in a traceback.
EXHAUSTIONS = {
    'brackets': f'X = {"[" * 500}{"]" * 500}\n',
    'a few brackets': f'X = {"[" * 30}{"]" * 30}\n',
    'open brackets': f'X = {"[" * 5000}',
    'itself': 'X = %X\n',
    'a cycle': 'X = %Y\nY = %Z\nZ = %X\n',
    'a cycle in lists': 'X = [1, %Y]\nY = {"a": (%X,)}\n',
    'laughs': ''.join(f'X{i} = [%X{i + 1}, %X{i + 1}]\n' for i in range(18)) + 'X18 = 1\n',
    'a chain': ''.join(f'X{i} = %X{i + 1}\n' for i in range(5000)) + 'X5000 = 1\n',
    'a list as key': 'X = {[]: 1}\n',
    'digits': f'X = {"9" * 5000}\n',
    'bytes': 'X = "\0"\n',
    'long': '#' * 2**20 + '\n',
    'nothing bound': '.x = 3\n',
    'percent': '%X.value = 3\n',
}
WRONG_VALUES = ['train.train.run = []', 'train.train.run = @train.TrainData()', 'train.train.run = @train.RunConfig',
                'train.RunConfig.mesh_shape = (1, 2)', "train.RunConfig.mesh_shape = ('a', 2, 3)", f'train.RunConfig.seed = {10**40}',
                'train.RunConfig.dropout_rate = 1e999', "train.RunConfig.run_dir = 'a\\x00b'", 'train.TrainData.index_dir = [[]]',
                'train.train.model = {}', "train.TrainData.eval_file = %LIST\nLIST = ['a', %ONE]\nONE = 1"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """A folder on Python's path with modules that leave a mark, and a gin file beside it."""
    folder = tmp_path / 'working'
    (folder / '__gin__').mkdir(parents=True)
    for name in ('evilmod.py', '__gin__/__init__.py', '__gin__/dynamic_registration.py', '__gin__/evilmod.py'):
        (folder / name).write_text(EVIL)
    (tmp_path / 'outside.gin').write_text('SECRET = 3\n')
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split('.')[0] in ('evilmod', '__gin__')]:
        del sys.modules[name]


def refused(text: str, bindings=()) -> str:
    """The one line that a file gets, whole or not."""
    pathlib.Path('run.gin').write_text(text, encoding='utf-8')
    messages = []
    for complete in (True, False):
        with pytest.raises(errors.ConfigError) as raised:
            gin_parse.parse(['run.gin'], bindings, complete=complete)
            gin_parse.value_of('X')  # where it is not complete, cycles show here
        messages.append(str(raised.value))
    assert not any('\n' in message or len(message) > 1000 for message in messages), messages
    return messages[0]


@pytest.mark.parametrize('name', ATTACKS)
def test_no_file_runs_code(name, working_folder):
    message = refused(ATTACKS[name])
    assert message.startswith('run.gin:') and not (working_folder / 'ran').exists()


@pytest.mark.parametrize('name', ATTACKS)
def test_the_command_line_runs_no_code(name, working_folder):
    pathlib.Path('good.gin').write_text('X = 1\n')
    for binding in (ATTACKS[name], f'X=1\n{ATTACKS[name]}', ATTACKS[name].removeprefix(DYNAMIC).splitlines()[0]):
        with pytest.raises(errors.ConfigError):
            gin_parse.parse(['good.gin'], [binding])
            gin_parse.value_of('X')
    assert not (working_folder / 'ran').exists()


@pytest.mark.parametrize('command', ['train', 'evaluate', 'plan --topology v4:2x2x1', 'index build'])
def test_no_command_runs_code(command, working_folder):
    """In every way of running gin: the commands, which are all that the scripts for TPUs start."""
    for name in ('working directory', 'command', 'through a module of ours', 'a switch that is a module'):
        pathlib.Path('config.gin').write_text(ATTACKS[name])
        options = cli.parse([*command.split(), '--gin_file', 'config.gin'])
        with pytest.raises(errors.ConfigError, match=r'config.gin:\d'):
            # A plan sets up its own process before it reads gin, so that part is left out.
            (plan.workload_of if command.startswith('plan') else options.run)(options)
        assert not (working_folder / 'ran').exists()


def test_gin_is_run_by_one_module_and_modules_are_imported_by_name_in_another():
    readers, importers = set(), set()
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import) and any(name.name.split('.')[0] == 'gin' for name in node.names):
                readers.add(module_of(path))
            if getattr(node, 'attr', '') == 'import_module' or getattr(node, 'id', '') in ('import_module', '__import__', 'exec', 'eval'):
                importers.add(module_of(path))
    assert readers == {'apps.gin_files.parse'} and importers <= {'apps.gin_files.names'}
    text = (PACKAGE / 'apps' / 'gin_files' / 'parse.py').read_text()
    assert len(re.findall(r'gin\.parse_\w+|gin\.bind_\w+', text)) == 1


def test_gin_reads_what_was_checked(working_folder, monkeypatch):
    """A file that changes between the two readings, as a pipe or another user can make it."""
    pathlib.Path('run.gin').write_text('X = 1\n')
    checked = gin_parse.gin_check.Checker.finish

    def changed(checker):
        checked(checker)
        pathlib.Path('run.gin').write_text(f'{DYNAMIC}import evilmod\n')
    monkeypatch.setattr(gin_parse.gin_check.Checker, 'finish', changed)
    gin_parse.parse(['run.gin'])
    assert gin_parse.value_of('X') == 1 and not (working_folder / 'ran').exists()


def test_a_trusted_module_is_named_by_the_user(working_folder):
    (working_folder / 'mine.py').write_text('import os\ndef half(x):\n    return x / 2\n')
    text = f'{DYNAMIC}import mine\nmine.half.x = 3\nX = @mine.half()\n'
    assert '--gin_import mine' in refused(text)
    gin_parse.parse(['run.gin'], imports=['mine'])
    assert gin_parse.value_of('X') == 1.5
    pathlib.Path('run.gin').write_text(f'{DYNAMIC}import mine\nX = @mine.os.getcwd()\n')
    with pytest.raises(errors.ConfigError, match='"mine.os.getcwd" goes through os'):
        gin_parse.parse(['run.gin'], imports=['mine'])
    (working_folder / 'broken.py').write_text('1 / 0\n')
    with pytest.raises(errors.ConfigError, match='--gin_import broken: ZeroDivisionError'):
        gin_parse.parse(['run.gin'], imports=['broken'])


@pytest.mark.parametrize('name', EXHAUSTIONS)
def test_no_file_exhausts_the_machine(name):
    assert refused(EXHAUSTIONS[name]).startswith('run.gin')


def test_references_that_lead_back():
    text = f'{DYNAMIC}from atlas_jax import model\nX = @model.ModelSource()\nmodel.ModelSource.model_dir = %X\n'
    pathlib.Path('run.gin').write_text(text)
    with pytest.raises(errors.ConfigError, match='must be str'):
        gin_parse.parse(['run.gin'])
    gin_parse.parse(['run.gin'], complete=False)
    with pytest.raises(errors.ConfigError, match='@references'):
        gin_parse.value_of('X')


@pytest.mark.parametrize('binding', WRONG_VALUES)
def test_values_of_the_wrong_type(binding):
    pathlib.Path('run.gin').write_text(f'{DYNAMIC}from atlas_jax import train\n{binding}\n')
    with pytest.raises(errors.ConfigError, match=r'^run\.gin:\d+: train\.\w+\.\w+ must be '):
        gin_parse.parse(['run.gin'])


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(['X', 'Y', 'train', '=', '.', '@', '%', '(', ')', '[', ']', '{', '}', ',', ':', '\n', '\n  ', "'", '"', '/',
                                 '1', '-', 'import ', 'from ', 'include ', ' ', '\\\n', 'f', 'atlas_jax', '\0', '#', 'é', 'None', DYNAMIC]),
                max_size=12).map(''.join))
def test_any_text_is_read_or_gets_one_line(text):
    pathlib.Path('any.gin').write_text(text, encoding='utf-8')
    try:
        gin_parse.parse(['any.gin'])
    except errors.ConfigError as error:
        assert '\n' not in str(error)


def test_a_run_folder_from_elsewhere_runs_nothing(working_folder):
    """As a user meets it: another's config.gin, by the installed command."""
    (working_folder / 'config.gin').write_text(ATTACKS['working directory'])
    environment = os.environ | {'ATLAS_JAX_KEEP_ALLOCATOR': '1'}
    done = subprocess.run([sys.executable, '-m', 'atlas_jax', 'train', '--gin_file', 'config.gin'], capture_output=True, text=True,
                          check=False, env=environment)
    assert done.returncode == 2 and not (working_folder / 'ran').exists()
    assert done.stderr == 'atlas-jax: config.gin:2: import evilmod: gin files may import only atlas_jax; if you trust the module, add ' \
                          '--gin_import evilmod\n'
