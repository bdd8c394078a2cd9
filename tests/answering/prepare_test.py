"""Prepared examples: the host gives the same inputs as the graph; an example's own passages; errors and notes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus.passages import ScoredPassage
from atlas_jax.evaluation import evaluate, results
from atlas_jax.knowledge import group as index_group
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.runtime import hosts, notes
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import lm, multiple_choice, qa, registry
from tests.testing import streams, tiny, word_tokenizers

COLOURS = ['red', 'green', 'blue', 'white', 'black', 'grey', 'pink']
JOINT = spec_lib.DistillConfig(retriever_n_context=3)
QUERY_SIDE = dataclasses.replace(JOINT, retriever_training='query_side')


@pytest.fixture(scope='module')
def atlas():
    reader_tokenizer, retriever_tokenizer = word_tokenizers.t5(), word_tokenizers.bert()
    config = atlas_lib.AtlasConfig(
        dataclasses.replace(tiny.READER, vocab_size=reader_tokenizer.vocab_size),
        dataclasses.replace(tiny.RETRIEVER, vocab_size=retriever_tokenizer.vocab_size),
        atlas_lib.InputConfig(text_max_tokens=31, query_max_tokens=13, target_max_tokens=5), n_context=2)
    params = jax.device_get(tiny.init(tiny.init_params, config))
    return api.Atlas(config, params, reader_tokenizer, retriever_tokenizer, qa.QATask('{question}', '{target}'))


@pytest.fixture(scope='module')
def index(atlas, tmp_path_factory):
    folder = tmp_path_factory.mktemp('knowledge')
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is {COLOURS[i % 7]} .' * (1 + i % 3)) for i in range(11)]
    store = api.PassageStore.build(documents, folder / 'store', progress=False)
    return api.Index.build(store, atlas, folder / 'index', show_progress=False)


def examples_of(atlas, count: int = 5):
    own = [{'id': f'p{k}', 'title': f'thing {k}', 'text': f'The thing {k} is {COLOURS[k]} .'} for k in range(4)]
    return [atlas.task.example({'question': f'what is thing {i} ?', 'answers': [COLOURS[i % 7]], 'passages': own[:i]}, i)
            for i in range(count)]


def inputs_of(atlas, prepared, examples, size):
    params = atlas.device_params()
    batch, retrieved = prepared.batch(examples, size, params)
    run = jax.jit(functools.partial(retrieve.retrieve_and_assemble, spec=prepared.spec))
    return jax.device_get(run(params['retriever'], batch, prepared.knowledge, retrieved=retrieved))


@pytest.mark.parametrize('distill', [JOINT, QUERY_SIDE], ids=lambda distill: distill.retriever_training)
def test_the_host_puts_together_what_the_graph_does(atlas, index, distill):
    examples = examples_of(atlas)
    ways = [prepare.prepare_examples(atlas, examples, index, 2, 8, distill=distill, force_host=host) for host in (False, True)]
    assert [way.on_host for way in ways] == [False, True]
    graph, host = (inputs_of(atlas, way, examples, 8) for way in ways)
    assert graph.reader_lengths[:5].min() > 13 and graph.reader_lengths.max() == 31  # some are cut
    real = slice(5)  # fillers have no query and read nothing that counts
    for name in ('reader_tokens', 'reader_lengths', 'retriever_tokens', 'retriever_lengths'):
        if getattr(graph, name) is not None:
            np.testing.assert_array_equal(getattr(host, name)[real], getattr(graph, name)[real], err_msg=name)
    np.testing.assert_array_equal(host.retrieved.passage_ids, graph.retrieved.passage_ids)
    assert (graph.passage_embeddings is None) == (distill is JOINT)
    if distill is QUERY_SIDE:
        np.testing.assert_array_equal(host.passage_embeddings, graph.passage_embeddings)


def test_own_passages_are_read_and_scored(atlas):
    examples = examples_of(atlas)
    inputs = inputs_of(atlas, prepare.prepare_examples(atlas, examples, None, 2, 8, use_file_passages=True, distill=JOINT), examples, 8)
    there = np.isfinite(inputs.retrieved.scores)
    # Example i has i passages, three of which are scored; without any there is one empty passage.
    assert there[:5].sum(axis=1).tolist() == [1, 1, 2, 3, 3] and (inputs.reader_lengths[:5] > 0).sum(axis=1).tolist() == [1, 1, 2, 3, 3]
    assert (inputs.retriever_lengths[:5] > 0).tolist() == there[:5].tolist() and inputs.passage_embeddings is None
    given = prepare.prepare_examples(atlas, examples, None, 3, 8, use_file_passages=True)
    scored = inputs_of(atlas, given, examples, 8)
    query_side = prepare.prepare_examples(atlas, examples, None, 2, 8, use_file_passages=True, distill=QUERY_SIDE)
    trained = inputs_of(atlas, query_side, examples, 8)
    # Scores are query times passage; the passage encoder's embeddings are what the loss gets.
    queries = jax.jit(lambda params, batch: retrieve.embed_queries(params, batch, given.spec))(
        atlas.params['retriever'], given.batch(examples, 8, None)[0])
    expected = np.einsum('bd,bnd->bn', queries, trained.passage_embeddings)
    assert streams.error(scored.retrieved.scores[there], expected[there]) <= 1e-5
    assert np.isneginf(scored.retrieved.scores[~there]).all()


def test_scores_of_another_teacher_come_with_the_passages(atlas):
    from_file = dataclasses.replace(JOINT, gold_score_mode='file')
    scored = [dataclasses.replace(example, passages=tuple(ScoredPassage(**dataclasses.asdict(passage), gold_score=-0.5 * place)
                                                          for place, passage in enumerate(example.passages)))
              for example in examples_of(atlas) if example.passages]
    prepared = prepare.prepare_examples(atlas, scored, None, 2, 4, use_file_passages=True, distill=from_file)
    assert prepared.spec.encoded_for_gold == slice(0, 0) and not prepared.spec.scored  # the reader judges nothing
    batch, _ = prepared.batch(scored, 4, None)
    np.testing.assert_array_equal(batch.passage_gold_scores, [[0, 0, 0], [0, -0.5, 0], [0, -0.5, -1], [0, -0.5, -1]])
    with pytest.raises(errors.ConfigError, match=r'example 0, .*a passage has no "gold_score"; write one for every passage'):
        prepare.check_gold_scores(examples_of(atlas), from_file, True)
    with pytest.raises(errors.ConfigError, match='set use_file_passages, or choose another mode'):
        prepare.check_gold_scores(scored, from_file, False)
    prepare.check_gold_scores(scored, from_file, True)
    prepare.check_gold_scores(examples_of(atlas), JOINT, False)


def test_a_format_that_touches_text_takes_the_slower_way_and_says_so(atlas, index, capsys):
    config = dataclasses.replace(atlas.config, inputs=dataclasses.replace(atlas.config.inputs, encoder_format='Q:{query} {title} {text}'))
    touching, examples = dataclasses.replace(atlas, config=config), examples_of(atlas, 2)
    prepared = prepare.prepare_examples(touching, examples, index, 2, 2)
    assert 'touches the field {query}' in capsys.readouterr().out and prepared.on_host
    inputs = inputs_of(touching, prepared, examples, 2)
    passage = index.store[int(inputs.retrieved.passage_ids[1, 0])]
    whole = [*atlas.reader_tokenizer.encode(f'Q:{examples[1].query} {passage.title} {passage.text}')][:30]
    assert inputs.reader_tokens[1, 0].tolist()[:20] == whole[:20]


@pytest.mark.parametrize('encoder_format', ['{query} title: {title} context: {text}', 'Q:{query} {title} {text}'],
                         ids=['in the graph', 'on the host'])
def test_the_reader_sees_every_option_of_a_question_that_is_too_long(atlas, index, tmp_path, capfd, encoder_format):
    notes.say_once.cache_clear()
    inputs = dataclasses.replace(atlas.config.inputs, encoder_format=encoder_format, text_max_tokens=71, query_max_tokens=13)
    task = multiple_choice.MultipleChoiceTask()
    asked = dataclasses.replace(atlas, task=task, config=dataclasses.replace(atlas.config, inputs=inputs))
    wide = api.Index.build(index.store, asked, tmp_path / 'index', show_progress=False)  # the same passages, for longer inputs
    example = task.example({'question': 'what is thing 3 ? ' * 9, 'options': {'A': 'red', 'B': 'white'}, 'answer': 'B'}, 0)
    for _ in range(2):
        prepared = prepare.prepare_examples(asked, [example], wide, 2, 1)
    assert capfd.readouterr().err.count('1 of 1 queries have options of more than 13 tokens; query_max_tokens was raised to') == 1
    read = inputs_of(asked, prepared, [example], 1)
    kept = atlas.reader_tokenizer.encode(example.kept)
    found = read.reader_tokens[0, 0, :read.reader_lengths[0, 0]].tolist()
    assert any(found[start:start + len(kept)] == kept for start in range(len(found))) and prepared.encoder.queries_cut == 1


def test_a_task_has_limits_of_its_own_where_none_are_given(atlas):
    def limits(task, **inputs):
        config = dataclasses.replace(atlas.config, inputs=atlas_lib.InputConfig(**inputs))
        encoder = dataclasses.replace(atlas, task=registry.make(task), config=config).encoder()
        return encoder.query_width, encoder.target_width

    assert limits('qa') == (64, 16) and limits('mlm') == (150, 64) and limits('mlm', text_max_tokens=384) == (192, 64)
    assert limits('multiple_choice', text_max_tokens=512) == (256, 16) and limits('multiple_choice', text_max_tokens=256) == (192, 16)
    assert limits('multiple_choice', text_max_tokens=256, query_max_tokens=48, target_max_tokens=5) == (48, 5)


def test_a_step_has_the_tasks_limits_too(atlas, index):
    config = dataclasses.replace(atlas.config, inputs=dataclasses.replace(atlas.config.inputs, target_max_tokens=None))
    asked = dataclasses.replace(atlas, config=config, task=registry.make('lm'))
    prepared = prepare.prepare_examples(asked, [asked.task.example({'text': 'the thing is red'}, 0)], index, 2, 1)
    assert prepared.spec.config.inputs.target_limit == prepared.encoder.target_width == 64


def test_lines_with_an_empty_target_are_named(atlas, tmp_path, capsys):
    path = tmp_path / 'claims.jsonl'
    rows = ['{"claim": "c", "label": "SUPPORTS"}', '', '{"claim": "c", "label": "DISPUTED"}'] + ['{"claim": "c", "label": ""}'] * 10
    path.write_text('\n'.join(rows))
    prepare.read_examples(dataclasses.replace(atlas, task=registry.make('fever')), str(path))
    assert f'{path}, line 3, 4, 5, 6, 7, 8, 9, 10, 11, …: 11 of 12 targets are empty; look at their labels' in capsys.readouterr().out


def test_options_that_contradict_each_other(atlas, index):
    with pytest.raises(errors.ConfigError, match='use_file_passages reads the examples\' own passages'):
        prepare.prepare_examples(atlas, examples_of(atlas), index, 2, 8, use_file_passages=True)
    with pytest.raises(errors.ConfigError, match='retrieve_only needs an index'):
        evaluate.evaluate_examples(atlas, examples_of(atlas), None, retrieve_only=True)
    with pytest.raises(errors.ConfigError, match='no examples'):
        evaluate.evaluate_examples(atlas, [], index)


def test_texts_whose_passage_cannot_be_left_out_are_counted(atlas, index, capsys):
    task = lm.LMTask()
    examples = [task.example({'text': index.store[i].text} | names, i) for i, names in enumerate(({'id': 'd0'}, {}, {'id': 'elsewhere'}))]
    for task_, given, count in ((task, examples, '2 of 3 texts'), (task, examples[:1], ''), (atlas.task, examples, '')):
        notes.say_once.cache_clear()
        prepare.prepare_examples(dataclasses.replace(atlas, task=task_), given, index, 2, 8)
        printed = capsys.readouterr().err
        assert f'{count}: no passage of their "id" is in the index' in printed if count else 'no passage' not in printed
    prepare.prepare_examples(dataclasses.replace(atlas, task=task), examples, None, 0, 8)
    assert 'no passage' not in capsys.readouterr().err


def test_an_examples_own_passage_is_not_retrieved(atlas, index):
    task = lm.LMTask()
    examples = [task.example({'id': f'd{i}', 'text': index.store[i].text}, i) for i in range(3)]
    assert index_group.kept_rows(index_group.as_group(index), examples, atlas.mesh) == {0: [0], 1: [1], 2: [2]}
    asked = dataclasses.replace(atlas, task=task)
    found = evaluate.evaluate_examples(asked, examples, index, retrieve_only=True, n_context=11, batch_size=3)
    for example, answer in zip(examples, found.answers, strict=True):
        docids = [passage.docid for passage in answer.passages]
        assert len(set(docids)) == len(docids) >= 10 and example.own_docid not in docids[:10]


def test_reading_counts_targets_that_are_cut_or_empty(atlas, tmp_path, capsys):
    path = tmp_path / 'examples.jsonl'
    path.write_text('{"claim": "c", "label": "SUPPORTS"}\n{"claim": "c", "label": "UNSURE"}\n')
    prepare.read_examples(dataclasses.replace(atlas, task=registry.make('fever')), path)
    said = capsys.readouterr().out
    assert '1 of 2 targets are empty' in said and 'cut' in said
    path.write_text('{"question": "q", "answers": ["red"]}\n{"question": "q", "answers": ["the red thing 1 2 3 4 5 6"]}\n')
    prepare.read_examples(atlas, path)
    assert '1 of 2 targets were cut at 5 tokens' in capsys.readouterr().out


def test_multiple_choice_is_evaluated_in_every_order(atlas, tmp_path):
    task = multiple_choice.MultipleChoiceTask(eval_permutations='cyclic')
    inputs = dataclasses.replace(atlas.config.inputs, text_max_tokens=47)  # three options take 33
    asked = dataclasses.replace(atlas, task=task, config=dataclasses.replace(atlas.config, inputs=inputs))
    rows = [{'question': f'what is {i}', 'options': {'A': 'red', 'B': 'blue', 'C': 'the'}, 'answer': 'B'} for i in range(2)]
    examples = [task.example(row, i) for i, whole in enumerate(rows) for row in task.expand(whole, training=False)]
    found = evaluate.evaluate_examples(asked, examples, None, batch_size=6, perplexity=True)
    assert len(found.answers) == 2 and found.scores.keys() == {'accuracy', 'debiased_accuracy'}
    for answer, row in zip(found.answers, found.rows, strict=True):
        by_letter = row['choice_probs']
        assert sum(by_letter.values()) == pytest.approx(1) and all(len(values) == 3 for values in row['all_probs'].values())
        assert answer.text == max(by_letter, key=by_letter.get) and row['debiased_accuracy'] == float(answer.text == 'B')
    # The letters' likelihoods come from the same forward pass as the loss of the target alone.
    summary = found.summary(0)
    loss = sum(row['nll'] for row in found.rows) / sum(row['target_tokens'] for row in found.rows)
    assert summary['perplexity'] == pytest.approx(np.exp(loss))
    assert {'accuracy', 'stderr', 'debiased_accuracy_stderr', 'questions'} <= summary.keys()
    results.finish(tmp_path / 'results.jsonl', found.rows, write_passages=False)
    lines = (tmp_path / 'results.jsonl').read_text().splitlines()
    assert len(lines) == 2 and '"choice_probs"' in lines[0] and '"passages"' not in lines[0]


def test_the_next_batch_is_handed_over_before_an_answer_is_read(atlas, monkeypatch):
    examples, events, real = examples_of(atlas, 5), [], hosts.to_host
    prepared = prepare.prepare_examples(atlas, examples, None, 0, 2)

    def step(params, batch, knowledge, retrieved):
        events.append('step')
        return batch.example_ids

    monkeypatch.setattr(hosts, 'to_host', lambda tree: events.append('read') or real(tree))
    found = [(chunk, ids.tolist()) for chunk, ids in prepared.run(step, None, examples, 2)]
    assert events == ['step', 'step', 'read', 'step', 'read', 'read']
    assert found == [(examples[:2], [0, 1]), (examples[2:4], [2, 3]), (examples[4:], [4, -1])]
    assert list(prepared.run(step, None, [], 2)) == []
