"""Whole runs of contrastive training on a tiny retriever: resumed as if unbroken, and usable as any other retriever."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from atlas_jax import errors, train
from atlas_jax.answering import api
from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import convert, loading
from atlas_jax.model import RetrieverModel, RetrieverSource
from atlas_jax.models import contriever
from atlas_jax.nn import layer_scan
from atlas_jax.report import run_log
from atlas_jax.steps.spec import StepConfig
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.training import contrastive, contrastive_run, contrastive_step
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import loaded, tiny, tiny_run

OPTIMIZER = OptimizerConfig(retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=4)
MOCO = contrastive.ContrastiveConfig(0.3, 0.6, method='moco', queue_size=8, momentum=0.9, momentum_schedule='cosine', temperature=0.5,
                                     normalize_query=True, normalize_passage=True, augmentation='mask')


@pytest.fixture(scope='module')
def passages(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'passages.jsonl'
    tiny_run.write_passages(path)
    return path


@pytest.fixture(scope='module')
def source():
    """Gives a tiny retriever with dropout where a run would load its folder."""
    model = tiny_run.retriever()

    @dataclasses.dataclass(frozen=True)
    class Source(RetrieverSource):
        def load(self):
            return model

    return Source('tiny')


def _run(folder, **options):
    return train.RunConfig(run_dir=str(folder), batch_size=4, seed=3, checkpoint_every_steps=2, compilation_cache_dir=None,
                           mesh_shape=(1, 1, 1), **options)


@pytest.fixture(scope='module')
def finished(passages, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    return folder, train.train_retriever(_run(folder), RetrieverData(str(passages)), source, OPTIMIZER, MOCO)


def _exact(result):
    return [tuple(row[name] for name in ('step', 'loss', 'accuracy', 'gradient_norm', 'momentum', 'retriever_tokens'))
            for row in result.history]


def test_a_stopped_run_goes_on_as_if_unbroken(passages, source, finished, tmp_path, monkeypatch):
    make = contrastive_step.make_contrastive_step

    def making(*arguments):
        step, calls = make(*arguments), []

        def run(*inputs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt  # behind the checkpoint of step 2
            return step(*inputs)
        return run

    data = RetrieverData(str(passages))
    with monkeypatch.context() as patch:
        patch.setattr(contrastive_step, 'make_contrastive_step', making)
        with pytest.raises(KeyboardInterrupt):
            train.train_retriever(_run(tmp_path), data, source, OPTIMIZER, MOCO)
    resumed = train.train_retriever(_run(tmp_path), data, source, OPTIMIZER, MOCO)
    assert _exact(resumed) == _exact(finished[1]) and len(resumed.history) == 4
    assert [round(row['momentum'], 4) for row in resumed.history] == [0.9, 0.9146, 0.95, 0.9854]
    jax.tree.map(np.testing.assert_array_equal, resumed.retriever.params, finished[1].retriever.params)


def test_the_run_is_a_retriever_like_any_other(finished, tmp_path):
    folder, result = finished
    opened = loading.open_model(folder)
    assert tuple(opened.openers) == ('retriever',) and opened.step == 4
    config, params = loaded.retriever(folder)
    assert config.normalize  # as it was trained
    jax.tree.map(np.testing.assert_array_equal, layer_scan.stack_layers(params), jax.device_get(result.retriever.params['retriever']))
    written = convert.convert(convert.Request(folder, 'hf', tmp_path / 'hf'))
    assert tuple(written) == ('retriever',)
    again = RetrieverModel.load(tmp_path / 'hf')
    assert again.config.retriever.normalize and again.tokenizer.fingerprint == result.retriever.tokenizer.fingerprint
    with pytest.raises(errors.ModelFolderError, match='holds a retriever alone; give this folder by --retriever'):
        api.Atlas.load(folder)


def test_a_retriever_alone_is_saved_and_loaded(tmp_path):
    model = tiny_run.retriever()
    model.save(tmp_path / 'alone')
    again = RetrieverModel.load(tmp_path / 'alone')
    assert again.config == model.config and again.tokenizer.fingerprint == model.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.device_get(nn.unbox(model.params)))


def test_other_data_or_options_are_refused(passages, source, finished, tmp_path):
    other = tmp_path / 'other.jsonl'
    other.write_text(passages.read_text().replace('red', 'blue'))
    with pytest.raises(errors.ConfigError, match='train_file was 9 passages'):
        train.train_retriever(_run(finished[0]), RetrieverData(str(other)), source, OPTIMIZER, MOCO)
    with pytest.raises(errors.ConfigError, match='queue_size was 8, now 4.*other arrays'):
        train.train_retriever(_run(finished[0]), RetrieverData(str(passages)), source, OPTIMIZER, dataclasses.replace(MOCO, queue_size=4))


@pytest.mark.parametrize(('options', 'batch_size', 'message'), [
    ({'queue_size': 10}, 4, 'queue_size 10 is not a multiple of batch_size 4, .*such as 12'),
    ({'chunks': 3}, 4, 'batch_size 4 does not divide over 1 devices times 3 chunks; choose a multiple of 3'),
    ({'queue_size': 20}, 10, 'batch_size is 10, and there are 9 examples; lower it to 9'),
    ({'queue_size': 12}, 4, 'queue_size is 12, and there are 9 examples: every query would find its own passage .*; lower it to 4 or so'),
    ({'queue_size': 16}, 8, 'queue_size is 16, .*; lower batch_size, or choose ContrastiveConfig.method "inbatch"'),
    ({'method': 'inbatch'}, 1, 'batch_size is 1, .*the other passages of the batch are the negatives; choose 2 or more'),
    ({'chunk_tokens': 512, 'ratio_max': 1.0, 'min_crop_tokens': 99}, 4, r'passages.jsonl:1, .*: 9 passages have fewer than the 99 tokens')])
def test_what_does_not_fit_is_refused_before_the_run_begins(passages, source, tmp_path, options, batch_size, message):
    run = dataclasses.replace(_run(tmp_path / 'run'), batch_size=batch_size)
    with pytest.raises(errors.UserError, match=message):
        train.train_retriever(run, RetrieverData(str(passages)), source, OPTIMIZER, dataclasses.replace(MOCO, **options))
    assert not (tmp_path / 'run' / 'model.json').exists()


@pytest.mark.parametrize(('changes', 'rate', 'message'), [
    ({'evaluate_every_steps': 2}, {}, 'evaluate_every_steps and best_by belong to joint training'),
    ({'best_by': 'recall'}, {}, 'evaluate_every_steps and best_by belong to joint training'),
    ({}, {'learning_rate': 5e-4},
     'learning_rate is 0.0005, the rate of a reader, and this run has no reader; set retriever_learning_rate')])
def test_options_that_nobody_would_read_are_refused(passages, source, tmp_path, changes, rate, message):
    with pytest.raises(errors.ConfigError, match=message):
        train.train_retriever(_run(tmp_path, **changes), RetrieverData(str(passages)), source, dataclasses.replace(OPTIMIZER, **rate), MOCO)


def test_passages_of_unit_length_alone_are_compared_so_in_the_loss_and_by_whoever_uses_the_retriever(passages):
    given = dataclasses.replace(MOCO, normalize_query=False)
    work = contrastive_run.prepare_contrastive_run(tiny_run.retriever(), RetrieverData(str(passages)), given, OPTIMIZER, StepConfig(), 4,
                                   mesh_shape=(1, 1, 1))
    assert work.model.config.retriever.normalize  # norms decide the ranking
    assert not work.spec.config.normalize  # or the loss would have lost the queries' norms


def test_questions_with_passages_are_learnt_through_the_command(tmp_path, capsys):
    colours = ('red', 'blue', 'grey', 'green')
    rows = [{'question': f'what is thing {number} ?', 'positive_passages': [f'the thing {number} is {colour} .'],
             'negative_passages': [f'the thing {number} is {colours[number - 1]} .'] * (number < 3)}
            for number, colour in enumerate(colours)]
    (tmp_path / 'mined.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    tiny_run.retriever().save(tmp_path / 'start')
    given = ['train', '--gin_file', 'runs/contrastive_finetune.gin', '--run', str(tmp_path / 'run'), '--retriever', str(tmp_path / 'start'),
             '--train_file', str(tmp_path / 'mined.jsonl'), '--batch_size', '4', '--steps', '12', '--learning_rate', '3e-2',
             '--gin.HARD_NEGATIVES=2', '--gin.WARMUP_STEPS=20', '--gin.MESH_SHAPE=(1, 1, 1)', '--gin.RunConfig.compilation_cache_dir=None',
             '--gin.POOLING="cls"', '--gin.RunConfig.dropout_rate=0.0']
    assert cli.main(given) == 0
    shown = capsys.readouterr()
    assert 'have fewer than 2 negatives; their places stay empty' in shown.out
    assert 'warmup_steps is 20, and total_steps 12: the learning rates end at 64% of their peak' in shown.err
    losses = [json.loads(line)['loss'] for line in (tmp_path / 'run' / run_log.METRICS_FILE).read_text().splitlines()]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0] and np.all(np.isfinite(losses))
    assert RetrieverModel.load(tmp_path / 'run').config.retriever.pooling == 'cls'
    assert cli.main([*given, '--gin.RATIO_MAX=0.4']) == 2
    assert 'ratio_max is 0.4, an option of crops, and questions_file gives whole passages' in capsys.readouterr().err


def test_a_vocabulary_of_mbert_size_is_loaded_and_trained(tmp_path):
    # ids above 65,535 need four bytes
    words = [f'word{number}' for number in range(119_547)]
    words[:5] = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    small, tokenizer = tiny_run.retriever(), BertTokenizer({word: number for number, word in enumerate(words)})
    config = dataclasses.replace(small.config.retriever, vocab_size=tokenizer.vocab_size, emb_dim=8, num_heads=2, mlp_dim=8)
    params = {'retriever': layer_scan.stack_layers(tiny.init(contriever.init_params, config))}
    RetrieverModel(dataclasses.replace(small.config, retriever=config), params, tokenizer).save(tmp_path / 'start')
    convert.convert(convert.Request(tmp_path / 'start', 'hf', tmp_path / 'hf'))
    path = tmp_path / 'passages.jsonl'
    path.write_text(''.join(json.dumps({'text': ' '.join(words[119_000 + 12 * line:][:12])}) + '\n' for line in range(9)))
    folder, data = RetrieverSource(str(tmp_path / 'hf')), RetrieverData(str(path))
    result = train.train_retriever(_run(tmp_path / 'run'), data, folder, dataclasses.replace(OPTIMIZER, weight_decay=0.0),
                                   dataclasses.replace(MOCO, augmentation='none'))
    before, after = (np.asarray(nn.unbox(params)['retriever']['bert']['token_embedder']['embedding'])
                     for params in (params, result.retriever.params))
    moved = np.flatnonzero(np.any(before != after, axis=-1))
    assert len(before) == 119_547 and set(moved) <= {tokenizer.cls_id, tokenizer.sep_id, *range(119_000, 119_108)} and len(moved) > 50
