"""Every searcher through the public surface, one index and two together, on tiny models and made-up texts."""


import collections

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus.passages import Passage
from atlas_jax.knowledge import group as index_group
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks.task import TaskExample
from tests.testing import tiny_run

QUESTIONS = ['what is thing 3 ?', 'red thing', 'black thing 11']


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0)


@pytest.fixture(scope='module')
def indexes(atlas, tmp_path_factory):
    """One index of 17 passages, and the same passages in two of 6 and 11."""
    folder = tmp_path_factory.mktemp('knowledge')
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is {tiny_run.COLOURS[i % 7]} .') for i in range(17)]

    def build(name, documents):
        store = api.PassageStore.build(documents, folder / f'{name}-store', progress=False)
        return api.Index.build(store, atlas, folder / name, show_progress=False)

    return build('whole', documents), build('first', documents[:6]), build('second', documents[6:])


def names(found):
    return [[(passage.passage.docid, round(passage.score, 4)) for passage in passages] for passages in found]


@pytest.mark.parametrize('searcher', ['exact', 'int8', 'scann', SearchConfig('exact', 'cosine')], ids=str)
def test_two_indexes_give_what_one_gives(atlas, indexes, searcher):
    if searcher == 'scann':
        pytest.importorskip('scann')
    whole, first, second = indexes
    alone = atlas.search(QUESTIONS, whole, 4, searcher)
    together = atlas.search(QUESTIONS, [first, second], 4, searcher)
    assert names(alone) == names(together)
    for passages in together:
        assert all(found.index == str((first if int(found.passage.docid[1:]) < 6 else second).index.path) for found in passages)
    if searcher in ('int8', 'scann'):
        # Scored again on the host, whose sums are rounded in another order.
        for mine, exact in zip(alone, atlas.search(QUESTIONS, whole, 4), strict=True):
            assert [found.passage.docid for found in mine] == [found.passage.docid for found in exact]
            assert [found.score for found in mine] == pytest.approx([found.score for found in exact], rel=1e-5)


def test_words_find_what_has_them(atlas, indexes):
    pytest.importorskip('bm25s')
    whole, first, second = indexes
    found = atlas.search(['pink', 'zebra'], whole, 5, 'bm25')
    assert {passage.passage.docid for passage in found[0]} == {'d6', 'd13'} and found[1] == []
    assert (whole.index.path / 'bm25').is_dir()
    both = atlas.search(['pink thing'], [first, second], 5, 'hybrid')
    assert {passage.passage.docid for passage in both[0]} >= {'d6', 'd13'} and len(both[0]) == 5


def test_answers_say_which_index_they_come_from(atlas, indexes):
    pytest.importorskip('bm25s')
    _, first, second = indexes
    answers = atlas.answer(['is anything pink ?', 'what is white ?'], [first, second], n_context=3, search='bm25')
    assert [passage.docid for passage in answers[0].passages] == ['d6', 'd13']
    assert {passage.index for passage in answers[0].passages} == {str(second.index.path)}
    found = {(passage.docid, passage.index) for passage in answers[1].passages}
    assert found == {('d3', str(first.index.path)), ('d10', str(second.index.path))}


def test_searchers_follow_changes_of_the_index(atlas, indexes, tmp_path):
    pytest.importorskip('bm25s'), pytest.importorskip('scann')
    documents = [documents_lib.Document(f'n{i}', '', '', f'number {i} is {tiny_run.COLOURS[i]} .') for i in range(4)]
    index = api.Index.build(api.PassageStore.build(documents, tmp_path / 'store', progress=False), atlas, tmp_path / 'index',
                            show_progress=False)
    assert [len(atlas.search(['red number'], index, 9, searcher)[0]) for searcher in ('scann', 'bm25', 'int8')] == [4, 4, 4]
    index.delete(['n0'])
    index.replace([Passage('n9', '', '', 'another red number')], atlas)
    for opened in (index, api.Index.open(tmp_path / 'index')):
        for searcher in ('scann', 'bm25', 'int8', 'hybrid'):
            docids = {found.passage.docid for found in atlas.search(['red number'], opened, 9, searcher)[0]}
            assert docids == {'n1', 'n2', 'n3', 'n9'}, searcher


def test_an_examples_own_passages_have_rows_in_every_index(atlas, indexes):
    whole, first, second = indexes
    group = index_group.as_group([first, whole])
    examples = [TaskExample('q', 't', [], 0, own_docid='d2'), TaskExample('q', 't', [], 1),
                TaskExample('q', 't', [], 2, own_docid='d7', hidden_docids=('d5',))]
    rows = index_group.kept_rows(group, examples, atlas.mesh)
    padded = index_group.padded_rows(6, atlas.mesh)
    assert rows == {0: [2, padded + 2], 2: [padded + 7, 5, padded + 5]}
    assert group.locate(padded + 7, atlas.mesh) == (whole, 7)
    assert index_group.kept_rows(group, examples[1:2], atlas.mesh) is None


def test_indexes_of_different_kinds_are_refused(atlas, indexes, tmp_path):
    whole = indexes[0]
    other = api.Index.build(whole.store, atlas, tmp_path / 'other', dtype='int8', show_progress=False)
    with pytest.raises(errors.ConfigError, match='one dim and one dtype'):
        atlas.answer(['?'], [whole, other])
    with pytest.raises(errors.ConfigError, match='SearchConfig.searcher is "faiss"'):
        atlas.search(['?'], whole, 1, 'faiss')
    assert np.isfinite(atlas.search(QUESTIONS[:1], other, 3, 'int8')[0][2].score)


def test_other_questions_and_an_added_passage_compile_nothing(atlas, indexes, tmp_path):
    index = tiny_run.index(atlas, tmp_path)
    atlas.answer(['what is thing 1 ?'], index)
    atlas.search(['thing 1'], index, 2)
    atlas.answer(['what is thing 1 ?'] * 3, index)
    compiled = collections.Counter()
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.update([name.rpartition('/')[2]]))
    jax.jit(lambda x: x + 1)(np.arange(3))
    assert compiled.pop('backend_compile_duration') == 1  # the listener hears
    [answer] = atlas.answer(['what colour does thing 5 have , what colour do things 6 and 7 ?'], index)
    atlas.search(['a thing that has more words than the one before'], index, 2)
    assert len(atlas.answer(['what is thing 1 ?', 'thing', 'colour ?', 'what is thing 2 ?'], index)) == 4
    assert not compiled['backend_compile_duration'] and len(answer.passages) == 2
    index.replace([Passage('new', 'thing 99', '', 'The thing 99 , which nobody knows , is red .')], atlas)
    compiled.clear()  # embedding may compile
    [answer] = atlas.answer(['what is thing 99 ?'], index)
    assert not compiled['backend_compile_duration'] and len(answer.passages) == 2
    # What is measured is no accident of this model: another number of passages is another program.
    atlas.answer(['what is thing 99 ?'], index, n_context=3)
    assert compiled['backend_compile_duration']
