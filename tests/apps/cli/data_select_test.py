"""`atlas-jax data few_shot` and `atlas-jax data check`, as a user runs them."""

import json
import pathlib
import re
import shlex

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore

ROWS = [{'question': f'What is question number {number} about, in the end?', 'answers': ['x'], 'subject': 'ab'[number % 2]}
        for number in range(12)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (('train.jsonl', ROWS), ('test.jsonl', ROWS[3:5]), ('passages.jsonl', [{'id': 'p', 'text': ROWS[3]['question']}])):
        pathlib.Path(name).write_text('\n'.join(map(json.dumps, rows)) + '\n')


def test_a_choice_and_the_same_from_its_list(capsys):
    assert cli.main(['data', 'few_shot', '--from', 'train.jsonl', '--to', 'few.jsonl', '--n', '2', '--per', 'subject', '--seed', '4']) == 0
    assert capsys.readouterr().out == 'few.jsonl: 4 examples, listed in few.ids\n'
    assert cli.main(['data', 'few_shot', '--from', 'train.jsonl', '--to', 'again.jsonl', '--ids', 'few.ids']) == 0
    assert pathlib.Path('again.jsonl').read_text() == pathlib.Path('few.jsonl').read_text() != ''
    assert cli.main(['data', 'few_shot', '--from', 'few.jsonl', '--to', 'shots', '--n', '2', '--per', 'subject', '--split', 'subject']) == 0
    assert sorted(path.name for path in pathlib.Path('shots').iterdir()) == ['a.ids', 'a.jsonl', 'b.ids', 'b.jsonl']


def test_a_check_with_its_report_and_clean_copies(capsys):
    assert cli.main(['data', 'check', '--train', 'train.jsonl', '--test', 'test.jsonl', '--passages', 'passages.jsonl', '--to', 'out',
                     '--near', '0.9', '--remove']) == 0
    printed = capsys.readouterr().out
    assert 'near-duplicates of a test question in training' in printed and '(50.00%)' in printed
    assert 'out/passages.jsonl: 0 rows kept, 1 left out' in printed
    figures = json.loads(pathlib.Path('out/report.json').read_text())['found']
    assert figures['train_shares_test']['test_rows'] == 2 and figures['passages_share_test']['test_rows'] == 1
    left = [json.loads(line)['question'] for line in pathlib.Path('out/train.jsonl').read_text().splitlines()]
    assert not {row['question'] for row in ROWS[3:5]} & set(left)
    assert cli.main(['data', 'check', '--train', 'train.jsonl', '--near', '1']) == 0 and 'test' not in capsys.readouterr().out


def test_the_commands_of_the_page(tmp_path, capsys):
    """All of docs/data_select.md, one after the other, on small files of the names that stand there."""
    PassageStore.from_passages([Passage(f's{number}', '', '', row['question']) for number, row in enumerate(ROWS)], 'my-store',
                               progress=False)
    many = [{'question': f'Is {number} even?', 'answers': ['x']} for number in range(70)]
    claims = [{'claim': f'Claim {number}', 'label': 'ABC'[number % 3]} for number in range(20)]
    mmlu = [{'question': f'Question {number}?', 'subject': 'ab'[number % 2], 'group': 'g'} for number in range(20)]
    for name, rows in (('train.jsonl', [*many, *ROWS[:4]]), ('fever.jsonl', claims), ('mmlu.jsonl', mmlu),
                       ('train.64-shot.jsonl', many[:64])):
        pathlib.Path(name).write_text('\n'.join(map(json.dumps, rows)))
    pathlib.Path('dataindex.json').write_text('{"train": [3], "dev": [70, 0]}')
    page = (pathlib.Path(__file__).resolve().parents[3] / 'docs' / 'data_select.md').read_text(encoding='utf-8')
    blocks = re.findall(r'^```bash\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for line in ''.join(blocks).splitlines() if line]
    assert len(commands) == 10
    for arguments in commands:
        assert cli.main(arguments) == 0, arguments
    lines = {path.relative_to(tmp_path).as_posix(): path.read_text().count('\n') for path in tmp_path.rglob('*.jsonl')}
    assert (lines['few.jsonl'], lines['paper.jsonl'], lines['fid.jsonl'], lines['fever-15.jsonl']) == (64, 64, 2, 15)
    assert (lines['mmlu-multi-task.jsonl'], lines['mmlu-groups/g.jsonl'], lines['mmlu-subjects/b.jsonl']) == (10, 10, 5)
    assert lines['clean/train.jsonl'] == 73 and len(PassageStore.open('clean/store')) == 10 and pathlib.Path('report/report.json').is_file()


@pytest.mark.parametrize(('words', 'message'), [
    (['few_shot', '--from', 'train.jsonl', '--to', 'f.jsonl', '--n', '3', '--list', 'x'], '--list goes with --ids; leave it out'),
    (['few_shot', '--from', 'train.jsonl', '--to', 'f.jsonl', '--ids', 'test.jsonl', '--seed', '0'], '--seed goes with --n; leave it out'),
    (['few_shot', '--from', 'train.jsonl', '--to', 'train.jsonl', '--n', '3'], 'train.jsonl: is read, and would be written over'),
    (['few_shot', '--from', 'train.jsonl', '--to', 'test.jsonl', '--ids', 'test.jsonl'], 'test.jsonl: is read, and would be'),
    (['few_shot', '--from', 'train.jsonl', 'none*', '--to', 'f.jsonl', '--n', '3'], 'none*: nothing fits this pattern'),
    (['check'], 'give --test with --train, --passages or --store, or --train or --test alone'),
    (['check', '--train', 'train.jsonl', '--store', 's'], 'give --test with'),
    (['check', '--train', 'train.jsonl', '--remove'], '--remove needs --to'),
    (['check', '--test', 'test.jsonl', '--store', 'nowhere'], 'nowhere: no such folder'),
    (['check', '--train', 'train.jsonl', '--near', '0.1'], 'must be between 0.3 and 1'),
    (['check', '--train', 'train.jsonl', '--to', '.', '--remove'], 'train.jsonl: the cleaned copy would replace it')])
def test_mistakes_are_one_line_and_nothing_is_written(capsys, tmp_path, words, message):
    before = sorted(tmp_path.iterdir())
    assert cli.main(['data', *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count('\n') == 1 and sorted(tmp_path.iterdir()) == before
