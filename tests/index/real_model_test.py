"""Real passages, tokenizers and retriever: store, index and search together, against Hugging Face's PyTorch model."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.searchers import exact
from atlas_jax.tokenizers import formats
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer
from tests.testing import loaded, real_text

pytestmark = pytest.mark.optimized

LIMIT = 61


@pytest.fixture(scope='module')
def retriever(demo_packages):
    """Tokenizer, configuration, parameters."""
    return BertTokenizer.from_folder(demo_packages.retriever_dir), *loaded.contriever(demo_packages.retriever_dir)


@pytest.fixture
def store(demo_packages, retriever, tmp_path):
    found = real_text.factbook_passages(demo_packages.factbook, 17)
    pieces = [corpus_passages.Passage(f'fact{i}', title, 'facts' if i % 2 else '', text) for i, (title, text) in enumerate(found)]
    return PassageStore.from_passages(pieces, tmp_path / 'store', reader_tokenizer=T5Tokenizer.from_folder(demo_packages.reader_dir),
                                      retriever_tokenizer=retriever[0], progress=False)


def embedder(retriever, template='{title} {text}', limit=LIMIT):
    tokenizer, config, params = retriever
    cut = formats.cut_format(template, tokenizer.encode, prefix_ids=(tokenizer.cls_id,), suffix_ids=(tokenizer.sep_id,))
    return PassageEmbedder(config, params, cut, limit)


@pytest.mark.torch
def test_embeddings_equal_hugging_face(demo_packages, retriever, store, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    with jax.default_matmul_precision('highest'):
        found = EmbeddingIndex.build(store, embedder(retriever), tmp_path / 'index', progress=False).embeddings(np.arange(17))
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_packages.retriever_dir)
    model = transformers.AutoModel.from_pretrained(demo_packages.retriever_dir).eval()
    texts = [f'{store[row].full_title} {store[row].text}' for row in range(17)]
    inputs = tokenizer(texts, max_length=LIMIT, truncation=True, padding=True, return_tensors='pt')
    with torch.no_grad():
        states = model(**inputs).last_hidden_state * inputs['attention_mask'][..., None]
        expected = torch.nn.functional.normalize(states.sum(1) / inputs['attention_mask'].sum(1, keepdim=True)).numpy()
    assert inputs['attention_mask'].sum(1).max() == LIMIT > inputs['attention_mask'].sum(1).min()
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-5


def test_edited_knowledge_is_found(retriever, store, tmp_path):
    model, mesh = embedder(retriever), partitioning.make_mesh()
    index = EmbeddingIndex.build(store, model, tmp_path / 'index', progress=False)
    text = 'The lighthouse keeper of Zanzibar collects purple umbrellas.'
    store.append([corpus_passages.Passage('fact3', 'Zanzibar', '', text)], progress=False)
    with pytest.raises(errors.IndexFolderError, match='index add'):
        index.check(store, model)
    assert index.add(store, model, progress=False) == 1
    assert np.flatnonzero(index.deleted).tolist() == [3]
    index.check(PassageStore.open(store.path), model)

    def best(query):
        tokenizer = retriever[0]
        pair = dataclasses.replace(store[0], docid='query', title='', section='', text=query)
        lone = PassageStore.from_passages([pair], tmp_path / query[:5], reader_tokenizer=tokenizer, retriever_tokenizer=tokenizer,
                                          progress=False)
        vector = embedder(retriever, '{text}').embed(lone.retriever_table(), np.array([0]))
        return exact.search(index.device_arrays(mesh), vector, 3, mesh).passage_ids[0].tolist()

    assert best('Who collects umbrellas?')[0] == 17
    index.delete(['fact3'], store)
    assert 17 not in best('Which umbrellas?') and 3 not in best('Umbrellas')


def test_another_format_is_another_model_and_another_limit_is_said(retriever, store, tmp_path, capsys):
    index = EmbeddingIndex.build(store, embedder(retriever), tmp_path / 'index', progress=False)
    with pytest.raises(errors.IndexFolderError, match='another model'):
        index.check(store, embedder(retriever, '{text}'))
    index.check(store, embedder(retriever, limit=LIMIT + 1))
    assert f'max_tokens (index {LIMIT}, this model {LIMIT + 1})' in capsys.readouterr().err
