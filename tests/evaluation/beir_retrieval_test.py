"""A retriever alone: the scores of its search against trec_eval, its index, and pieces of documents."""

import pytest
import pytrec_eval

from atlas_jax import errors
from atlas_jax.evaluation import beir_folder, beir_retrieval
from tests.evaluation import beir_folder_test
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    path = tmp_path_factory.mktemp('beir')
    beir_folder_test.write(path / 'data', beir_folder_test.CORPUS, beir_folder_test.QUERIES, beir_folder_test.QRELS)
    atlas, folder = tiny_run.atlas(dropout_rate=0.0), beir_folder.read(path / 'data')
    index = beir_retrieval.open_or_build(folder, atlas, path / 'out')
    run = beir_retrieval.search(atlas, folder, index, batch_size=4)
    return atlas, folder, index, beir_folder.scored(folder, run), run, path


def test_scores_equal_trec_eval_on_the_same_run(evaluated):
    _, folder, _, rows, run, _ = evaluated
    assert [row['example_id'] for row in rows] == list(run) == ['q0', 'q1', 'q2', 'q3', 'q4', 'd7']
    # All documents except the query itself.
    assert [len(found) for found in run.values()] == [23] * 5 + [22] and 'd7' not in run['d7']
    theirs = pytrec_eval.RelevanceEvaluator(folder.qrels, {'ndcg_cut.10', 'recall.100', 'recip_rank', 'map', 'P.10'}).evaluate(run)
    for row in rows:
        for ours, name in (('ndcg_at_10', 'ndcg_cut_10'), ('recall_at_100', 'recall_100'), ('mrr', 'recip_rank'), ('map', 'map'),
                           ('precision_at_10', 'P_10')):
            assert row[ours] == pytest.approx(theirs[row['example_id']][name], abs=1e-9)
    assert rows[0]['question'] == rows[0]['query'] == 'what is thing 0 ?' and 0 < rows[0]['ndcg_at_10'] < 1


def test_scores_are_those_of_the_index(evaluated):
    atlas, _, index, _, run, _ = evaluated
    found = atlas.search(['what is thing 3 ?'], index, 23)[0]
    assert run['q3'] == pytest.approx({each.passage.docid: each.score for each in found}, abs=1e-5)


def test_a_finished_index_is_taken_as_it_is(evaluated, tmp_path):
    atlas, folder, index, *_, path = evaluated
    before = (path / 'out' / 'index' / 'manifest.json').read_text()
    assert len(beir_retrieval.open_or_build(folder, atlas, path / 'out').store) == 23
    assert (path / 'out' / 'index' / 'manifest.json').read_text() == before
    beir_folder_test.write(tmp_path, [*beir_folder_test.CORPUS, {'_id': 'more', 'text': 'x'}], beir_folder_test.QUERIES,
                           f'{beir_folder_test.QRELS}\nq0\tmore\t1')
    more = beir_folder.read(tmp_path)
    with pytest.raises(errors.IndexFolderError, match='it has 23 documents, .* 24; give another folder'):
        beir_retrieval.open_or_build(more, atlas, path / 'out')
    with pytest.raises(errors.IndexFolderError, match=r'lacks 1 of 7 relevant documents \(more\)'):
        beir_retrieval.search(atlas, more, index)


def test_the_best_piece_of_a_document_counts():
    found = [('a#1', 3.0), ('x', 2.5), ('a#0', 2.0), ('b', 1.0), ('q', .5), ('c#d', .1)]
    assert list(beir_retrieval._by_document(found, frozenset(['a', 'b', 'q', 'c#d']), 'q')) == [('a', 3.0), ('b', 1.0), ('c#d', .1)]
