"""Documents to store to model inputs with the real tokenizers: what a model reads is the tokenised text of the document's passage."""

import json

import numpy as np

from atlas_jax.corpus import documents, passages, store
from atlas_jax.nn import assembly
from atlas_jax.tokenizers import bert_tokenizer, formats, t5_tokenizer
from tests.testing import real_text

FORMAT = 'question: {query} title: {title} context: {text}'


def test_documents_to_inputs(demo_packages, tmp_path):
    texts = real_text.factbook_passages(demo_packages.factbook, 301)
    texts += [('', 'no title'), ('long', ' '.join(f'Sentence {number} has six words.' for number in range(211))),
              ('Ünïcode', 'e\u0301 日本語。文字 ½')]
    rows = [{'id': str(number), 'title': title, 'section': 'facts' if number % 3 else '', 'text': text}
            for number, (title, text) in enumerate(texts)]
    (tmp_path / 'documents.jsonl').write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')
    found = list(passages.split_passages(documents.read_documents(tmp_path)))
    assert len(found) > len(texts) + 10  # the long ones were split
    reader, retriever = t5_tokenizer.T5Tokenizer.from_folder(demo_packages.reader_dir), bert_tokenizer.BertTokenizer.from_folder(
        demo_packages.retriever_dir)
    built = store.PassageStore.from_passages(found, tmp_path / 'store', reader_tokenizer=reader, retriever_tokenizer=retriever,
                                             progress=False)
    built.check_tokenizers(reader, retriever)
    query = 'what is it?'
    for tokenizer, table in ((reader, built.reader_table()), (retriever, built.retriever_table())):
        segments = formats.cut_format(FORMAT, tokenizer.encode)
        ids = np.tile(np.array(tokenizer.encode(query), np.int32), (len(found), 1))
        lengths = np.full(len(found), ids.shape[1], np.int32)
        tokens, lengths = map(np.asarray, assembly.assemble(segments, ids, lengths, table, table.tokens.shape[1] + 64))
        for row, length, passage in zip(tokens, lengths, found, strict=True):
            joined = FORMAT.format(query=query, title=passage.full_title, text=passage.text)
            assert row[:length].tolist() == tokenizer.encode(joined), passage


def test_no_text_is_lost_on_the_way(demo_packages):
    given = [documents.Document(str(number), title, '', text)
             for number, (title, text) in enumerate(real_text.factbook_passages(demo_packages.factbook, 997))]
    for document in given:
        pieces = list(passages.split_passages([document], max_words=23))
        assert ' '.join(piece.text for piece in pieces).split() == document.text.split()
