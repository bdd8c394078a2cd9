"""The PyTorch side against the numbers recorded from the original (fixtures/parity/README.md), in every variant."""

import json

import pytest

from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.apps.compare.pytorch import variants
from tests.testing import streams

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.optimized]

PARITY = streams.FIXTURES / 'parity'
MODES = {'pdist': 'ppmean', 'loop': 'loop', 'emdr': 'emdr', 'adist': 'evalnormssum'}


@pytest.fixture(scope='module')
def arrays():
    return compare_inputs.read(PARITY / 'inputs.npz')


def make(variant: str, mode: str = 'pdist', temperature: float = 0.1, double: bool = False):
    from atlas_jax.apps.compare.pytorch import joint_step, torch_models
    chosen = variants.variant(variant)
    attention = 'eager' if mode == 'adist' else chosen.attention
    reader = torch_models.load_reader(PARITY / 'reader_v11', attention)
    retriever = torch_models.load_retriever(PARITY / 'contriever', attention, 'second_moment', 'average', False)
    if double:
        reader, retriever = reader.double(), retriever.double()
    return joint_step.Model(reader, retriever, chosen, joint_step.Distillation(mode, temperature, temperature))


def record(mode: str) -> dict:
    records = json.loads((PARITY / 'losses_v11.json').read_text())['records']
    return next(entry for entry in records if entry['gold_score_mode'] == MODES[mode] and entry['temperature_gold'] == 0.1)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('variant', ['original_200', 'tuned', 'flat'])
def test_losses_and_scores(arrays, variant, mode):
    if (variant, mode) == ('flat', 'adist'):
        pytest.skip('the flat variant has no attention statistics')
    model, expected = make(variant, mode, double=True), record(mode)
    with torch.no_grad():
        found = model.losses(model.inputs({name: values[0] for name, values in arrays.items()}))
    assert streams.error(found['retriever_score'], expected['retriever_score_f64']) <= 1e-12
    # transformers takes the root mean square in float32 in any case
    names = ['reader_loss', 'retriever_loss', *(['gold_score'] if mode != 'emdr' else [])]
    for name in names:
        assert streams.error(found[name], expected[f'{name}_f64']) <= 1e-6, name


@pytest.mark.parametrize('variant', ['original_longest', 'flat'])
def test_gradients_and_twenty_steps_of_training(arrays, variant):
    from atlas_jax.apps.compare.pytorch import joint_step
    from atlas_jax.training import optimizer
    run = next(run for run in json.loads((PARITY / 'training.json').read_text()) if str(run['run']) == '0')
    options = run['options']
    model = make(variant)
    step = joint_step.TrainStep(model, options['lr'], options['lr_retriever'], options['weight_decay'], options['clip'], options['epsilon'])
    schedule = optimizer.OptimizerConfig(schedule=options['scheduler'], warmup_steps=options['warmup_steps'],
                                         total_steps=options['total_steps'])
    batches = [model.inputs({name: values[i] for name, values in arrays.items()}) for i in range(4)]
    for number in range(20):
        found = step(batches[number % 4], float(optimizer.schedule_factor(schedule, number)))
        for name in ('reader_loss', 'retriever_loss'):
            assert found[name] == pytest.approx(run[f'{name}_f64'][number], rel=1e-4, abs=1e-6), (number, name)
        scale = run['steps'][number]['scale']
        assert found['gradient_norm'] * scale == pytest.approx(run['grad_norm_scaled_f64'][number], rel=1e-4), number


def test_generates_what_the_original_does(arrays):
    """Greedy only: transformers has changed the rules of beam search since the numbers were recorded."""
    from atlas_jax.apps.compare.pytorch import torch_models, worker
    recorded = json.loads((PARITY / 'generation_v11.json').read_text())['records']
    batch = {name: values[0] for name, values in arrays.items()}
    found = worker.outputs(make('flat'), batch, max_length=12, gradients=False)
    assert found['generated'].tolist() == recorded[0]['sequences']
    reader = torch_models.PaddedReader(make('tuned').t5)
    rows = torch_models.pad_rows(batch['reader_ids'], batch['reader_mask'], 60, torch.device('cpu'))
    with torch.no_grad():
        tokens = reader.generate(reader.fuse(reader.encode(rows), 3), 12, beams=3)
    assert tokens.shape[0] == 3 and tokens.shape[1] <= 12 and (tokens[:, 0] == 0).all()


def test_parts_that_are_not_given_are_left_out(arrays):
    from atlas_jax.apps.compare.pytorch import worker
    batch = {name: values[0] for name, values in arrays.items() if name.startswith(('reader', 'query', 'passage'))}
    found = worker.outputs(make('tuned'), batch, max_length=0, gradients=False)
    assert set(found) == {'encoder_states', 'query_embeddings', 'passage_embeddings'}
    assert found['encoder_states'].shape == (3, 240, 64)
