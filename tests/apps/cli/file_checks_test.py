"""Wrong files are told before jax is imported, by every command: a model takes minutes to load."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import file_checks
from atlas_jax.apps.gin_files import preview
from atlas_jax.tasks import mlm, qa
from tests.testing import streams

BEFORE = streams.FIXTURES / 'before_rooms'
RUN, INDEX, STORE = (str(BEFORE / name) for name in ('run', 'index', 'store'))
HEAVY = ('jax', 'flax', 'orbax', 'torch', 'transformers', 'optax', 'grain', 'sentencepiece')
# Runs commands one after the other in one process, and prints each exit code and the heavy modules imported so far.
PROGRAM = f"""
import json, sys
from atlas_jax.apps.cli import main
for arguments in json.load(sys.stdin):
    code = main.main(arguments)
    print(json.dumps([code, sorted(set({HEAVY!r}) & sys.modules.keys())]), flush=True)
"""


def training(*more):
    return ['train', '--gin_file', 'runs/few_shot.gin', '--gin.RUN_DIR="run"', '--gin.TRAIN_FILE="good.jsonl"',
            f'--gin.INDEX_DIR={INDEX!r}', '--gin.READER_DIR=None', '--gin.RETRIEVER_DIR=None', f'--gin.MODEL_DIR={RUN!r}', *more]


def evaluating(*more):
    return ['evaluate', '--gin_file', 'runs/evaluate.gin', f'--gin.MODEL_DIR={RUN!r}', f'--gin.INDEX_DIR={INDEX!r}',
            '--gin.EXAMPLES_FILE="good.jsonl"', *more]


def comparing(*more):
    return ['compare', '--out', 'ours.npz', *more]


# Commands, and what their one line says.
WRONG = [
    (training('--gin.TRAIN_FILE="unlabelled.jsonl"'), 'unlabelled.jsonl:2, field "answers": missing'),
    (training('--gin.TRAIN_FILE="nowhere.jsonl"'), 'nowhere.jsonl: no such file'),
    (training('--gin.TRAIN_FILE="broken.jsonl"'), 'broken.jsonl:1: broken JSON'),
    (training('--gin.TRAIN_FILE=["good.jsonl", "unlabelled.jsonl"]'), 'unlabelled.jsonl:2, field "answers": missing'),
    (training('--gin.TRAIN_FILE="*o*.jsonl"'), 'broken.jsonl:1: broken JSON'),
    (training('--gin.TRAIN_FILE="empty"'), 'empty: no JSON lines in this folder'),
    (evaluating('--gin.EXAMPLES_FILE=("good.jsonl", "good.jsonl")'), 'good.jsonl: named twice'),
    (training('--gin.TASK=@mlm.MLMTask()'), 'good.jsonl:1, field "text"'),
    (training('--gin.INDEX_DIR="nowhere"'), 'nowhere: no such folder'),
    (training(f'--gin.INDEX_DIR=[{INDEX!r}, {STORE!r}]'), 'not the manifest of an index'),
    (training('--gin.MODEL_DIR="nowhere"'), 'nowhere: no such file or folder'),
    (training('--gin.MODEL_DIR=None', '--gin.READER_DIR="empty"', '--gin.RETRIEVER_DIR="nowhere"'), 'nowhere: no such file or folder'),
    (training('--gin.TrainData.eval_file="broken.jsonl"'), 'broken.jsonl:1: broken JSON'),
    (training('--gin.TOTAL_STEPS=%TOTAL_STEPS'), 'macro %TOTAL_STEPS is its own value'),
    (['train', '--gin_file', 'runs/few_sht.gin'], 'did you mean "runs/few_shot.gin"?'),
    (['train', '--gin_file', 'runs/few_shot.gin'], 'give --run'),
    (evaluating('--gin.EXAMPLES_FILE="unlabelled.jsonl"'), 'unlabelled.jsonl:2, field "answers": missing'),
    (evaluating('--gin.INDEX_DIR="nowhere"'), 'nowhere: no such folder'),
    (evaluating('--gin.MODEL_DIR="broken"'), 'broken/model.json: broken JSON'),
    (evaluating('--index', f'a={INDEX}', '--index', 'b=nowhere'), 'nowhere: no such folder'),
    (['evaluate', '--all', 'nowhere'], 'nowhere: no such folder'),
    (['evaluate', '--compare', 'good.jsonl', 'good.jsonl'], 'good.jsonl:1, field'),
    (['evaluate', '--task', 'retrieval', '--data', 'empty', '--out', 'o', '--model', RUN], 'empty/qrels/test.tsv: no such file'),
    (['answer', 'who?'], 'give either --model, or both --reader and --retriever'),
    (['answer', 'who?', '--reader', 'empty'], 'give either --model, or both --reader and --retriever'),
    (['answer', 'who?', '--model', 'nowhere'], 'nowhere: no such file or folder'),
    (['answer', 'who?', '--model', RUN, '--index', 'empty'], 'empty: the folder is empty'),
    (['answer', 'who?', '--model', RUN, '--index', INDEX, '--also', 'nowhere'], 'nowhere: no such folder'),
    (['index', 'build', '--store', 'nowhere', '--out', 'i', '--model', RUN], 'nowhere: no such folder'),
    (['index', 'build', '--store', STORE, '--out', 'i'], 'give either --model'),
    (['index', 'build', '--gin_file', 'runs/build_index.gin', f'--gin.STORE_DIR={STORE!r}', '--gin.INDEX_DIR="i"',
      '--gin.READER_DIR="nowhere"', '--gin.RETRIEVER_DIR="empty"'], 'nowhere: no such file or folder'),
    (['index', 'add', 'broken.jsonl', '--index', INDEX, '--model', RUN], 'broken.jsonl:1: broken JSON'),
    (['index', 'add', 'nowhere.txt', '--index', INDEX, '--model', RUN], 'nowhere.txt: no such file or folder'),
    (['index', 'add', 'good.jsonl', '--index', 'nowhere', '--model', RUN], 'nowhere: no such folder'),
    (['index', 'delete', '--index', 'nowhere', '--docid', 'x'], 'nowhere: no such folder'),
    (['index', 'search', 'x', '--index', INDEX], 'give either --model'),
    (['index', 'info', '--index', 'empty'], 'empty: the folder is empty'),
    (['data', 'passages', 'nowhere.txt', '--out', 's', '--model', RUN], 'nowhere.txt: no such file or folder'),
    (comparing('--random', '1x1x9'), 'give --model DIR, or --reader DIR'),
    (comparing('--reader', 'nowhere', '--random', '1x1x9'), 'nowhere: no such file or folder'),
    (comparing('--model', RUN), 'give one of --inputs'),
    (comparing('--model', RUN, '--data', 'good.jsonl'), '--data needs --index DIR'),
    (comparing('--model', RUN, '--data', 'unlabelled.jsonl', '--index', INDEX), 'unlabelled.jsonl:2, field "answers": missing'),
    (comparing('--reader', 'empty', '--inputs', 'broken.jsonl'), 'broken.jsonl: not an npz file'),
    (['convert', 'nowhere', '--to', 'hf', '--out', 'o'], 'nowhere: no such file or folder'),
    (['convert', RUN, '--to', 'hf', '--out', 'empty'], 'empty: exists already'),
    (['plan', '--gin_file', 'models/xl.gin', '--gin_file', 'nowhere.gin', '--topology', 'v4:2x2x1'], 'no gin file "nowhere.gin"'),
    (['plan', '--gin_file', 'models/xl.gin', '--gin_file', 'runs/plan.gin', '--topology', 'v4:2x2x1', '--store', 'nowhere'],
     'nowhere: no such folder'),
    (['plan', '--gin_file', 'runs/plan.gin', '--topology', 'v4:2x2x1', '--gin.BATCH_SIZE=[['], '--gin.BATCH_SIZE=[['),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder with good and wrong files."""
    monkeypatch.chdir(tmp_path)
    row = {'question': 'who?', 'answers': ['she'], 'text': ''}
    pathlib.Path('good.jsonl').write_text(json.dumps({'question': 'who?', 'answers': ['she']}) + '\n')
    pathlib.Path('unlabelled.jsonl').write_text(f'{json.dumps(row)}\n{json.dumps({"question": "when?"})}\n')
    pathlib.Path('broken.jsonl').write_text('{"question"\n')
    pathlib.Path('empty').mkdir()
    pathlib.Path('broken').mkdir()
    pathlib.Path('broken/model.json').write_text('{')
    return tmp_path


def test_input_errors_come_before_anything_heavy_is_imported(files):
    before = sorted(files.rglob('*'))
    done = subprocess.run([sys.executable, '-c', PROGRAM], input=json.dumps([arguments for arguments, _ in WRONG]), capture_output=True,
                          text=True, check=True, env=os.environ | {'ATLAS_JAX_KEEP_ALLOCATOR': '1'})
    results, messages = [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()
    assert len(results) == len(messages) == len(WRONG), done.stderr
    for (arguments, expected), result, message in zip(WRONG, results, messages, strict=True):
        assert result == [2, []] and expected in message, (arguments, result, message)
    assert sorted(files.rglob('*')) == before


def test_tasks_are_told_without_a_model():
    assert file_checks.task_of(None, 'MLMTask', {'noise_density': 0.3}) == mlm.MLMTask(noise_density=0.3)
    assert file_checks.task_of(RUN, None, {}) == qa.QATask('{question}', '{target}') and file_checks.task_of(None, None, {}) == qa.QATask()
    for known in ((None, 'MyTask', {}), (None, 'MLMTask', {'nothing': 3}), ('nowhere', None, {}), (3, None, {})):
        assert file_checks.task_of(*known) is None


def test_rows_behind_those_asked_for_are_not_read(files):
    file_checks.check_examples('unlabelled.jsonl', qa.QATask(), max_rows=1)
    file_checks.check_examples('unlabelled.jsonl', qa.QATask(), labelled=False)
    file_checks.check_examples('unlabelled.jsonl', None)
    file_checks.check_examples(['unlabelled.jsonl', 'good.jsonl'], None)
    file_checks.check_examples(['good.jsonl', 'unlabelled.jsonl'], qa.QATask(), max_rows=2)
    file_checks.check_examples(None, qa.QATask())
    pathlib.Path('late.jsonl').write_text('{}\n{\n')
    file_checks.check_examples('late.jsonl', None, max_rows=1)
    file_checks.check_examples(['good.jsonl', 'late.jsonl'], None, max_rows=2)
    with pytest.raises(errors.InputFileError, match=r'late\.jsonl:2: broken JSON'):
        file_checks.check_examples('late.jsonl', None)


def test_folders_in_buckets_are_left_to_the_command():
    file_checks.check_index('gs://bucket/index', 'gs://bucket/store')
    file_checks.check_index(None)
    file_checks.check_model_folder(None)


def test_a_preview_knows_values_and_imports_nothing(files):
    pathlib.Path('run.gin').write_text('from __gin__ import dynamic_registration\nfrom atlas_jax import nowhere\n'
                                       "nowhere.Data.files = ['a', %B]\nB = 3\nnowhere.Data.task = @nowhere.Task()\n")
    values = preview.read(['run.gin'], ['Data.rows=5', 'B=7'])
    found = values.values_of('Data')
    assert found['files'] == ['a', 7] and found['rows'] == 5 and preview.name_of(found['task']) == 'Task'
    assert values.values_of('Other') == {} and preview.name_of('Task') is None
    pathlib.Path('bad.gin').write_text('import os\n')
    with pytest.raises(errors.ConfigError, match='--gin_import os'):
        preview.read(['bad.gin'])
    assert preview.read(['bad.gin'], imports=['os']).values_of('os') == {}
