"""Twenty steps of MoCo and of in-batch negatives against PyTorch: same weights, same crops; loss, queue, momentum encoder."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.conversion import hf_names
from atlas_jax.input import crops, pipeline
from atlas_jax.input.passage_tokens import PassageTokens
from atlas_jax.nn import layer_scan
from atlas_jax.training import contrastive, contrastive_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import loaded, word_tokenizers

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
import torch_contrastive as theirs_lib  # noqa: E402  needs both

from atlas_jax.apps.compare.pytorch import torch_models  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.optimized]

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'contriever'
STEPS, BATCH, QUEUE, RATE = 20, 4, 12, 5e-4
OPTIMIZER = OptimizerConfig(retriever_learning_rate=RATE, schedule='fixed', warmup_steps=0, total_steps=STEPS, weight_decay=0.1, clip=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    # Rows are so few that threads only wait for one another.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _pairs(config):
    generator = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(generator.integers(12, 50, 20))]).astype(np.int64)
    passages = PassageTokens(generator.integers(9, 90, starts[-1]).astype(np.uint16), starts, str)
    return crops.Crops(passages, config, word_tokenizers.bert(), ((2,), (3,)), ((2,), (3,)), 64)


def _options(method):
    return contrastive.ContrastiveConfig(0.2, 0.6, chunk_tokens=32, method=method, queue_size=QUEUE, momentum=0.9, temperature=0.5,
                                         label_smoothing=0.1, normalize_query=True)


def _ours(method, mesh=None, batches=None, **changes):
    config, params = loaded.contriever(FOLDER)
    # One layer of three; other tests compare deeper models.
    config = dataclasses.replace(config, num_layers=1)
    params = {'bert': {name: value for name, value in params['bert'].items() if name not in ('layers_1', 'layers_2')}}
    options = dataclasses.replace(_options(method), **changes)
    pairs = _pairs(options)
    spec = contrastive.make_contrastive_spec(config, mesh or partitioning.make_mesh(devices=jax.devices()[:1]), pairs.sampled_lengths(),
                                             pairs.widths, BATCH, options)
    spec = dataclasses.replace(spec, queries=spec.queries[-1:], passages=spec.passages[-1:])  # each capacity is a program
    optimizer = contrastive_step.optimizer_for(OPTIMIZER)
    state = state_lib.create_contrastive({'retriever': layer_scan.stack_layers(params)}, spec, optimizer)
    batches = batches or pipeline.contrastive_batches(pairs, BATCH, seed=1)
    step, losses = contrastive_step.make_contrastive_step(spec, OPTIMIZER), []
    drawn = [next(batches) for _ in range(STEPS)]
    queue = None if state.queue is None else np.array(state.queue)
    for batch in drawn:
        state, metrics = step(state, jax.device_put(batch, partitioning.batch_sharding(spec.mesh, BATCH)))
        losses.append(float(metrics['loss']))
    return state, losses, drawn, queue, config


def _rows(tokens, lengths):
    mask = np.arange(tokens.shape[-1]) < lengths[..., None]
    return torch_models.pad_rows(tokens, mask, None, torch.device('cpu'))


@pytest.mark.parametrize('method', ['moco', 'inbatch'])
def test_twenty_steps_equal_pytorch(method):
    with jax.default_matmul_precision('highest'):
        state, losses, drawn, queue, config = _ours(method)
    retriever = torch_models.load_retriever(FOLDER, 'eager', 'true', config.pooling, config.normalize)
    retriever.bert.encoder.layer = retriever.bert.encoder.layer[:1]
    settings = theirs_lib.TorchContrastiveConfig(0.5, RATE, momentum=0.9, label_smoothing=0.1, normalize_query=True, weight_decay=0.1)
    trainer = theirs_lib.ContrastiveTrainer(retriever, settings, None if queue is None else torch.tensor(queue))
    expected = [trainer.step(_rows(batch.query_tokens, batch.query_lengths), _rows(batch.passage_tokens, batch.passage_lengths))
                for batch in drawn]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[0] != pytest.approx(losses[-1], rel=0.05)  # the loss falls
    pairs = [(state.params['retriever'], trainer.retriever)]
    if method == 'moco':
        np.testing.assert_allclose(state.queue, trainer.queue, atol=1e-5)
        assert int(state.queue_pointer) == trainer.oldest
        pairs.append((state.momentum_encoder, trainer.slow))
    for ours, theirs in pairs:
        found, expected = hf_names.flatten(layer_scan.unstack_layers(ours)), dict(theirs.bert.named_parameters())
        for path, entry in hf_names.table(config).items():
            if entry.name.endswith('key.bias'):  # softmax does not see it: its gradient is rounding, which AdamW makes large
                continue
            np.testing.assert_allclose(entry.transform(np.asarray(found[path])), expected[entry.name].detach(), atol=1e-5, err_msg=path)
