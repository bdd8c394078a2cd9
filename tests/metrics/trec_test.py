"""Files of TREC: read and written without loss; every broken line is refused with its place."""

import pytest

from atlas_jax import errors
from atlas_jax.metrics import trec


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = {'q2': {'a': 0.1, 'b': 1 / 3, 'c': 1 / 3}, 'q1': {'ü': -2e-9}}
    trec.write_run(tmp_path / 'run.trec', run)
    assert trec.read_run(tmp_path / 'run.trec') == run
    assert (tmp_path / 'run.trec').read_text().splitlines()[:2] == [f'q2 Q0 c 1 {1 / 3!r} atlas_jax', f'q2 Q0 b 2 {1 / 3!r} atlas_jax']


def test_qrels_of_trec_and_of_beir(tmp_path):
    qrels = {'q1': {'a': 1, 'b': 0}, 'q2': {'a': -1}}
    trec.write_qrels(tmp_path / 'qrels', qrels)
    assert trec.read_qrels(tmp_path / 'qrels') == qrels
    (tmp_path / 'test.tsv').write_bytes('\ufeffquery-id\tcorpus-id\tscore\r\nq1\ta\t1\r\n\r\nq1\tb\t0.0\r\nq2\ta\t-1\r\n'.encode())
    assert trec.read_qrels(tmp_path / 'test.tsv') == qrels


@pytest.mark.parametrize(('text', 'says'), [
    ('q Q0 a 1 0.5', ':1: 5 fields, expected 6'), ('q Q0 a 1 0.5 t\nq Q0 b 2 nan t', ':2: the score is'),
    ('q Q0 a 1 x t', ':1: the score is'), ('q Q0 a 1 1e39 t', 'finite'), ('', 'the file is empty'), ('\n \n', 'the file is empty'),
    ('q Q0 a 1 2 t\n\nq Q0 a 2 1 t', ':3: document a is listed twice for query q'), (b'q Q0 \xff 1 2 t', ':1: not UTF-8'),
    ('q' * 70_000, ':1: more than 65,536 bytes')])
def test_broken_runs(tmp_path, text, says):
    (tmp_path / 'run').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.InputFileError) as caught:
        trec.read_run(tmp_path / 'run')
    assert says in str(caught.value) and str(caught.value).startswith(str(tmp_path / 'run')) and '\n' not in str(caught.value)


@pytest.mark.parametrize(('text', 'says'), [
    ('q 0 a', ':1: 3 fields, expected 4'), ('q 0 a 1\nq 0 a 0', ':2: document a is judged twice'), ('q 0 a 0.5', 'whole number'),
    ('q 0 a 99999999', 'whole number'), ('q 0 a --1', 'whole number'), ('query-id\tcorpus-id\tscore\n', 'no judgment below the header'),
    ('query-id\tcorpus-id\tscore\nq a 1', ':2: 1 fields, expected 3'), ('query-id\tcorpus-id\tscore\nq\t\t1', ':2: 3 fields')])
def test_broken_qrels(tmp_path, text, says):
    (tmp_path / 'qrels').write_text(text)
    with pytest.raises(errors.InputFileError) as caught:
        trec.read_qrels(tmp_path / 'qrels')
    assert says in str(caught.value) and '\n' not in str(caught.value)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / 'nothing'):
        with pytest.raises(errors.InputFileError, match=str(path)):
            trec.read_run(path)


def test_unknown_ids_are_one_error(tmp_path):
    qrels = {f'q{i}': {'a': 1, f'lost{i}': 0} for i in range(7)}
    trec.check_ids('test.tsv', {'q0': {'a': 1}}, {'q0'}, {'a'})
    with pytest.raises(errors.InputFileError) as caught:
        trec.check_ids('test.tsv', qrels, {'q1', 'q2'}, {'a', 'lost1'})
    assert 'test.tsv: it names 5 unknown queries (q0, q3, q4, q5, q6) and 6 unknown documents (lost0, lost2, lost3, lost4, lost5, …); ' in (
        str(caught.value))


@pytest.mark.parametrize('name', ['', 'a b', 'a\n', ' a'])
def test_ids_that_the_format_cannot_hold(tmp_path, name):
    for write in (lambda: trec.write_run(tmp_path / 'x', {'q': {name: 1.0}}), lambda: trec.write_qrels(tmp_path / 'x', {name: {'a': 1}})):
        with pytest.raises(errors.ConfigError, match='has white space'):
            write()
    assert not (tmp_path / 'x').exists()
