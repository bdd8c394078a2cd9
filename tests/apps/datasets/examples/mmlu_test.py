import gzip
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from atlas_jax.apps.datasets.examples import mmlu
from tests.testing import published

AUXILIARY = ['Auxiliary question 0?', 'Auxiliary question 1?', 'Auxiliary question 2?', 'Auxiliary question 3?', 'Auxiliary question 4?',
             'A long text.\n\nWhat is it?']


def test_the_groups_have_57_subjects():
    assert len(mmlu.GROUP_OF) == 57
    sizes = {group: len(subjects.split()) for group, subjects in mmlu.GROUPS.items()}
    assert sizes == {'STEM': 18, 'humanities': 13, 'social sciences': 12, 'other': 14}


def test_csv_files(tmp_path):
    made = published.asked('mmlu', tmp_path, 'mmlu/data', held_back=2)
    assert {output: len(examples) for output, examples in made.items()} == {
        'dev': 3, 'dev.anatomy': 2, 'dev.formal_logic': 1, 'val': 1, 'val.anatomy': 1, 'test': 2, 'test.anatomy': 1,
        'test.world_religions': 1, 'full': 4 + 3, 'full_valid': 2}
    assert (made['dev'][1].query, made['dev'][1].target) == (
        'question: Which of these, if any, is a "bone"? options: (A) femur (B) skin (C) liver (D) hair answer: <extra_id_0>',
        '<extra_id_0> A')
    # A question on two lines, an option with a comma, and an option that is the word None.
    assert made['dev'][2].query.endswith('All p are q. options: (A) x (B) y (C) z, or w (D) None answer: <extra_id_0>')
    assert made['test.world_religions'][0].query.startswith('question: Когда была основана Лхаса? options: (A) 7th century')
    # Every machine holds back the same questions, and does not train on them.
    held, trained = ([example.question for example in made[output]] for output in ('full_valid', 'full'))
    assert held == ['Auxiliary question 2?', 'Auxiliary question 3?'] and sorted(held + trained[:4]) == sorted(AUXILIARY)
    assert trained[4:] == [example.question for example in made['dev']]


def test_rows_have_subject_and_group():
    rows, _ = published.read('mmlu', 'mmlu/data', held_back=1)
    assert {(row['subject'], row['group']) for row in rows['test']} == {('anatomy', 'other'), ('world_religions', 'humanities')}
    assert {(row['subject'], row['group']) for row in rows['full']} >= {('arc_easy', 'auxiliary'), ('formal_logic', 'humanities')}


def test_files_of_some_splits_make_these_alone(tmp_path):
    shutil.copytree(published.FOLDER / 'mmlu/data/dev', tmp_path / 'dev')
    assert sorted(published.read('mmlu', tmp_path)[0]) == ['dev', 'dev.anatomy', 'dev.formal_logic']
    assert sorted(published.read('mmlu', 'mmlu/data/test/anatomy_test.csv')[0]) == ['test', 'test.anatomy']


def test_parquet_files_give_the_same(tmp_path):
    # The csv files' rows in Hugging Face's form: answers as numbers, and auxiliary questions without a subject.
    rows, _ = published.read('mmlu', 'mmlu/data', held_back=2)

    def write(name: str, examples: list[dict], *, nested: bool = False) -> None:
        columns = {'question': [row['question'] for row in examples], 'choices': [list(row['options'].values()) for row in examples],
                   'subject': ['' if row['group'] == 'auxiliary' else row['subject'] for row in examples],
                   'answer': ['ABCD'.index(row['answer']) for row in examples]}
        table = pyarrow.table(columns)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table({'train': table.to_struct_array()}) if nested else table, path)

    for split, name in (('dev', 'dev'), ('val', 'validation'), ('test', 'test')):
        write(f'all/{name}-00000-of-00001.parquet', rows[split])
    auxiliary = sorted((row for row in rows['full'] + rows['full_valid'] if row['group'] == 'auxiliary'),
                       key=lambda row: AUXILIARY.index(row['question']))
    write('all/auxiliary_train-00000-of-00001.parquet', auxiliary)
    write('anatomy/test-00000-of-00001.parquet', rows['test'][:1])  # also in `all`
    expected = {output: [row | {'subject': 'auxiliary'} if row['group'] == 'auxiliary' else row for row in examples]
                for output, examples in rows.items()}
    assert published.read('mmlu', tmp_path, held_back=2) == (expected, [])
    write('auxiliary_train/train-00000-of-00001.parquet', auxiliary, nested=True)
    nested, bad = published.read('mmlu', tmp_path / 'auxiliary_train/train-00000-of-00001.parquet', held_back=2)
    assert not bad and nested['full_valid'] == expected['full_valid']


@pytest.mark.parametrize(('line', 'said'), [
    ('q,a,b,c,d', '5 columns, expected 6'), ('q,a,b,c,d,E', 'expected a letter from A to D, or a number from 0 to 3, found \'E\''),
    ('q,a,,c,d,B', 'the right option, B, is blank'), (',a,b,c,d,B', 'field "question": expected a text')])
def test_bad_rows_are_told_with_their_line(tmp_path, line, said):
    path = tmp_path / 'anatomy_test.csv'
    path.write_text(f'"q\n1",a,b,c,d,A\n{line}\nq3,a,b,c,d,A\n')
    rows, bad = published.read('mmlu', path)
    assert len(rows['test']) == 2 and len(bad) == 1 and said in bad[0] and f'{path}:3' in bad[0]


def test_other_files_are_refused(tmp_path):
    def named(name: str, content: bytes = b'q,a,b,c,d,A\n'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    assert '"alchemy" is not one of the 57 subjects' in published.refusal('mmlu', named('alchemy_test.csv'))
    assert 'its name is not that of a file of MMLU' in published.refusal('mmlu', 'nq_open/NQ-open.dev.jsonl')
    assert 'no csv or parquet files in this folder' in published.refusal('mmlu', 'nq_open')
    assert 'is the same split of anatomy' in published.refusal('mmlu', 'mmlu/data', named('other/anatomy_test.csv'))
    for name, content, said in (('x/anatomy_val.csv', b'', 'the file is empty'), ('x/anatomy_val.csv', b'"q\xff",a,b,c,d,A', 'no csv'),
                                ('dev-00000-of-00001.parquet', b'PAR1', 'no parquet file')):
        with pytest.raises(Exception, match=said):
            published.read('mmlu', named(name, content))
    with pytest.raises(Exception, match=r'no csv \(field larger than field limit'):
        published.read('mmlu', named('anatomy_test.csv.gz', gzip.compress(b'x' * (1 << 22))))
    parquet.write_table(pyarrow.table({'question': ['q']}), tmp_path / 'dev-00000-of-00001.parquet')
    with pytest.raises(Exception, match='expected the columns question, subject, choices, answer, found question'):
        published.read('mmlu', tmp_path / 'dev-00000-of-00001.parquet')
    with pytest.raises(Exception, match='6 auxiliary questions, of which 5,000 cannot be held back'):
        published.read('mmlu', 'mmlu/data')


def test_an_unknown_subject_in_a_row_is_bad(tmp_path):
    table = {'question': ['q', 'r'], 'subject': ['anatomy', 'alchemy'], 'choices': [list('abcd')] * 2, 'answer': [0, 4]}
    parquet.write_table(pyarrow.table(table), tmp_path / 'test-00000-of-00001.parquet')
    rows, bad = published.read('mmlu', tmp_path / 'test-00000-of-00001.parquet')
    assert len(rows['test']) == 1 and 'found 4' in bad[0]
    parquet.write_table(pyarrow.table(table | {'answer': [0, 1]}), tmp_path / 'test-00000-of-00001.parquet')
    assert '\'alchemy\' is not one of the 57 subjects' in published.read('mmlu', tmp_path / 'test-00000-of-00001.parquet')[1][0]
