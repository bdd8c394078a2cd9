import json

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.datasets import known_datasets
from tests.testing import published

# Files of tests/fixtures/published for each source, and the number of rows that its command writes.
COMMANDS = {
    'nq_open': (['nq_open/NQ-open.train.jsonl', 'nq_open/NQ-open.dev.jsonl', 'nq_open/NQ.train.idx.json', 'nq_open/NQ.dev.idx.json'],
                {'train': 2, 'dev': 1}),
    'nq': (['nq/v1.0-simplified_simplified-nq-train.jsonl.gz', 'nq/v1.0-simplified_nq-dev-all.jsonl.gz'], {'train': 2, 'dev': 1}),
    'triviaqa': (['triviaqa/unfiltered-web-train.json', 'triviaqa/unfiltered-web-dev.json'], {'train': 3, 'dev': 1}),
    'web_questions': (['web_questions/webquestions.examples.train.json.bz2'], {'train': 2}),
    'squad': (['squad/train-v1.1.json', 'squad/dev-v2.0.json'], {'train': 1, 'dev': 1}),
    'hotpotqa': (['hotpotqa/hotpot_dev_distractor_v1.json', 'hotpotqa/hotpot_test_fullwiki_v1.json'], {'dev': 1, 'test': 1}),
    'boolq': (['boolq/dev.jsonl'], {'dev': 2}),
    'sciq': (['sciq/valid.json'], {'dev': 2}), 'sciq_choices': (['sciq/valid.json'], {'dev': 2}),
    'fid': (['fid/train.json', 'fid/test.jsonl'], {'train': 1, 'test': 1}),
    'dpr_retriever': (['dpr_retriever/biencoder-nq-dev.json'], {'dev': 1}),
    'fever': (['fever/train.jsonl', 'fever/shared_task_test.jsonl'], {'train': 3, 'test': 1}),
    'kilt': (['kilt/fever-dev-kilt.jsonl', 'kilt/triviaqa-dev_id-kilt.jsonl', 'triviaqa/unfiltered-web-train.json'],
             {'fever-dev': 2, 'triviaqa-dev': 1}),
    'mmlu': (['mmlu/data', '--held_back', '2'], {
        'dev': 3, 'dev.anatomy': 2, 'dev.formal_logic': 1, 'full': 7, 'full_valid': 2, 'test': 2, 'test.anatomy': 1,
        'test.world_religions': 1, 'val': 1, 'val.anatomy': 1}),
    'templama': (['templama/test.json', '--years', '2016,2020'], {'test.2016': 1, 'test.2020': 1})}


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_write_what_the_files_hold(name, tmp_path, capsys):
    arguments, expected = COMMANDS[name]
    given = [str(published.FOLDER / argument) if '/' in argument else argument for argument in arguments]
    assert cli.main(['data', name, '--workers', '1', '--to', str(tmp_path / 'out'), '--from', *given]) == 0
    assert {path.stem: len(path.read_text(encoding='utf-8').splitlines()) for path in (tmp_path / 'out').glob('*.jsonl')} == expected
    assert all(json.loads(line) for path in (tmp_path / 'out').glob('*.jsonl') for line in path.read_text(encoding='utf-8').splitlines())
    said = capsys.readouterr().out
    # The message names only the largest of many files.
    assert ('7 full, 3 dev, 2 dev.anatomy, ' in said and said.endswith('and 1 more\n')) if name == 'mmlu' else all(
        f'{count} {output}' in said for output, count in expected.items())


def test_bad_parts_are_left_out_and_listed(tmp_path, capsys):
    rows = {'question': 'q', 'answer': ['a']}, {'question': 'q', 'answer': []}, '{"question'
    path = published.lines(tmp_path / 'NQ-open.dev.jsonl', *rows)
    command = ['data', 'nq_open', '--from', str(path), '--to', str(tmp_path / 'out'), '--workers', '1', '--skip_bad']
    assert cli.main([*command, '1']) == 2
    assert 'NQ-open.dev.jsonl:3: broken JSON' in capsys.readouterr().err and not (tmp_path / 'out').exists()
    assert cli.main([*command, '2']) == 0
    bad = json.loads((tmp_path / 'out' / 'bad.json').read_text(encoding='utf-8'))
    assert [(entry['line'], entry['field']) for entry in bad] == [(2, 'answer'), (3, None)]


def test_all_are_tried():
    # tfds_test makes its own folder; beir_test covers BEIR's questions.
    assert {name for name, source in known_datasets.SOURCES.items() if source.makes == 'examples'} - {'tfds', 'beir_queries'
                                                                                                      } == set(COMMANDS)
