"""The documented way, walked: from raw text and questions to figures, by the commands that docs/tpu.md and the gin files show.

Commands are taken from the text of the page and of the headers, in their order. By default all run in this process, without --multihost;
the exhaustive form runs those with --multihost as two processes of four devices. Appended bindings make them small; lengths stay as they
are, so that a model pre-trained at 384 tokens continues at 512. The bucket is a server on the loopback.
Scripts of the page that run no atlas-jax command are tested in tests/tpu_scripts.
"""

import json
import os
import pathlib
import re
import shlex

import jax
import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import plan as cli_plan
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.conversion import hf
from atlas_jax.io import jsonl
from atlas_jax.io.folder import Folder
from atlas_jax.models import contriever, t5
from tests.testing import bucket, processes, tiny, word_tokenizers

ROOT = pathlib.Path(__file__).parents[2]
SIZES = ['--gin.BATCH_SIZE=8', '--gin.N_CONTEXT=2', '--gin.RETRIEVER_N_CONTEXT=2']
# By the command, and for training by its gin file.
SMALLER = {
    'pretrain_mlm': [*SIZES, '--gin.TOTAL_STEPS=1', '--gin.WARMUP_STEPS=0', '--gin.RERANK_CANDIDATES=0'],
    'nq_64_shot': [*SIZES, '--gin.TOTAL_STEPS=2', '--gin.WARMUP_STEPS=0', '--gin.EXAMPLES=8'],
    'evaluate': ['--gin.BATCH_SIZE=8', '--gin.EXAMPLES=8'],
}
THINGS = 24


def page_commands() -> list[list[str]]:
    """The arguments of every atlas-jax command of the section, also of those that a script launches."""
    section = re.search(r'^## From an empty project.*?\n(.*?)^##', (ROOT / 'docs/tpu.md').read_text(encoding='utf-8'),
                        re.MULTILINE | re.DOTALL)[1]
    lines = '\n'.join(re.findall(r'^ *```bash\n(.*?)^ *```', section, re.MULTILINE | re.DOTALL)).replace('\\\n', ' ').splitlines()
    words = [shlex.split(line) for line in lines if line.strip()]
    return [line[line.index('atlas-jax') + 1:] for line in words if 'atlas-jax' in line]


def header_command(name: str, **folders: str) -> list[str]:
    """The arguments of the command in a gin file's header, with other folders and files."""
    text = gin_parse.find_file(name).read_text(encoding='utf-8')
    command = re.search(r'^# Command: +(.*?)^from', text, re.MULTILINE | re.DOTALL)[1].replace('\\\n#', ' ')
    words = shlex.split(command)[1:]
    assert {word.split('=')[0] for word in words if word.startswith('--gin.')} == {f'--gin.{macro}' for macro in folders}
    return [word for word in words if not word.startswith('--gin.')] + [f'--gin.{macro}="{path}"' for macro, path in folders.items()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with raw text and two models as they come, and a bucket with raw questions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    for name, tokenizer, config, make, write in (
            ('t5', word_tokenizers.t5(), tiny.READER, t5.init_params, hf.write_params),
            ('contriever', word_tokenizers.bert(), tiny.RETRIEVER, contriever.init_params, hf.write_params)):
        changes = {'num_layers': 1, 'max_positions': 512} if name == 'contriever' else {'num_encoder_layers': 1, 'num_decoder_layers': 1}
        config = type(config)(**{**vars(config), **changes, 'vocab_size': tokenizer.vocab_size})
        tokenizer.save(tmp_path / name)
        write(tmp_path / name, config, jax.device_get(tiny.init(make, config)))
    # Passages are longer than both lengths, in the tokens of either model. All of them are: a step then has one capacity and not three.
    texts = [f'The thing {i} is red . ' * 120 for i in range(THINGS)]
    jsonl.write('wikipedia.jsonl', ({'id': f'd{i}', 'title': f'thing {i}', 'text': text} for i, text in enumerate(texts)))
    with bucket.serving(monkeypatch):
        for split, start in (('train', 0), ('test', 8)):
            rows = [{'question': f'what is thing {i}', 'answers': ['red'], 'gold_docids': [f'd{i}']} for i in range(start, start + 8)]
            Folder('gs://my-bucket').write(f'nq_{split}.jsonl', ''.join(f'{json.dumps(row)}\n' for row in rows).encode())
        yield tmp_path


def smaller(arguments: list[str], mesh_shape: str) -> list[str]:
    """One command, made smaller."""
    name = next((key for key in SMALLER if f'runs/{key}.gin' in arguments), '')
    mesh = [f'--gin.MESH_SHAPE={mesh_shape}'] if SIZES[0] in SMALLER.get(name, []) and name != 'evaluate' else []
    return [*arguments, *SMALLER.get(name, []), *mesh]


def walk_here(arguments: list[str], capsys) -> str:
    """Runs one command in this process; returns what it printed."""
    capsys.readouterr()
    arguments = [word for word in smaller(arguments, '(1, 1, 1)') if word != '--multihost']
    assert cli.main(arguments) == 0, shlex.join(arguments)
    captured = capsys.readouterr()
    return captured.err + captured.out


def walk(arguments: list[str]) -> str:
    """Runs one command; returns what it printed, of several processes what the first one did."""
    count = 2 if '--multihost' in arguments else 1
    arguments = smaller(arguments, '(1, 2, 4)')
    started = processes.start(['-m', 'atlas_jax', *arguments], processes=count, devices=8 // count, ATLAS_JAX_KEEP_ALLOCATOR='1',
                              PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    results = processes.finish(started, timeout=400)
    shown = '\n'.join(output[-3000:] for _, output in results)
    assert [code for code, _ in results] == [0] * len(results), f'{shlex.join(arguments)}\n{shown}'
    return results[0][1]


@pytest.mark.slow  # only in their order do the commands show that one reads what another wrote
def test_from_raw_questions_to_figures(place, capsys):
    _from_raw_questions_to_figures(lambda arguments: walk_here(arguments, capsys))


@pytest.mark.exhaustive  # each command is two processes that compile, a minute in all; train_test.py has the smaller case
@pytest.mark.slow
def test_from_raw_questions_to_figures_on_two_hosts(place):
    _from_raw_questions_to_figures(walk)


def _from_raw_questions_to_figures(walk):
    models = ['--reader', 't5', '--retriever', 'contriever']
    for arguments in (['data', 'passages', 'wikipedia.jsonl', '--as_passages', '--out', 'first/store', *models],
                      ['index', 'build', '--store', 'first/store', '--out', 'first/index', *models]):
        assert cli.main(arguments) == 0
    pretrained = walk(header_command('runs/pretrain_mlm.gin', RUN_DIR='gs://my-bucket/atlas_xxl', TRAIN_FILE='wikipedia.jsonl',
                                     INDEX_DIR='first/index', READER_DIR='t5', RETRIEVER_DIR='contriever'))
    assert 'max_tokens (index 512, this model 384)' in pretrained
    printed = {}
    for arguments in page_commands():
        if arguments[0] == 'plan':
            # Compiling for a TPU takes a minute: tests/apps/cli/plan_test.py does it. What would be compiled is the page's own run.
            assert cli_plan.workload_of(cli.parse(arguments)).inputs.text_max_tokens == 512
        elif arguments[:2] == ['data', 'passages']:
            assert cli.main(arguments) == 0
        else:
            printed[' '.join(word for word in arguments[:2] if not word.startswith('-'))] = walk(arguments)
    assert list(printed) == ['index build', 'train', 'evaluate']
    assert json.loads(printed['index build'][printed['index build'].index('{'):])['rows'] == THINGS
    assert 'max_tokens (index 384, this model 512)' in printed['train'] and '2 steps' in printed['train']
    figures = dict(re.findall(r'^(\w+) +([\d.]+)(?: .*)?$', printed['evaluate'], re.MULTILINE))
    assert figures['questions'] == '8' and {'exact_match', 'f1'} <= figures.keys()
    assert float(figures['answer_recall_at_1']) > 0 and 0 <= float(figures['gold_recall_at_1']) <= 1
    assert len(pathlib.Path('results.jsonl').read_text().splitlines()) == 8
