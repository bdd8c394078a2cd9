"""Whole runs on tiny models and made-up texts: training, resuming after a kill, evaluating, answering, editing the index."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from atlas_jax import decoding, errors, train
from atlas_jax.answering import api
from atlas_jax.checkpoints import run_folder
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.evaluation import evaluate, results
from atlas_jax.nn import layer_scan
from atlas_jax.report import run_log, run_profile
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import train_step, waiting
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='query_side')
QUESTIONS = ['what is thing 3 ?', 'what is thing 5 ?']


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas()


@pytest.fixture(scope='module')
def index(atlas, tmp_path_factory):
    return tiny_run.index(atlas, tmp_path_factory.mktemp('knowledge'))


@pytest.fixture(scope='module')
def examples(atlas):
    return tiny_run.examples(atlas)


@pytest.fixture(scope='module')
def finished(atlas, index, examples, tmp_path_factory):
    """Folder and result of a run that has ended; tests leave it as it is."""
    folder = tmp_path_factory.mktemp('finished')
    return folder, train.train_examples(_run(folder), train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL)


def _run(folder, steps_between=2):
    return train.RunConfig(run_dir=str(folder), batch_size=4, seed=3, checkpoint_every_steps=steps_between)


def _losses(folder):
    rows = [json.loads(line) for line in (folder / run_log.METRICS_FILE).read_text().splitlines()]
    assert [row['step'] for row in rows] == list(range(1, len(rows) + 1))
    return [(row['reader_loss'], row['retriever_loss'], row['gradient_norm']) for row in rows]


def test_a_killed_run_goes_on_with_bit_equal_losses(atlas, index, examples, finished, tmp_path, monkeypatch):
    original = waiting._stop_if_diverged

    def killed(step, metrics, example_ids, left):
        original(step, metrics, example_ids, left)
        if step == 4:
            raise KeyboardInterrupt  # after step 4 was computed, before it is written: the checkpoint is that of step 2

    monkeypatch.setattr(waiting, '_stop_if_diverged', killed)
    with pytest.raises(KeyboardInterrupt):
        train.train_examples(_run(tmp_path / 'killed'), train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL)
    with open(tmp_path / 'killed' / run_log.METRICS_FILE, 'a', encoding='utf-8') as file:
        file.write('{"step": 4, "rea')  # a line cut short by the kill
    monkeypatch.setattr(waiting, '_stop_if_diverged', original)
    train.train_examples(_run(tmp_path / 'killed'), train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL)
    assert _losses(tmp_path / 'killed') == _losses(finished[0])
    loaded = [api.Atlas.load(folder).params for folder in (tmp_path / 'killed', finished[0])]
    jax.tree.map(np.testing.assert_array_equal, *loaded)


def test_a_finished_run_is_not_trained_again(atlas, index, examples, finished):
    folder, first = finished
    again = train.train_examples(_run(folder), train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL)
    assert again.history == first.history
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first.atlas.params), jax.device_get(again.atlas.params))


def test_a_profiled_run_says_how_well_it_used_the_device_and_where_its_time_went(atlas, index, examples, tmp_path, capsys):
    run = dataclasses.replace(_run(tmp_path / 'run'), profile_dir=str(tmp_path / 'profile'))
    train.train_examples(run, train.Loaded(atlas, examples, index), OPTIMIZER, DISTILL)
    rows = [json.loads(line) for line in (tmp_path / 'run' / run_log.METRICS_FILE).read_text().splitlines()]
    assert all(row['model_flops'] > 1e6 and 'mfu' not in row for row in rows)  # a CPU's peak is not known
    assert all(row['tflops_per_second'] == pytest.approx(row['model_flops'] / row['seconds'] / 1e12, rel=0.1, abs=1e-4) for row in rows)
    found = json.loads((tmp_path / 'profile' / 'device_time.json').read_text())
    assert found['steps'] == run_profile.STEPS and found['devices'] == len(jax.local_devices())
    assert set(found['seconds']) == {*train_step.PARTS, 'other'} and sum(found['shares'].values()) == pytest.approx(1)
    assert all(found['seconds'][part] > 0 for part in train_step.PARTS)
    assert found['shares']['read'] > found['shares']['retrieve'] and found['shares']['other'] < 0.2, found['shares']
    page = (tmp_path / 'profile' / 'device_time.html').read_text()
    assert all(part in page for part in train_step.PARTS)
    assert 'device time' in capsys.readouterr().out


def test_the_folder_of_another_model_is_refused(atlas, index, examples, finished):
    other = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, n_context=3))
    with pytest.raises(errors.ConfigError, match='n_context was 2, now 3; give the same ones'):
        train.train_examples(_run(finished[0]), train.Loaded(other, examples, index), OPTIMIZER, DISTILL)


def test_a_diverging_run_stops_and_names_step_and_examples(atlas, index, examples, tmp_path):
    broken = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), atlas.params))
    broken.params['retriever'] = atlas.params['retriever']
    with pytest.raises(errors.DivergedError, match=r'step 1: the loss is nan .*examples \['):
        train.train_examples(_run(tmp_path), train.Loaded(broken, examples, index), OPTIMIZER, DISTILL)


def _steps(folder):
    return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())


def test_a_checkpoint_whose_parameters_give_no_loss_does_not_stay(atlas, index, examples, tmp_path, monkeypatch):
    loaded = train.Loaded(atlas, examples, index)
    run = train.RunConfig(run_dir=str(tmp_path), batch_size=4, seed=3, checkpoint_every_steps=1)
    broken = dataclasses.replace(OPTIMIZER, learning_rate=1e30, retriever_learning_rate=1e30, schedule='fixed', warmup_steps=0)
    with pytest.raises(errors.DivergedError, match=r'step 1: \S+ reaches \S+ after the update; nothing was saved; no checkpoint was saved'):
        train.train_examples(run, loaded, broken, DISTILL)
    assert _steps(tmp_path) == []
    # Parameters that are large and no more: only the next loss tells.
    monkeypatch.setattr(train.state_lib, 'divergence', lambda params, spec: '')
    with pytest.raises(errors.DivergedError, match='step 2: .* is nan .*; the checkpoint of step 1 gave this and was removed; no ch'):
        train.train_examples(run, loaded, broken, DISTILL)
    assert _steps(tmp_path) == []
    # One that another process wrote is not ours to remove.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(waiting, '_stop_if_diverged', _interrupted_at_2)
        train.train_examples(run, loaded, broken, DISTILL)
    with pytest.raises(errors.DivergedError, match=r'step 2: .* is nan .*; the checkpoint of step 1 gives this: delete .*checkpoints/1 '):
        train.train_examples(run, loaded, broken, DISTILL)
    assert _steps(tmp_path) == [1]


def _interrupted_at_2(step, *_):
    if step == 2:
        raise KeyboardInterrupt


def test_a_second_run_in_the_folder_is_refused_at_once(atlas, index, examples, tmp_path):
    with run_folder.writing(tmp_path), subprocess.Popen(
            [sys.executable, '-c', 'import pathlib, sys\nfrom atlas_jax.checkpoints import run_folder\n'
             'with run_folder.writing(pathlib.Path(sys.argv[1])): pass', str(tmp_path)], stderr=subprocess.PIPE, text=True) as second:
        message = second.communicate()[1]
    assert second.returncode and f'ConfigError: {tmp_path}: another process is writing this run; wait' in message
    with run_folder.writing(tmp_path):
        pass


def test_query_side_training_keeps_the_index_valid_and_saves_both_encoders(atlas, index, finished):
    folder, result = finished
    index.check(result.atlas)
    loaded = api.Atlas.load(folder)
    index.check(loaded)
    jax.tree.map(np.testing.assert_array_equal, loaded.params['passage_encoder'], atlas.params['retriever'])


def test_evaluation_scores_and_writes_every_answer(atlas, index, examples, tmp_path):
    evaluation = evaluate.evaluate_examples(atlas, examples, index, n_context=3, batch_size=4)
    figures = evaluation.summary(top_k=3)
    assert figures['questions'] == 11 and {'exact_match', 'stderr', 'f1', 'gold_recall_at_1', 'answer_recall_at_2'} <= figures.keys()
    results.finish(tmp_path / 'results.jsonl', evaluation.rows)
    rows = results.read(tmp_path / 'results.jsonl')
    assert [row['example_id'] for row in rows] == list(range(11))
    assert all(len(row['passages']) == 3 for row in rows)


def test_batch_size_does_not_change_the_answers(atlas, index, examples):
    # 3 passages and 4 examples: the program of the evaluation above. 11 examples divide by neither size.
    by_size = [list(atlas.answer_examples(examples, index, 3, size)) for size in (1, 4, 16)]
    for answers in by_size[1:]:
        assert [answer.text for answer in answers] == [answer.text for answer in by_size[0]]
        assert [[p.docid for p in answer.passages] for answer in answers] == [[p.docid for p in answer.passages] for answer in by_size[0]]


def _attended_in_order(answer):
    assert sum(passage.attention for passage in answer.passages) == pytest.approx(1, abs=1e-5)
    scores = [passage.score for passage in answer.passages]
    assert scores == sorted(scores, reverse=True)


def test_answers_come_with_passages_whose_attention_sums_to_one(atlas, index):
    for answer in atlas.answer(QUESTIONS, index):
        assert len(answer.passages) == 2
        _attended_in_order(answer)


def test_more_passages_than_there_are(atlas, index):
    answer, = atlas.answer(['what is thing 3 ?'], index, n_context=40)
    assert len(answer.passages) == 23
    _attended_in_order(answer)


def test_closed_book_answers_have_no_passages(atlas):
    assert atlas.answer(['what is thing 3 ?'])[0].passages == ()
    assert atlas.answer([]) == []


def test_beams_come_with_scores_and_alternatives(atlas):
    config = decoding.DecodingConfig(num_beams=3, num_return_sequences=2, max_length=5)
    answer, = atlas.answer(['what is thing 3 ?'], decoding=config)
    assert len(answer.alternatives) == 1 and 0 > answer.score >= answer.alternatives[0].score
    assert atlas.answer(['what is thing 3 ?'])[0].score is None


def test_replaced_and_deleted_passages(atlas, tmp_path):
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is red .') for i in range(5)]
    store = api.PassageStore.build(documents, tmp_path / 'store', progress=False)
    index = api.Index.build(store, atlas, tmp_path / 'index', show_progress=False)
    before = index.index.embeddings(np.arange(5)).copy()
    index.replace([passages_lib.Passage('d2', 'thing 2', '', 'The thing 2 is blue .')], atlas)
    np.testing.assert_array_equal(index.index.embeddings(np.arange(5)), before)  # the others were not embedded again
    reopened = api.Index.open(tmp_path / 'index')
    found = {passage.docid: passage.text for passage in atlas.answer(['what is thing 2 ?'], reopened, n_context=9)[0].passages}
    assert found['d2'] == 'The thing 2 is blue .' and len(found) == 5
    reopened.delete(['d0'])
    assert 'd0' not in {passage.docid for passage in atlas.answer(['what is thing 0 ?'], reopened, n_context=9)[0].passages}


def test_saved_and_loaded_models_answer_alike(atlas, index, tmp_path):
    atlas.save(tmp_path / 'model')
    loaded = api.Atlas.load(tmp_path / 'model')
    assert loaded.answer(QUESTIONS, index) == atlas.answer(QUESTIONS, index)
    unstacked = layer_scan.unstack_layers(loaded.params)
    jax.tree.map(np.testing.assert_array_equal, layer_scan.stack_layers(unstacked), jax.device_get(loaded.params))


def test_folders_without_a_model_say_so(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='no model that is known here'):
        api.Atlas.load(tmp_path)
    (tmp_path / 'model.json').write_text('{')
    with pytest.raises(errors.ModelFolderError, match='broken JSON'):
        api.Atlas.load(tmp_path)


def test_the_index_of_another_model_is_refused(atlas, index):
    other = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: leaf + 1, atlas.params))
    with pytest.raises(errors.IndexFolderError):
        other.answer(['what is thing 3 ?'], index)
