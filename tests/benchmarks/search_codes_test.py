"""The benchmarks of codes: what they say of memory, rows of half the bytes, and that other answers end the command."""

import importlib
import json
import sys

import numpy as np
import pytest
import search_codes
import search_sides
import search_vectors

codes_answers = importlib.import_module('codes_answers')


def test_vectors_in_half_the_bytes_are_those_in_all(tmp_path):
    found = {}
    for suffix in search_vectors.TYPES:
        file = tmp_path / f'vectors{suffix}'
        queries = search_vectors.write(file, rows=97, queries=7)
        found[suffix] = search_vectors.read(file), queries, file.stat().st_size
        assert search_vectors.rows_of(file) == 97 and found[suffix][0].dtype == queries.dtype == np.float32
    np.testing.assert_allclose(found['.f16'][0], found['.f32'][0], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found['.f16'][1], found['.f32'][1])
    assert found['.f32'][2] == 2 * found['.f16'][2]


def test_candidates_of_the_host_are_scored_by_an_int8_index(tmp_path):
    vectors = tmp_path / 'vectors.f16'
    queries = search_vectors.write(vectors, rows=800, queries=5)
    searches = search_sides.codes_host(vectors, 20)
    truth = np.argsort(-(queries @ search_vectors.read(vectors).T), axis=1)[:, :20]
    for name in ('codes on the host, 100 rescored', 'codes on the host, 100 rescored, cold'):
        found = searches[name](queries)
        assert np.mean([np.isin(true, row).mean() for true, row in zip(truth, found, strict=True)]) >= .95
    assert search_sides._index(vectors).info()['dtype'] == 'int8' and search_sides.ENCODING[96]['rows_per_second'] > 0
    assert len(searches) == 6


@pytest.mark.parametrize(('searcher', 'vectors', 'expected'), [
    ('exact', 'f32', 3072), ('int8_index', 'f32', 772), ('codes on the host, 300 rescored', 'f16', 100),
    ('codes, 192 bytes, 300 rescored', 'f32', 3072 + 196), ('codes, 96 bytes, 100 rescored', 'f16', 772 + 100),
    ('faiss_rabitq, 300 rescored', 'f16', 772 + 104), ('scann', 'f32', 3072 + 192)])
def test_bytes_in_memory(searcher, vectors, expected):
    assert search_codes.resident_bytes({'searcher': searcher, 'vectors': vectors}) == expected


@pytest.mark.parametrize(('right', 'code'), [(400, 0), (399, 0), (396, 'exact match differs by 0.0100, more than 0.005')])
def test_answers_that_differ_end_the_command(tmp_path, monkeypatch, right, code):
    def run(*arguments):
        if arguments[0] != 'evaluate':
            return
        given = dict(zip(arguments, arguments[1:], strict=False))
        count = right if 'codes' in arguments else 400
        figures = {'exact_match': count / 400, 'f1': 1, 'questions': 400, 'gold_recall_at_5': .9, 'seconds': 1.0}
        rows = [{'prediction': 'red' if row < count else 'blue', 'passages': [{'docid': f'd{row}'}]} for row in range(400)]
        for name, text in (('--json', json.dumps(figures)), ('--results', '\n'.join(map(json.dumps, rows)))):
            with open(given[name], 'w', encoding='utf-8') as file:
                file.write(text)

    for name in ('index', 'store'):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(codes_answers, '_run', run)
    monkeypatch.setattr(sys, 'argv', ['codes_answers.py', '--demo', str(tmp_path), '--sides', 'exact', 'codes', '--json', f'{tmp_path}/f'])
    with pytest.raises(SystemExit) as ended:
        codes_answers.main()
    assert ended.value.code == code
    sides = json.loads((tmp_path / 'f').read_text())['sides']
    assert sides['codes']['other_answers'] == 400 - right and sides['codes']['other_passages'] == sides['exact']['other_answers'] == 0
