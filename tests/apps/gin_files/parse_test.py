"""gin files and bindings: what they give, and the one line that each mistake gets."""

import dataclasses
import pathlib
import sys
import types

import pytest

from atlas_jax import errors
from atlas_jax.apps.gin_files import parse as gin_parse

HEADER = 'from __gin__ import dynamic_registration\nimport toy\n'


@dataclasses.dataclass(frozen=True)
class Model:
    width: int
    rate: float = 0.1
    kinds: tuple[str, ...] = ('a',)
    name: str | None = None

    def __post_init__(self):
        if self.width < 0:
            raise errors.ConfigError(f'width {self.width} is negative')


def work(model: Model, folder: str, steps: int = 3):
    return model, folder, steps


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """A module `toy` with Model and work, and an empty working folder."""
    module = types.ModuleType('toy')
    for thing in (Model, work):
        monkeypatch.setattr(thing, '__module__', 'toy')
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, 'toy', module)
    monkeypatch.chdir(tmp_path)
    return module


def parse(files, bindings=(), **options):
    """With `toy`, which the user trusts."""
    gin_parse.parse(files, bindings, imports=('toy',), **options)


def write(name: str, text: str) -> str:
    pathlib.Path(name).write_text(text, encoding='utf-8')
    return name


def run_file(extra: str = '') -> str:
    write('model.gin', f'{HEADER}MODEL = @toy.Model()\nWIDTH = 7\ntoy.Model.width = %WIDTH\n')
    text = f"{HEADER}include 'model.gin'\nFOLDER = %gin.REQUIRED\ntoy.work:\n  model = %MODEL\n  folder = %FOLDER\n{extra}"
    return write('run.gin', text)


def message_of(files, bindings=(), resolve=False) -> str:
    with pytest.raises(errors.ConfigError) as raised:
        parse(files, bindings)
        if resolve:
            gin_parse.arguments_of(work)
    message = str(raised.value)
    assert '\n' not in message
    return message


def test_files_and_bindings_give_arguments():
    parse([run_file()], ['FOLDER="out"', 'WIDTH=11', 'toy.work.steps=5', 'Model.rate=1'])
    arguments = gin_parse.arguments_of(work)
    assert arguments == {'model': Model(11, 1), 'folder': 'out', 'steps': 5}
    assert type(arguments['model']) is Model  # no class of gin's: fingerprints use its repr


def test_later_files_and_the_caller_win():
    second = write('second.gin', f'{HEADER}WIDTH = 13\ntoy.Model.kinds = ("b", "c")\nFOLDER = "second"\n')
    parse([run_file(), second])
    assert gin_parse.arguments_of(work, steps=2) == {'model': Model(13, kinds=('b', 'c')), 'folder': 'second', 'steps': 2}


def test_a_second_parse_forgets_the_first():
    parse([run_file()], ['FOLDER="first"', 'toy.work.steps=5'])
    parse([run_file()], ['FOLDER="second"'])
    assert gin_parse.arguments_of(work) == {'model': Model(7), 'folder': 'second'}


def test_operative_config_gives_the_same_arguments_again():
    parse([run_file()], ['FOLDER="out"', 'toy.Model.kinds=("b", "c")'])
    before = gin_parse.arguments_of(work)
    text = gin_parse.operative_config(work)
    assert 'toy.Model.rate = 0.1' in text and 'toy.work.steps = 3' in text  # defaults are written down too
    parse([write('operative.gin', text)])
    assert gin_parse.arguments_of(work) == before | {'steps': 3}


def test_a_folder_named_like_those_of_the_gin_files_does_not_matter(tmp_path):
    (tmp_path / 'runs').mkdir()
    parse(['runs/formats.gin'])
    assert gin_parse.value_of('INPUTS').text_max_tokens > 0


def test_value_of_a_macro():
    parse([run_file()], ['FOLDER="out"'])
    assert gin_parse.value_of('FOLDER') == 'out' and gin_parse.value_of('MODEL') == Model(7)
    with pytest.raises(errors.ConfigError, match='no macro FOLDR'):
        gin_parse.value_of('FOLDR')


def test_a_macro_can_be_looked_at_where_others_are_not_set():
    parse([run_file()], ['WIDTH=11'], complete=False)
    assert gin_parse.value_of('WIDTH') == 11


def test_shipped_files_are_found_from_anywhere():
    assert 'models/tiny.gin' in gin_parse.known_files()
    assert gin_parse.find_file('models/tiny.gin') == gin_parse.find_file('gin_configs/models/tiny.gin')
    parse(['models/tiny.gin'])


@pytest.mark.parametrize(('extra', 'bindings', 'parts'), [
    ('', (), ['run.gin:4', 'FOLDER', 'must be set', '--gin.FOLDER=']),
    ('toy.work.steps = %gin.REQUIRED\n', ('FOLDER="x"',), ['run.gin:8', 'must be set', '--gin.toy.work.steps=']),
    ('toy.work.step = 3\n', (), ['run.gin:8', 'no parameter "step"', 'did you mean "steps"?']),
    ('toy.wrk.steps = 3\n', (), ['run.gin:8', '"toy.wrk"', 'did you mean "work"?']),
    ('toyy.work.steps = 3\n', (), ['run.gin:8', 'no import gives "toyy"', 'did you mean "toy"?']),
    ('toy.work.model = @toy.Mdel()\n', (), ['run.gin:8', '"toy.Mdel"', 'did you mean "Model"?']),
    ('toy.work.folder = %FOLDR\n', (), ['run.gin:8', '%FOLDR', 'did you mean "FOLDER"?']),
    ('toy.work.steps = \n', (), ['run.gin:8', 'value']),
    ('toy.work.steps = (1,\n', (), ['run.gin:', 'EOF']),
    ('toy.work.steps 3\n', (), ['run.gin:8', "expected ':' or '='"]),
    ("include 'modle.gin'\n", (), ['run.gin:8', 'no gin file "modle.gin"']),
    ("include 'run.gin'\n", (), ['run.gin:8', 'includes itself']),
    ('import nowhere_at_all\n', (), ['run.gin:8', 'nowhere_at_all']),
    ('toy.work.steps = "many"\n', ('FOLDER="x"',), ['run.gin:8', 'toy.work.steps must be int', "'many'"]),
    ('', ('FOLDER="x"', 'WIDTH="wide"'), ['--gin.WIDTH="wide"', 'toy.Model.width must be int', "'wide'"]),
    ('', ('FOLDER=out/x',), ['--gin.FOLDER=out/x', 'strings need quotes']),
    ('', ('FOLDR="x"',), ['--gin.FOLDR="x"', 'did you mean "FOLDER"?']),
    ('', ('FOLDER="x"', 'work.step=3'), ['--gin.work.step=3', 'did you mean "steps"?']),
    ('', ('FOLDER="x"', 'wrok.steps=3'), ['--gin.wrok.steps=3', 'did you mean "work"?']),
    ('', ('FOLDER',), ['--gin.FOLDER', 'NAME=value']),
])
def test_mistakes_get_one_line(extra, bindings, parts):
    message = message_of([run_file(extra)], bindings)
    assert all(part in message for part in parts), message


def test_missing_file_is_named_with_the_nearest():
    message = message_of(['models/tny.gin'])
    assert '--gin_file' in message and 'did you mean "models/tiny.gin"?' in message


def test_file_that_is_not_text():
    pathlib.Path('bad.gin').write_bytes(b'\xff\xfe')
    assert 'bad.gin' in message_of(['bad.gin'])


def test_a_class_that_refuses_its_values_says_so_itself():
    assert message_of([run_file()], ['FOLDER="x"', 'WIDTH=-3'], resolve=True) == 'width -3 is negative'


def test_argument_that_no_file_sets():
    file = write('half.gin', f'{HEADER}toy.work.folder = "x"\n')
    assert 'work.model' in message_of([file], resolve=True)


def test_file_without_the_function():
    assert 'toy.work.model, toy.work.folder' in message_of([write('empty.gin', '')], resolve=True)


def test_missing_value_of_a_class():
    file = write('half.gin', f'{HEADER}toy.work.folder = "x"\ntoy.work.model = @toy.Model()\n')
    message = message_of([file], resolve=True)
    assert 'width' in message and 'Model' in message
