"""Names of T5X: each gets one line with ours, wherever it stands; names that both have are taken where a file has them."""

import re

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.apps.gin_files import page, parse, preview, t5x_names

FEW_SHOT = ['RUN_DIR="run"', 'TRAIN_FILE="train.jsonl"', 'INDEX_DIR="index"', 'READER_DIR="reader"', 'RETRIEVER_DIR="retriever"']
REQUIRED = ['RUN_DIR="run"', 'TRAIN_FILE="train.jsonl"', 'INDEX_DIR="index"', 'MODEL_DIR="atlas"']


def _refused(files, bindings):
    """The message that both readers of the same files give."""
    with pytest.raises(errors.ConfigError) as caught:
        parse.parse(files, bindings)
    with pytest.raises(errors.ConfigError) as early:
        preview.read(files, bindings)
    assert str(caught.value) == str(early.value) and '\n' not in str(early.value)
    return str(early.value)


def test_every_name_that_is_given_for_one_of_t5x_exists():
    shipped = '\n'.join(parse.find_file(name).read_text() for name in parse.known_files())
    bound = page.page()
    for ours in (*t5x_names.MACROS.values(), *t5x_names.PARAMETERS.values(), t5x_names.OUTPUT):
        for macro in re.findall(r'\b[A-Z]+(?:_[A-Z]+)+\b', ours):
            assert re.search(rf'^{macro} = ', shipped, re.MULTILINE), macro
        for owner, parameter in re.findall(r'\b([A-Z]\w+)\.(\w+)', ours):
            section = re.search(rf'^### \w+\.{owner}\n(.*?)^##', bound, re.MULTILINE | re.DOTALL)
            assert section and f'`{parameter}`' in section[1], f'{owner}.{parameter}'


def test_all_of_a_command_line_are_told_at_once_and_what_model_dir_is():
    given = ['MODEL_DIR="/tmp/out"', 'TRAIN_STEPS=100', 'INITIAL_CHECKPOINT_PATH="ckpt"', 'TASK_FEATURE_LENGTHS={"inputs": 512}',
             'MIXTURE_OR_TASK_NAME="wmt"', 'DROPOUT_RATE=0.0', 'USE_CACHED_TASKS=False', 'utils.SaveCheckpointConfig.period = 500',
             'partitioning.PjitPartitioner.num_partitions=2']
    message = _refused(['runs/nq_64_shot.gin'], given)
    for part in ('--gin.TRAIN_STEPS is a name of T5X, here TOTAL_STEPS', 'here READER_DIR and RETRIEVER_DIR, or MODEL_DIR',
                 'InputConfig.text_max_tokens', 'here TASK, such as @qa.QATask()', 'here RunConfig.dropout_rate', 'here left out',
                 'RunConfig.checkpoint_every_steps', 'RunConfig.mesh_shape', 'T5X\'s MODEL_DIR, the output, is RUN_DIR',
                 '(docs/from-t5x.md)'):
        assert part in message, message
    assert 'RUN_DIR' not in _refused(['runs/nq_64_shot.gin'], ['TRAIN_STEPS=100'])


def test_names_that_a_file_has_are_taken():
    parse.parse(['runs/nq_64_shot.gin'], [*REQUIRED, 'BATCH_SIZE=8'])
    assert parse.value_of('BATCH_SIZE') == 8
    assert 'here RunConfig.dropout_rate' in _refused(['runs/few_shot.gin'], [*FEW_SHOT, 'DROPOUT_RATE=0.1'])


@pytest.mark.parametrize(('lines', 'message'), [
    ('TRAIN_STEPS = 7', r'mine.gin:3: TRAIN_STEPS is a name of T5X, here TOTAL_STEPS'),
    ('from t5x import utils', r'mine.gin:3: from t5x import utils: a gin file of T5X; include one of runs/'),
    ('import __main__ as train_script', r'mine.gin:3: import __main__ as train_script: a gin file of T5X')])
def test_a_file_of_ones_own(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.gin').write_text(f"from __gin__ import dynamic_registration\ninclude 'runs/nq_64_shot.gin'\n{lines}\n")
    assert re.search(message, _refused(['mine.gin'], REQUIRED))


def test_a_macro_of_the_same_name_that_a_file_uses_is_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.gin').write_text("from __gin__ import dynamic_registration\ninclude 'runs/nq_64_shot.gin'\nTRAIN_STEPS = 7\n"
                                       'TOTAL_STEPS = %TRAIN_STEPS\n')
    parse.parse(['mine.gin'], [*REQUIRED, 'TRAIN_STEPS=9'])
    assert parse.value_of('TOTAL_STEPS') == 9


def test_a_model_dir_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bindings = [f'--gin.{binding}' for binding in REQUIRED]
    assert cli.main(['train', '--gin_file', 'runs/nq_64_shot.gin', *bindings]) == 2
    message = capsys.readouterr().err
    assert message == ('atlas-jax: atlas: no such file or folder; give the folder of a model (here MODEL_DIR is the model to start from; '
                       'T5X\'s MODEL_DIR, the output, is RUN_DIR)\n')


def test_search_paths_come_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, steps in (('a', 1), ('b', 2)):
        (tmp_path / folder / 'runs').mkdir(parents=True)
        (tmp_path / folder / 'runs' / 'mine.gin').write_text(f"include 'runs/nq_64_shot.gin'\nTOTAL_STEPS = {steps}\n")
    (tmp_path / 'b' / 'more.gin').write_text("include 'runs/mine.gin'\n")
    options = cli.parse(['train', '--gin_search_paths', 'b,a', '--gin_file', 'more.gin', *(f'--gin.{binding}' for binding in REQUIRED)])
    cli_options.preview_gin(options)
    cli_options.read_gin(options)
    assert parse.value_of('TOTAL_STEPS') == 2
    with pytest.raises(SystemExit):
        cli.parse(['train', '--gin_search_paths', 'a,nowhere', '--gin_file', 'more.gin'])
    assert capsys.readouterr().err.count('\n') == 1
    assert parse.find_file('more.gin') is None
