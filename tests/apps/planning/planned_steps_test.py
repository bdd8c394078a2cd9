"""Planned programs are the ones that training, answering and index building run, made from shapes alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, train, types
from atlas_jax.answering import api, prepare
from atlas_jax.apps.planning import planned_steps, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.decoding import DecodingConfig
from atlas_jax.evaluation import evaluate
from atlas_jax.index import embed
from atlas_jax.model import RetrieverSource
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import search as search_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import qa
from atlas_jax.training import contrastive, contrastive_run, contrastive_step, train_step
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny, tiny_run, word_tokenizers

OPTIMIZER = OptimizerConfig(schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(retriever_n_context=3)
STEP = spec_lib.StepConfig(accumulation_steps=2, remat='full', compute_dtype='bfloat16')
ROWS = 23


class _Seen(Exception):
    """Ends a run when its first step would be compiled."""


@pytest.fixture(scope='module')
def atlas():
    reader_tokenizer, retriever_tokenizer = word_tokenizers.t5(), word_tokenizers.bert()
    config = atlas_lib.AtlasConfig(dataclasses.replace(tiny.READER, vocab_size=reader_tokenizer.vocab_size),
                                   dataclasses.replace(tiny.RETRIEVER, vocab_size=retriever_tokenizer.vocab_size),
                                   atlas_lib.InputConfig(text_max_tokens=40, query_max_tokens=16, target_max_tokens=4), n_context=2)
    params = jax.device_get(tiny.init(tiny.init_params, config))
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    return api.Atlas(config, params, reader_tokenizer, retriever_tokenizer, qa.QATask('{question}', '{target}'), mesh)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is red .') for i in range(ROWS)]
    return api.PassageStore.build(documents, tmp_path_factory.mktemp('store') / 'store', progress=False)


@pytest.fixture(scope='module')
def index(atlas, store, tmp_path_factory):
    return api.Index.build(store, atlas, tmp_path_factory.mktemp('index') / 'index', show_progress=False)


@pytest.fixture(scope='module')
def examples(atlas):
    return [atlas.task.example({'question': f'what is thing {i} ?', 'answers': ['red']}, i) for i in range(11)]


def _recording(make, found):
    """Returns a maker whose steps are lowered and recorded, not run."""
    def made(spec, *options):
        def step(*arguments):
            # Callers pass None where the graph searches.
            given = arguments[:3] if arguments[3:] in ((), (None,)) else arguments
            found.append((spec, make(spec, *options).lower(*given).as_text(), given))
            raise _Seen
        return step

    return made


def _workload(spec, batch, knowledge, **changes):
    return workload_lib.Workload(
        spec.config, batch_size=4, n_context=2, index_rows=ROWS, index_dtype='float32', table_tokens=knowledge.reader_table.tokens.shape[1],
        query_tokens=batch.reader_query_tokens.shape[1], **changes)


def test_the_train_step_and_the_search_before_it_where_the_host_reads_the_passages(monkeypatch, tmp_path, atlas, index, examples):
    found, make, search = [], train_step.make_train_step, SearchConfig(tokens='host')
    monkeypatch.setattr(train_step, 'make_train_step', _recording(make, found))
    with pytest.raises(_Seen):
        run = train.RunConfig(str(tmp_path / 'run'), batch_size=4)
        train.train_examples(run, train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL, step=STEP, search=search)
    monkeypatch.setattr(train_step, 'make_train_step', make)
    (spec, text, (state, batch, knowledge, retrieved)), = found
    workload = _workload(spec, batch, types.Knowledge(None, jax.tree.map(lambda column: column[0], retrieved.reader_rows)),
                         optimizer=OPTIMIZER, distill=DISTILL, step=STEP, search=search)
    assert make(spec, OPTIMIZER).lower(*step_arguments.train_arguments(workload, spec)).as_text() == text
    first, last = planned_steps.steps_of(workload, spec.mesh)
    assert first.every_call and not last.every_call and first.items == 0 and last.items == workload.examples_a_step
    alone = search_step.search_step(search_step.alone(spec))
    params = {'retriever': state.params['retriever']}
    assert alone.lower(*first.arguments).as_text() == alone.lower(params, batch, knowledge).as_text()
    # Beside the search lie the weights and moments that it does not take, and beside the step the index.
    assert last.index.reader_table is None and last.beside_bytes == step_arguments.chip_bytes(last.index)
    assert first.beside_bytes == step_arguments.chip_bytes((last.parameters, last.optimizer)) - step_arguments.chip_bytes(params)


def _same_but_for_lengths(planned, spec):
    """Returns True if only tokenizers and real lengths differ."""
    return dataclasses.replace(planned, segments=spec.segments, read=spec.read, scored=spec.scored, embedded=spec.embedded) == spec


def test_the_train_step(monkeypatch, tmp_path, atlas, index, examples):
    found, make = [], train_step.make_train_step
    monkeypatch.setattr(train_step, 'make_train_step', _recording(make, found))
    with pytest.raises(_Seen):
        run = train.RunConfig(str(tmp_path / 'run'), batch_size=4)
        train.train_examples(run, train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL, step=STEP)
    monkeypatch.setattr(train_step, 'make_train_step', make)
    (spec, text, (_, batch, knowledge)), = found
    workload = _workload(spec, batch, knowledge, optimizer=OPTIMIZER, distill=DISTILL, step=STEP)
    assert make(spec, OPTIMIZER).lower(*step_arguments.train_arguments(workload, spec)).as_text() == text
    (planned,), planned_spec = planned_steps.steps_of(workload, spec.mesh), planned_steps.make_planned_spec(workload, spec.mesh)
    assert _same_but_for_lengths(planned_spec, spec) and planned.run is make(planned_spec, OPTIMIZER)


@pytest.mark.parametrize('beams, param_dtype', [(1, 'bfloat16'), (3, 'float32')])
def test_the_answer_step(monkeypatch, atlas, index, examples, beams, param_dtype):
    found, make, decoding = [], answer_step.make_answer_step, DecodingConfig(num_beams=beams)
    monkeypatch.setattr(answer_step, 'make_answer_step', _recording(make, found))
    monkeypatch.setattr(answer_step, '_MADE', {})
    with pytest.raises(_Seen):
        evaluate.evaluate_examples(atlas, examples, index, batch_size=4, decoding=decoding, compute_dtype='bfloat16',
                                   param_dtype=param_dtype)
    (spec, text, (_, batch, knowledge)), = found
    workload = _workload(spec, batch, knowledge, kind='answer', step=dataclasses.replace(STEP, param_dtype=param_dtype), decoding=decoding)
    assert make(spec, decoding).lower(*step_arguments.answer_arguments(workload, spec)).as_text() == text
    assert _same_but_for_lengths(planned_steps.make_planned_spec(workload, spec.mesh), spec)


def test_the_index_step(monkeypatch, atlas, store):
    table = store.retriever_table(max_tokens=atlas.embedder().max_tokens)
    found, run = [], embed.embed_pack

    def recording(*arguments, **static):
        found.append((run.lower(*arguments, **static).as_text(), arguments, static))
        return run(*arguments, **static)

    monkeypatch.setattr(embed, 'embed_pack', recording)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    embedder = embed.PassageEmbedder(atlas.config.retriever, atlas.params['retriever'], atlas.segments.retriever, 40)
    embedder._mesh = mesh
    embedder.embed(table, np.arange(ROWS))
    monkeypatch.setattr(embed, 'embed_pack', run)
    text, (_, part, real), static = found[0]
    workload = workload_lib.Workload(atlas.config, kind='index', table_tokens=part.tokens.shape[-1])
    planned = planned_steps.index_step(workload, mesh, static['longest'], real.shape[1])
    # Formats are cut by a tokenizer there, and more tokens are encoded at a time on a TPU.
    same = planned.static | {name: static[name] for name in ('segments', 'stream_tokens')}
    assert same == static and planned.run is run and planned.run.lower(*planned.arguments, **same).as_text() == text


def test_an_index_build_is_the_packs_that_its_passages_come_in():
    workload = workload_lib.Workload(tiny.config(), kind='index', passage_tokens=(20, 5))
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    found = planned_steps.steps_of(workload, mesh, hosts=3)
    assert sum(step.share for step in found) == pytest.approx(1) and {step.copies for step in found} == {3}
    assert found[-1].static['longest'] == tiny.INPUTS.text_max_tokens
    limit, = planned_steps.steps_of(workload.at_limit(), mesh, hosts=3)
    # as many of the longest passages as fit a chip's tokens, on three hosts of one chip; the last pack is not full
    assert limit.items == pytest.approx(3 * (16384 // tiny.INPUTS.text_max_tokens), rel=0.05)
    assert sum(step.share * step.items for step in found) > 1.3 * limit.items


def test_what_the_host_finds_is_an_argument():
    workload = workload_lib.Workload(tiny.config(), batch_size=4, n_context=3, index_rows=56,
                                     search=workload_lib.search_config.SearchConfig(searcher='scann'), distill=DISTILL)
    step, = planned_steps.steps_of(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    assert step.arguments[2].index is None and step.arguments[3].passage_ids.shape == (4, 3)
    step.trace()


def _search_workload(searcher, **changes):
    return workload_lib.Workload(tiny.config(), kind='search', batch_size=4, n_context=3, index_rows=56, index_dtype='float32',
                                 search=workload_lib.search_config.SearchConfig(searcher=searcher, **changes))


def test_a_search_alone_is_the_one_that_prepare_runs(atlas, index, examples):
    prepared = prepare.prepare_examples(atlas, examples, index, 2, 4)
    batch, _ = prepared.batch(examples[:4], 4, atlas.params)
    text = search_step.search_step(prepared.spec).lower(atlas.device_params(), batch, prepared.knowledge).as_text()
    workload = dataclasses.replace(_workload(prepared.spec, batch, prepared.knowledge, kind='search'), index_dtype='float32')
    planned = dataclasses.replace(planned_steps.make_planned_spec(workload, prepared.spec.mesh), segments=prepared.spec.segments,
                                  read=prepared.spec.read)
    assert planned == prepared.spec
    step, _ = planned_steps._graph_search(workload, prepared.spec)
    assert step.run.lower(*step.arguments).as_text() == text
    assert step.read_bytes == len(prepared.knowledge.index.valid) * atlas.config.retriever.emb_dim * 4
    assert list(step.parameters) == ['retriever']


@pytest.mark.parametrize('searcher, rerank, programs', [('exact', 0, 1), ('scann', 0, 1), ('hybrid', 7, 2), ('bm25', 7, 1)])
def test_a_search_of_the_host_embeds_queries_and_embeds_candidates_again(searcher, rerank, programs):
    workload = _search_workload(searcher, rerank_candidates=rerank)
    found = planned_steps.steps_of(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    assert len(found) == programs and sum(step.share * step.items for step in found) == 4
    out = found[-1].trace().out_info
    if searcher == 'scann':
        assert (out.shape, out.dtype) == ((4, tiny.RETRIEVER.emb_dim), np.float32)
    else:
        assert out.passage_ids.shape == out.scores.shape == (4, 3)


def test_a_search_by_words_alone_compiles_nothing():
    with pytest.raises(errors.ConfigError, match='"bm25": this search runs on the host alone and compiles nothing'):
        planned_steps.steps_of(_search_workload('bm25'), partitioning.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize('method', ['moco', 'inbatch'])
def test_the_contrastive_step_is_planned_as_it_runs(method):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    options = contrastive.ContrastiveConfig(0.2, 0.4, chunk_tokens=50, method=method, queue_size=24, temperature=0.5)
    run = {'run': train.RunConfig('run', batch_size=12), 'model': RetrieverSource('bert'), 'optimizer': OPTIMIZER, 'contrastive': options,
           'data': RetrieverData('passages.jsonl')}
    planned = workload_lib.of_contrastive(tiny.RETRIEVER, run)
    assert planned.trains and planned.kind == 'contrastive' and planned.examples_a_step == 12
    [step] = planned_steps.steps_of(planned, mesh)
    after, metrics = jax.eval_shape(step.run, *step.arguments)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, step.arguments[0])
    assert step.arguments[1].query_tokens.shape == (12, 22) and step.items == 12  # .4 of 50 tokens, and two special ones
    held = step_arguments.chip_bytes(step.optimizer)
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(step.gradients))
    queue = 24 * 22 * 4 if method == 'moco' else 0
    assert held == pytest.approx(2 * weights + queue, abs=64)  # moments, the queue, and a few counters
    assert (step.parameters[1] is not None) == (method == 'moco') == ('momentum' in metrics)
    # On real tokens: three passes over queries, and one over passages that have no gradient.
    flops = planned_steps.model_flops(planned, mesh)
    assert flops == pytest.approx({'moco': 4, 'inbatch': 6}[method] / 6 * planned_steps.model_flops(
        dataclasses.replace(planned, contrastive=dataclasses.replace(options, method='inbatch')), mesh), rel=1e-5)


def _write_questions(path, words):
    """Writes five questions, each with a positive and three hard negatives of `words` words."""
    def passage(number, name):
        return {'title': f'{name} {number}', 'text': ' '.join(['red', 'green', 'blue'][(number + i) % 3] for i in range(words))}

    path.write_text(''.join(json.dumps({
        'question': f'what is thing {i} ? ' * words, 'positive_passages': [passage(i, 'thing')],
        'negative_passages': [passage(i, colour) for colour in ('white', 'black', 'grey')]}) + '\n' for i in range(5)))


def test_the_contrastive_step_on_questions_is_planned_as_it_runs(tmp_path):
    mesh, model = partitioning.make_mesh(devices=jax.devices()[:1]), tiny_run.retriever()
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, inputs=tiny.INPUTS))
    options = contrastive.ContrastiveConfig(method='inbatch', hard_negatives=2)
    _write_questions(tmp_path / 'questions.jsonl', words=70)  # cut at the limits, the lengths of a plan
    data = RetrieverData(questions_file=str(tmp_path / 'questions.jsonl'))
    work = contrastive_run.prepare_contrastive_run(model, data, options, OPTIMIZER, spec_lib.StepConfig(), 4)
    run = {'run': train.RunConfig('run', batch_size=4), 'model': RetrieverSource('bert', tiny.INPUTS), 'optimizer': OPTIMIZER,
           'contrastive': options, 'data': data}
    planned = workload_lib.of_contrastive(model.config.retriever, run)
    [step] = planned_steps.steps_of(planned, mesh)
    batch = next(work.batches)
    assert batch.query_tokens.shape == (4, 11) and batch.passage_tokens.shape == (4, 3, 37)
    assert jax.tree.map(lambda leaf: leaf.shape, step.arguments[1]) == jax.tree.map(lambda leaf: leaf.shape, batch)
    spec = dataclasses.replace(work.spec, mesh=mesh, step=dataclasses.replace(work.spec.step, remat=work.spec.remat[0]))
    assert step.run is contrastive_step.make_contrastive_step(spec, OPTIMIZER)
