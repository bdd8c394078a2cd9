import gzip

import pytest

from atlas_jax import errors
from atlas_jax.io import table


def rows(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(table.read(path))


def test_separators_quotes_blank_rows_and_short_rows(tmp_path):
    assert rows(tmp_path / 'a.csv', '\ufeffId, Text \n1,"a, ""b""\nc"\n\n , \n2\n') == [
        (3, {'id': '1', 'text': 'a, "b"\nc'}), (6, {'id': '2', 'text': ''})]
    assert rows(tmp_path / 'b.csv', 'a;b,c;d\n1;2,5;3') == [(2, {'a': '1', 'b,c': '2,5', 'd': '3'})]
    assert rows(tmp_path / 'c.tsv', 'a,b\tc\n1\t2\r\n') == [(2, {'a,b': '1', 'c': '2'})]
    assert rows(tmp_path / 'd.csv.gz', gzip.compress(b'a\n1\n')) == [(2, {'a': '1'})]


@pytest.mark.parametrize(('content', 'message'), [
    ('', 'a.csv:1: the first line is empty; it must name each column'),
    ('a,b\n', 'a.csv: no rows below'),
    ('a,A\n1,2', 'a.csv:1: the first line names the column "a" twice'),
    ('a,,b\n1,2,3', 'a.csv:1: the first line has a column without a name'),
    (','.join(f'c{number}' for number in range(1001)), 'more than a thousand columns'),
    ('a,b\n1,2\n1,2,3', 'a.csv:3: 3 cells, the first line names 2 columns; put cells with commas in quotes'),
    (b'a,b\n1,2\n\xe4,2\n', r'a.csv:\d: not UTF-8'),
    ('a,b\n1,"2', 'a.csv:2: no table'),
    ('a\n"' + 'x' * (5 << 20) + '"', 'no table .field larger than'),
])
def test_faulty_tables(tmp_path, content, message):
    with pytest.raises(errors.InputFileError, match=message) as caught:
        rows(tmp_path / 'a.csv', content)
    assert '\n' not in str(caught.value)
