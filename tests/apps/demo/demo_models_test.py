"""An int8 ONNX export becomes the float32 folder it was made from; broken exports are refused."""

import json
import sys

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.demo import demo_models, packages

pytestmark = pytest.mark.optimized

onnx = pytest.importorskip('onnx')
VOCAB, EMB, HEADS, HEAD_DIM, MLP, BUCKETS = 23, 6, 2, 5, 7, 4
TOKENIZER = {'model': {'type': 'Unigram'}, 'truncation': {'max_length': 48}, 'padding': {'strategy': 'BatchLongest'}}


def _quantized(rng, shape, *, per_column: bool):
    """Returns int8 weights with scale and zero point, and the float32 weights that they encode."""
    columns = (shape[-1],) if per_column else ()
    weights = rng.integers(-128, 128, shape).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, columns).astype(np.float32)
    zero = rng.integers(-9, 9, columns).astype(np.int8)
    return (weights, scale, zero), (weights.astype(np.float32) - zero) * scale


class _Graph:
    """Writes one ONNX file like the exporter: nodes have the weights' names, and linear layers are [in, out]."""

    def __init__(self, rng):
        self.rng, self.nodes, self.stored, self.expected = rng, [], [], {}

    def _store(self, name, value):
        self.stored.append(onnx.numpy_helper.from_array(np.asarray(value), name))

    def linear(self, name, shape, per_column=True):
        base = f'onnx::MatMul_{len(self.nodes)}'
        quantized, expected = _quantized(self.rng, shape, per_column=per_column)
        for suffix, value in zip(('_quantized', '_scale', '_zero_point'), quantized, strict=True):
            self._store(base + suffix, value)
        inputs = ['x_quantized', base + '_quantized', 'x_zero_point', base + '_zero_point']
        self.nodes.append(onnx.helper.make_node('MatMulInteger', inputs, [base + '_out'], name=f'/m/{name.replace(".", "/")}/MatMul_quant'))
        self.expected[name] = expected.T

    def table(self, name, shape, quantized=None):
        quantized = quantized or _quantized(self.rng, shape, per_column=False)
        for suffix, value in zip(('_quantized', '_scale', '_zero_point'), quantized[0], strict=True):
            self._store(f'm.{name}.weight{suffix}', value)
        self.expected[name] = quantized[1]
        return quantized

    def norm(self, name):
        scale = self.rng.uniform(0.5, 1.5, EMB).astype(np.float32)
        self._store(f'm.{name}.weight', scale)
        self.expected[name] = scale

    def save(self, path):
        graph = onnx.helper.make_graph(self.nodes, 'g', [], [], self.stored)
        onnx.save(onnx.helper.make_model(graph), str(path))


def _attention(graph, prefix, per_column=True):
    for name in 'qkv':
        graph.linear(f'{prefix}.{name}', (EMB, HEADS * HEAD_DIM), per_column)
    graph.linear(f'{prefix}.o', (HEADS * HEAD_DIM, EMB), per_column)


@pytest.fixture
def export(tmp_path):
    """Writes a tiny two-encoder-, one-decoder-layer export; returns (folder, expected weights by Hugging Face name)."""
    rng = np.random.default_rng(11)
    encoder, decoder = _Graph(rng), _Graph(rng)
    embedding = encoder.table('embed_tokens', (VOCAB, EMB))
    decoder.table('shared', (VOCAB, EMB), embedding)
    for layer in range(2):
        _attention(encoder, f'block.{layer}.layer.0.SelfAttention', per_column=layer == 0)
        encoder.norm(f'block.{layer}.layer.0.layer_norm')
        encoder.linear(f'block.{layer}.layer.1.DenseReluDense.wi_0', (EMB, MLP))
    encoder.table('block.0.layer.0.SelfAttention.relative_attention_bias', (BUCKETS, HEADS))
    _attention(decoder, 'decoder.block.0.layer.1.EncDecAttention')
    decoder.norm('decoder.final_layer_norm')
    decoder.linear('lm_head', (EMB, VOCAB))
    folder = tmp_path / 'export'
    folder.mkdir()
    encoder.save(folder / 'encoder.onnx')
    decoder.save(folder / 'decoder.onnx')
    (folder / 'tokenizer.json').write_text(json.dumps(TOKENIZER))
    encoder.expected.pop('embed_tokens')
    return folder, {**{f'encoder.{name}.weight': value for name, value in encoder.expected.items()},
                    **{f'{name}.weight': value for name, value in decoder.expected.items()}}


def test_every_weight_comes_back_under_its_hugging_face_name(export, tmp_path):
    safetensors = pytest.importorskip('safetensors.numpy')
    folder, expected = export
    out = demo_models.convert_onnx(folder, tmp_path / 'out')
    weights = safetensors.load_file(out / 'model.safetensors')
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    config = json.loads((out / 'config.json').read_text())
    sizes = {'vocab_size': VOCAB, 'd_model': EMB, 'num_heads': HEADS, 'd_kv': HEAD_DIM, 'd_ff': MLP, 'num_layers': 2,
             'num_decoder_layers': 1, 'relative_attention_num_buckets': BUCKETS, 'tie_word_embeddings': False}
    assert {name: config[name] for name in sizes} == sizes
    assert json.loads((out / 'tokenizer.json').read_text()) == {**TOKENIZER, 'truncation': None, 'padding': None}


def test_two_embeddings_that_differ_are_refused(export, tmp_path):
    folder, _ = export
    rng = np.random.default_rng(12)
    model = onnx.load(str(folder / 'decoder.onnx'))
    for tensor in model.graph.initializer:
        if tensor.name == 'm.shared.weight_quantized':
            tensor.CopyFrom(onnx.numpy_helper.from_array(rng.integers(-128, 128, (VOCAB, EMB)).astype(np.int8), tensor.name))
    onnx.save(model, str(folder / 'decoder.onnx'))
    with pytest.raises(errors.ModelFolderError, match='different token embeddings'):
        demo_models.convert_onnx(folder, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('dropped, problem', [('m.shared.weight_scale', 'lacks m.shared.weight_scale'),
                                              ('m.shared.weight_quantized', 'no quantised token embedding')])
def test_missing_tensors_are_named(export, tmp_path, dropped, problem):
    folder, _ = export
    model = onnx.load(str(folder / 'decoder.onnx'))
    kept = [tensor for tensor in model.graph.initializer if tensor.name != dropped]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, str(folder / 'decoder.onnx'))
    with pytest.raises(errors.ModelFolderError, match=problem):
        demo_models.convert_onnx(folder, tmp_path / 'out')


@pytest.mark.parametrize('name', ['encoder.onnx', 'decoder.onnx', 'tokenizer.json'])
def test_broken_and_missing_files_are_named(export, tmp_path, name):
    folder, _ = export
    (folder / name).write_bytes(b'\xff broken')
    with pytest.raises(errors.ModelFolderError, match=name):
        demo_models.convert_onnx(folder, tmp_path / 'out')
    (folder / name).unlink()
    with pytest.raises(errors.ModelFolderError, match=name):
        demo_models.convert_onnx(folder, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_without_onnx_the_extra_is_named(export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(errors.ConfigError, match=r'pip install "atlas_jax\[demo\]"'):
        demo_models.convert_onnx(export[0], tmp_path / 'out')


def _as_float_graph(model):
    """Returns the exporter's graph with float products of dequantised weights instead of quantised products."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == 'DynamicQuantizeLinear'}
    outputs = {node.name: node.output[0] for node in model.graph.node}
    nodes = []
    for node in model.graph.node:
        if node.op_type == 'MatMulInteger':
            base = node.input[1].removesuffix('_quantized')
            weight = (stored[node.input[1]].astype(np.float32) - stored[base + '_zero_point']) * stored[base + '_scale']
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), base + '_float'))
            output = outputs[node.name + '_output_scale_mul']
            nodes.append(onnx.helper.make_node('MatMul', [quantizers[node.input[0]], base + '_float'], [output]))
        elif node.op_type != 'DynamicQuantizeLinear' and 'quantized_cast' not in node.name and 'MatMul_quant' not in node.name:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import[0].version = 19  # the reference evaluator has no DequantizeLinear of version 18, which computes the same
    return onnx.reference.ReferenceEvaluator(model)


@pytest.mark.slow  # runs the packaged graph operation by operation: it is the reference for its weights
@pytest.mark.torch
def test_packaged_reader_equals_its_own_graph(demo_packages, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    import onnx.reference
    span = packages.extract(demo_packages.wheels / packages.PACKAGES[packages.READER].file_name, 'traceforge_title_model/data/span/',
                            tmp_path / 'span')
    reader = transformers.T5ForConditionalGeneration.from_pretrained(demo_packages.reader_dir).eval()
    assert sum(value.numel() for value in reader.parameters()) == 76_961_152
    rng = np.random.default_rng(5)
    tokens, mask, decoder_tokens = rng.integers(2, 32000, (2, 13)), np.ones((2, 13), np.int64), rng.integers(2, 32000, (2, 3))
    mask[1, 9:] = 0
    with torch.no_grad():
        encoded = reader.encoder(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask)).last_hidden_state
        logits = reader(encoder_outputs=(encoded,), attention_mask=torch.tensor(mask),
                        decoder_input_ids=torch.tensor(decoder_tokens)).logits
    inputs = {'input_ids': tokens, 'attention_mask': mask}
    expected = _as_float_graph(onnx.load(str(span / 'encoder.onnx'))).run(['last_hidden_state'], inputs)[0]
    inputs = {'input_ids': decoder_tokens, 'encoder_hidden_states': expected, 'encoder_attention_mask': mask}
    expected_logits = _as_float_graph(onnx.load(str(span / 'decoder.onnx'))).run(['logits'], inputs)[0]
    for name, actual, wanted in (('encoder', encoded, expected), ('logits', logits, expected_logits)):
        assert np.abs(actual.numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max(), name
