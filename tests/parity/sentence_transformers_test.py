"""Embeddings of queries and passages equal those of the sentence-transformers library, on folders that it wrote itself.

Random weights, a real vocabulary's rules, five combinations of prompt, pooling and normalisation: at most 1e-5 apart.
"""

import json

import numpy as np
import pytest

from atlas_jax.answering import api
from atlas_jax.corpus import documents
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.tasks.task import TaskExample
from tests.testing import tiny_checkpoints, tiny_tokenizers

st = pytest.importorskip('sentence_transformers')
transformers = pytest.importorskip('transformers')

TOLERANCE = 1e-5
WORDS = ('query', 'passage', 'represent', 'this', ':', ',', '.', '?', 'what', 'is', 'red', 'green', 'blue', 'house', 'tree', 'river')
VOCABULARY = (*tiny_tokenizers.VOCABULARY, *WORDS)
QUERIES = ['what is the sun ?', 'Is the house green', 'tree', 'what is red, what is blue, what is green?']
# One of them over the limit of 17 tokens.
PASSAGES = ['The sun is red.', 'the river is green, the tree is blue.', 'house', 'this house is red, ' * 9]
COSINE, DOT = 'cosine', 'dot'
# name: pooling, Normalize, prompts (query, passage), similarity, truncate_dim
COMBINATIONS = {
    'e5': ('mean', True, ('query: ', 'passage: '), COSINE, None),
    'bge': ('cls', True, ('represent this query: ', ''), COSINE, None),
    'dot': ('mean_sqrt_len_tokens', False, ('', ''), DOT, None),
    'matryoshka': ('weightedmean', False, ('query: ', 'passage: '), COSINE, 13),
    'max': ('max', False, ('', 'this passage is '), DOT, None),
    'last': ('lasttoken', False, ('query, ', 'passage. '), DOT, 13)}


@pytest.fixture(scope='module', params=list(COMBINATIONS))
def written(request, tmp_path_factory):
    """A folder that the library wrote, and its model."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    pooling, normalize, (query, passage), similarity, truncate_dim = COMBINATIONS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)
    bert = transformers.BertModel(transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=22, num_hidden_layers=2, num_attention_heads=2, intermediate_size=29,
        max_position_embeddings=31, initializer_range=0.3))
    bert.save_pretrained(folder / 'bert')
    tiny_tokenizers.write_bert(folder / 'bert', VOCABULARY)
    transformers.BertTokenizerFast.from_pretrained(folder / 'bert').save_pretrained(folder / 'bert')
    modules = [models.Transformer(str(folder / 'bert'), max_seq_length=17), models.Pooling(22, pooling)]
    model = SentenceTransformer(modules=modules + [models.Normalize()] * normalize, prompts={'query': query, 'document': passage},
                                similarity_fn_name=similarity, truncate_dim=truncate_dim, device='cpu')
    model.save(str(folder / 'written'), create_model_card=False)
    return folder / 'written', SentenceTransformer(str(folder / 'written'), device='cpu'), similarity == COSINE


def _atlas(folder, tmp_path):
    tiny_checkpoints_reader = tmp_path / 'reader'
    from atlas_jax.conversion import hf
    reader = tiny_checkpoints.V11
    hf.write_params(tiny_checkpoints_reader, reader, tiny_checkpoints.model(reader).params())
    tiny_tokenizers.write_t5(tiny_checkpoints_reader)
    return api.Atlas.from_pretrained(tiny_checkpoints_reader, folder, inputs=atlas_lib.InputConfig(
        retriever_format='{text}', query_max_tokens=31))


def _embedded_queries(atlas):
    encoder = atlas.encoder()
    examples = [TaskExample(query, '', [], i) for i, query in enumerate(QUERIES)]
    encoder.fit_queries(examples)
    from atlas_jax.input import encode
    batch = encode.stack([encoder.encode(example) for example in examples])
    spec = spec_lib.StepSpec(atlas.config, atlas.segments, atlas.mesh, read=())
    return np.asarray(compile_step(_embed_queries, spec)(atlas.params['retriever'], batch))


def _embed_queries(spec, params, batch):
    return retrieve.embed_queries(params, batch, spec)


def test_queries_and_passages(written, tmp_path):
    folder, library, by_cosine = written
    atlas = _atlas(folder, tmp_path)
    store = api.PassageStore.build([documents.Document(str(i), '', '', text) for i, text in enumerate(PASSAGES)], tmp_path / 'store',
                                   progress=False, max_words=1000)
    index = api.Index.build(store, atlas, tmp_path / 'index', show_progress=False)
    expected = [library.encode_query(QUERIES, normalize_embeddings=by_cosine),
                library.encode_document(PASSAGES, normalize_embeddings=by_cosine)]
    found = [_embedded_queries(atlas), index.index.embeddings(np.arange(len(PASSAGES)))]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_what_we_write_is_the_same_model_to_the_library(written, tmp_path):
    from sentence_transformers import SentenceTransformer

    from atlas_jax.conversion import convert
    folder, library, by_cosine = written
    convert.convert(convert.Request(folder, 'hf', tmp_path / 'again'))
    again = SentenceTransformer(str(tmp_path / 'again'), device='cpu')
    assert again.similarity_fn_name == library.similarity_fn_name and again.max_seq_length == 17
    for name in ('encode_query', 'encode_document'):
        found, expected = (getattr(model, name)(PASSAGES, normalize_embeddings=by_cosine) for model in (again, library))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_every_key_that_the_library_writes_is_known(written):
    """`describe` refuses unknown keys; what it accepts here are all files of the folder."""
    folder = written[0]
    assert {path.name for path in folder.glob('*.json')} <= {
        'config.json', 'config_sentence_transformers.json', 'modules.json', 'sentence_bert_config.json', 'special_tokens_map.json',
        'tokenizer.json', 'tokenizer_config.json'}
    assert json.loads((folder / 'config_sentence_transformers.json').read_text())['prompts']
