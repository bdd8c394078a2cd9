import concurrent.futures
import dataclasses
import threading

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus import store as corpus_store
from atlas_jax.corpus import store_arrays, store_text
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.passages import Passage
from tests.testing.fake_tokenizer import FakeTokenizer

READER, RETRIEVER = FakeTokenizer('reader', 101), FakeTokenizer('retriever', 70001)


def passage(number: int, words: int = 5, name: str = 'p') -> Passage:
    return Passage(f'{name}{number}', f'Title {number}', 'Sec' if number % 3 == 0 else '', ' '.join(f'w{number + i}' for i in range(words)))


PASSAGES = [passage(i, words=1 + i * 7 % 13) for i in range(17)]


def build(path, passages=PASSAGES, tokenizers=(READER, RETRIEVER)):
    reader, retriever = tokenizers or (None, None)
    return corpus_store.PassageStore.from_passages(iter(passages), path, reader_tokenizer=reader, retriever_tokenizer=retriever,
                                                   progress=False)


def ids(tokenizer, passage):
    return tokenizer.encode(passage.full_title) + tokenizer.encode(passage.text)


def rows_of_table(table):
    return [table.tokens[row, :length].tolist() for row, length in enumerate(table.lengths)]


def test_gives_back_what_was_built(tmp_path):
    built = build(tmp_path / 'new' / 'store')
    for store in (built, corpus_store.PassageStore.open(tmp_path / 'new' / 'store')):
        assert len(store) == 17 and list(store) == PASSAGES
        assert store[-1] == PASSAGES[-1] and store[np.int32(3)] == PASSAGES[3]
        assert [store.docid(row) for row in range(17)] == [each.docid for each in PASSAGES]
        assert store.rows_of(['p11', 'p3']).tolist() == [11, 3] and store.rows_of([]).shape == (0,)
        assert store.path == tmp_path / 'new' / 'store'
        store.verify()
    with pytest.raises(IndexError):
        built[17]


@dataclasses.dataclass
class Model:
    """A model as `build` knows it."""

    reader_tokenizer: FakeTokenizer
    retriever_tokenizer: FakeTokenizer


def test_a_document_is_found_whole_or_by_its_pieces(tmp_path):
    named = [dataclasses.replace(passage(0), docid=docid) for docid in ('a', 'b#0', 'b#1', 'b#3', 'c#1')]
    store = build(tmp_path, named)
    assert store.rows_of_document('a') == [0] and store.rows_of_document('b') == [1, 2] and store.rows_of_document('b#3') == [3]
    assert store.rows_of_document('c') == [] and store.rows_of_document('d') == []


def test_builds_from_documents_and_from_a_folder_of_them(tmp_path):
    (tmp_path / 'documents').mkdir()
    (tmp_path / 'documents' / 'a.txt').write_text('One two three. Four five six seven.')
    documents = [Document('b', 'B', '', 'eight'), Document('c', '', 'C', 'nine ten')]
    from_folder = corpus_store.PassageStore.build(tmp_path / 'documents', tmp_path / 'one', max_words=5, progress=False)
    assert [(each.docid, each.text) for each in from_folder] == [('a.txt#0', 'One two three.'), ('a.txt#1', 'Four five six seven.')]
    from_documents = corpus_store.PassageStore.build(iter(documents), tmp_path / 'two', atlas=Model(READER, RETRIEVER), progress=False)
    assert list(from_documents) == [Passage('b', 'B', '', 'eight'), Passage('c', '', 'C', 'nine ten')]
    assert from_documents.reader_lengths.tolist() == [2, 3]
    with pytest.raises(errors.StoreError, match='not tokenised'):
        from_folder.reader_table()


def test_build_refuses_what_cannot_be_cut_or_read(tmp_path):
    with pytest.raises(errors.InputFileError, match='no such file or folder'):
        corpus_store.PassageStore.build(tmp_path / 'missing', tmp_path / 's', progress=False)
    with pytest.raises(errors.ConfigError, match='max_words is 0'):
        corpus_store.PassageStore.build([Document('a', '', '', 'a')], tmp_path / 's', max_words=0, progress=False)
    with pytest.raises(errors.StoreError, match='no passages'):
        corpus_store.PassageStore.build([], tmp_path / 's', progress=False)
    assert not (tmp_path / 's').exists()


def test_keeps_text_to_the_letter_across_batches(tmp_path):
    odd = ['Zürich ☃ 東京', ' two\n\nparagraphs\t', '\0 zero', '🦊' * 99, 'a']
    passages = [Passage(f'd/{i}#é', odd[-i % 5], '', odd[i % 5]) for i in range(2 * store_text.BATCH_ROWS + 3)]
    store = build(tmp_path / 's', passages, tokenizers=None)
    assert list(store) == passages and store.rows_of(['d/2050#é']).tolist() == [2050]


@pytest.mark.parametrize('side, tokenizer, dtype', [('reader', READER, np.uint16), ('retriever', RETRIEVER, np.uint32)])
def test_tables_hold_title_then_text(tmp_path, side, tokenizer, dtype):
    store = build(tmp_path / 's')
    table = getattr(store, f'{side}_table')()
    assert table.tokens.shape == (17, 128) and table.tokens.dtype == dtype
    assert table.lengths.dtype == table.title_lengths.dtype == np.int32
    assert rows_of_table(table) == [ids(tokenizer, each) for each in PASSAGES]
    assert not table.tokens[np.arange(128) >= table.lengths[:, None]].any()
    assert table.title_lengths.tolist() == [len(tokenizer.encode(each.full_title)) for each in PASSAGES]
    assert getattr(store, f'{side}_lengths').tolist() == table.lengths.tolist()


@pytest.mark.parametrize('limit', [1, 2, 7, 127, 128, 129, 500])
def test_max_tokens_cuts_tokens_and_lengths_alike(tmp_path, limit):
    passages = [passage(0, 1), passage(1, 126), passage(2, 127), passage(3, 301)]
    store = build(tmp_path / 's', passages)
    table = store.reader_table(max_tokens=limit)
    assert rows_of_table(table) == [ids(READER, each)[:limit] for each in passages]
    assert table.tokens.shape[1] == -(-min(limit, 304) // 128) * 128
    assert table.title_lengths.tolist() == [min(limit, 3 if i % 3 == 0 else 2) for i in range(4)]
    assert not table.tokens[np.arange(table.tokens.shape[1]) >= table.lengths[:, None]].any()
    assert store.reader_lengths.max() == 304, 'lengths are those before any cut'


def test_width_may_be_given(tmp_path):
    store = build(tmp_path / 's')
    assert store.reader_table(384).tokens.shape == (17, 384)
    for width, limit in ((100, None), (0, None), (128, 0)):
        with pytest.raises(errors.ConfigError, match='multiple of 128|at least 1'):
            store.reader_table(width, max_tokens=limit)


def test_empty_titles_and_texts_without_tokens(tmp_path):
    class Blind(FakeTokenizer):
        def encode(self, text):
            return []
    store = build(tmp_path / 's', [Passage('a', '', '', 'x')], (Blind(), READER))
    assert store.reader_table().tokens.shape == (1, 128) and store.reader_lengths.tolist() == [0]
    assert store.retriever_table().title_lengths.tolist() == [0] and store.retriever_lengths.tolist() == [1]


def test_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(store_arrays, 'CHUNK_VALUES', 31)
    monkeypatch.setattr(store_text, 'BATCH_ROWS', 4)
    monkeypatch.setattr('atlas_jax.corpus.store_tokens._TABLE_ROWS', 3)
    store = build(tmp_path / 's')
    store.append([passage(40, 2), passage(41, 211)], progress=False)
    everything = [*PASSAGES, passage(40, 2), passage(41, 211)]
    assert list(store) == everything and rows_of_table(store.retriever_table()) == [ids(RETRIEVER, each) for each in everything]


def test_append_adds_rows_and_supersedes(tmp_path):
    store = build(tmp_path / 's')
    before = store.fingerprint
    changed = Passage('p3', 'New', '', 'changed text')
    store.append([changed, passage(99)], progress=False)
    for each in (store, corpus_store.PassageStore.open(tmp_path / 's')):
        assert len(each) == 19 and each[17] == changed and each[3] == PASSAGES[3]
        assert each.rows_of(['p3', 'p99', 'p4']).tolist() == [17, 18, 4]
        assert rows_of_table(each.reader_table())[17] == ids(READER, changed)
        assert each.fingerprint == store.fingerprint != before


def test_append_after_open_needs_the_tokenizers(tmp_path):
    build(tmp_path / 's')
    store = corpus_store.PassageStore.open(tmp_path / 's')
    with pytest.raises(errors.StoreError, match='needs its tokenizers'):
        store.append([passage(50)], progress=False)
    with pytest.raises(errors.StoreError, match='reader-101'):
        store.append([passage(50)], reader_tokenizer=RETRIEVER, retriever_tokenizer=RETRIEVER, progress=False)
    store.append([passage(50)], reader_tokenizer=READER, retriever_tokenizer=RETRIEVER, progress=False)
    again = corpus_store.PassageStore.open(tmp_path / 's')
    again.check_tokenizers(READER, RETRIEVER)
    again.append([passage(51)], progress=False)
    assert len(again) == 19


def test_append_goes_on_from_what_others_appended(tmp_path):
    first, second = build(tmp_path / 's'), build(tmp_path / 't', tokenizers=None)
    other = corpus_store.PassageStore.open(tmp_path / 's')
    first.append([passage(60)], progress=False)
    other.append([passage(61)], reader_tokenizer=READER, retriever_tokenizer=RETRIEVER, progress=False)
    assert [other.docid(row) for row in (17, 18)] == ['p60', 'p61'] and len(first) == 18
    second.append([passage(60)], progress=False)
    assert len(second) == 18
    with pytest.raises(errors.StoreError, match='not tokenised'):
        second.check_tokenizers(READER, RETRIEVER)


def test_text_alone_is_tokenised_later(tmp_path):
    store, whole = build(tmp_path / 's', tokenizers=None), build(tmp_path / 'whole')
    for ask in (store.reader_table, store.retriever_table, lambda: store.reader_lengths,
                lambda: store.check_tokenizers(READER, RETRIEVER)):
        with pytest.raises(errors.StoreError, match=r'not tokenised; call store.tokenize\('):
            ask()
    store.append([passage(70)], progress=False)
    whole.append([passage(70)], progress=False)
    store.tokenize(READER, RETRIEVER, progress=False)
    for each in (store, corpus_store.PassageStore.open(tmp_path / 's')):
        np.testing.assert_array_equal(each.reader_table().tokens, whole.reader_table().tokens)
        np.testing.assert_array_equal(each.retriever_table().tokens, whole.retriever_table().tokens)
        each.check_tokenizers(READER, RETRIEVER)
        assert each.fingerprint == whole.fingerprint
        each.verify()
    store.append([passage(71)], progress=False)
    assert len(store.reader_lengths) == 19


def test_tokenize_again_does_nothing_or_refuses(tmp_path):
    store = build(tmp_path / 's')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    store.tokenize(READER, RETRIEVER, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with pytest.raises(errors.StoreError, match='reader tokenizer reader-101, not of other-101'):
        store.tokenize(FakeTokenizer('other'), RETRIEVER, progress=False)
    with pytest.raises(errors.StoreError, match='retriever tokenizer retriever-70001, not of other-101'):
        store.check_tokenizers(READER, FakeTokenizer('other'))


def test_tokenize_sees_that_another_process_has_done_it(tmp_path):
    store = build(tmp_path / 's', tokenizers=None)
    corpus_store.PassageStore.open(tmp_path / 's').tokenize(READER, RETRIEVER, progress=False)
    store.tokenize(READER, RETRIEVER, progress=False)
    assert len(store.reader_lengths) == 17


def test_fingerprint_is_of_contents(tmp_path):
    prints = [build(tmp_path / 'a').fingerprint, build(tmp_path / 'b', PASSAGES[::-1]).fingerprint,
              build(tmp_path / 'c', PASSAGES[:-1]).fingerprint, build(tmp_path / 'd', tokenizers=None).fingerprint,
              build(tmp_path / 'e', tokenizers=(FakeTokenizer('x'), RETRIEVER)).fingerprint]
    assert len(set(prints)) == 5 and build(tmp_path / 'f').fingerprint == prints[0]
    assert all(len(each) == 16 for each in prints)


@pytest.mark.parametrize('passages, message', [
    ([], 'no passages'),
    ([PASSAGES[0], PASSAGES[1], PASSAGES[0]], 'docid "p0" occurs twice'),
    ([Passage('a', '', '', ' \n')], "passage 'a': text is empty"),
    ([Passage('', '', '', 'x')], 'docid is empty'),
    ([Passage('a', None, '', 'x')], 'title is NoneType'),
    ([Passage('a', '', '', 'x \ud800')], 'not valid Unicode'),
    (['a text'], 'expected passages, found str'),
])
def test_unfit_passages_leave_nothing(tmp_path, passages, message):
    with pytest.raises(errors.StoreError, match=message) as caught:
        build(tmp_path / 's', passages)
    assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())
    store = build(tmp_path / 's')
    with pytest.raises(errors.StoreError, match=message):
        store.append(passages, progress=False)
    assert list(corpus_store.PassageStore.open(tmp_path / 's')) == list(store) == PASSAGES


def test_failing_source_leaves_nothing(tmp_path):
    def source():
        yield PASSAGES[0]
        raise errors.InputFileError('file.jsonl', 'broken', line=2)
    with pytest.raises(errors.InputFileError):
        build(tmp_path / 's', source())
    assert not list(tmp_path.iterdir())


def test_unknown_docids(tmp_path):
    store = build(tmp_path / 's')
    for docids, message in ((['p1', 'nobody'], 'no passage "nobody"'), ([7], 'no passage "7"'), ('p1', 'give a list'),
                            (['\ud800'], 'no passage')):
        with pytest.raises(errors.StoreError, match=message):
            store.rows_of(docids)


def test_docids_of_the_same_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(store_text, '_hash', lambda docid: 5)
    store = build(tmp_path / 's')
    store.append([passage(2)], progress=False)
    assert store.rows_of(['p2', 'p9', 'p16']).tolist() == [17, 9, 16]
    with pytest.raises(errors.StoreError):
        store.rows_of(['p17'])


def test_one_tokenizer_is_not_enough(tmp_path):
    with pytest.raises(errors.ConfigError, match='both'):
        build(tmp_path / 's', tokenizers=(READER, None))
    assert not list(tmp_path.iterdir())


def test_ids_beyond_the_vocabulary(tmp_path):
    class Wrong(FakeTokenizer):
        def encode(self, text):
            return [self.vocab_size]
    with pytest.raises(errors.StoreError, match='gave id 101, its vocabulary has 101'):
        build(tmp_path / 's', tokenizers=(Wrong(), READER))


def test_readers_in_threads(tmp_path):
    store = build(tmp_path / 's', [passage(i) for i in range(3001)], tokenizers=None)
    start = threading.Barrier(4)

    def read(offset):
        start.wait()
        return [store[row].docid for row in range(offset, 3001, 211)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, range(4)))
    assert found == [[f'p{row}' for row in range(offset, 3001, 211)] for offset in range(4)]
