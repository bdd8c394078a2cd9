"""Our side of a comparison on given token arrays: the train step's own loss, its parts, and greedy tokens."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.conversion import hf_names
from atlas_jax.decoding import config as decoding_config
from atlas_jax.decoding import decoders
from atlas_jax.models import atlas, contriever, fid, t5
from atlas_jax.nn import layer_scan, token_stream
from atlas_jax.steps import buckets, retrieve, step_config
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import joint_loss, train_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig

Arrays = Mapping[str, np.ndarray]
Params = dict[str, Any]

# What a step of either side takes; its time does not depend on it.
OPTIMIZER = OptimizerConfig(learning_rate=4e-5, retriever_learning_rate=4e-5, schedule='fixed', warmup_steps=0, weight_decay=0.01)

# What stands in for a retriever that is not compared: the train state has one in any case.
NO_RETRIEVER = contriever.ContrieverConfig(vocab_size=2, emb_dim=2, num_heads=1, num_layers=1, mlp_dim=1, max_positions=8)


def make_spec(reader: t5.T5Config, retriever: contriever.ContrieverConfig | None, arrays: Arrays, distill: spec_lib.DistillConfig,
              dtype: str = 'float32', as_trained: bool = False) -> spec_lib.StepSpec:
    """The static side of a step over these arrays, on one device, without dropout.

    Args:
      arrays: of all batches, [batches, batch, ...], see compare_inputs.py.
      as_trained: takes the capacities that a training run would choose for such lengths, in place of streams just large enough for the
        fullest batch.
    """
    capacities = {'read': _capacities(arrays['reader_mask'], as_trained)}
    trains = retriever is not None and 'query_ids' in arrays and 'target_ids' in arrays
    _, _, n, width = arrays['reader_ids'].shape
    inputs = atlas.InputConfig(text_max_tokens=max(width, 3), query_max_tokens=2)
    config = atlas.AtlasConfig(dataclasses.replace(reader, dropout_rate=0.0),
                               dataclasses.replace(retriever or NO_RETRIEVER, dropout_rate=0.0), inputs, n)
    spec = spec_lib.StepSpec(config, atlas.Segments((), (), ()), partitioning.make_mesh(devices=jax.devices()[:1]),
                             read=(), step=step_config.StepConfig(compute_dtype=dtype))
    if trains:
        distill = dataclasses.replace(distill, retriever_n_context=arrays['passage_ids'].shape[2])
        spec = dataclasses.replace(spec, distill=distill)
        capacities['embedded'] = _capacities(arrays['passage_mask'], as_trained)
    return dataclasses.replace(spec, **buckets.distinct(capacities))


def batch_of(arrays: Arrays, number: int) -> tuple[types.Batch, types.ReaderInputs]:
    """One batch as the train step takes it; parts that are not there are stood in for by one token."""
    part = {name: values[number] for name, values in arrays.items()}
    size = part['reader_ids'].shape[0]

    def tokens(name: str) -> tuple[jax.Array, jax.Array]:
        if f'{name}_ids' not in part:
            return jnp.ones((size, 1), jnp.int32), jnp.ones(size, jnp.int32)
        return jnp.asarray(part[f'{name}_ids'], jnp.int32), jnp.asarray(part[f'{name}_mask'].sum(axis=-1), jnp.int32)

    query_tokens, query_lengths = tokens('query')
    target_tokens, _ = tokens('target')
    weights = part.get('target_mask', np.ones(target_tokens.shape))
    if 'query_mask_reader' in part:
        width = part['query_mask_reader'].shape[-1]
        reader_query = part['reader_ids'][:, 0, :width], part['query_mask_reader'].sum(axis=-1)
    else:
        reader_query = np.zeros((size, 1)), np.zeros(size)
    batch = types.Batch(
        retriever_query_tokens=query_tokens, retriever_query_lengths=query_lengths,
        reader_query_tokens=jnp.asarray(reader_query[0], jnp.int32), reader_query_lengths=jnp.asarray(reader_query[1], jnp.int32),
        decoder_target_tokens=target_tokens, decoder_loss_weights=jnp.asarray(weights, jnp.float32), example_ids=jnp.arange(size))
    inputs = types.ReaderInputs(*tokens('reader'))
    if 'passage_ids' in part:
        passage_tokens, passage_lengths = tokens('passage')
        inputs = inputs.replace(retriever_tokens=passage_tokens, retriever_lengths=passage_lengths)
    return batch, inputs


@functools.lru_cache(maxsize=4)
def make_forward(spec: spec_lib.StepSpec, max_length: int, has_targets: bool, has_retriever: bool):
    """A jitted (params, batch, inputs) -> quantities by name, and the gradients of the joint loss (None without targets)."""
    def forward(params: Params, batch: types.Batch, inputs: types.ReaderInputs):
        size, capacity, variables = batch.decoder_target_tokens.shape[0], spec.read[-1], {'params': params['reader']}
        stream = retrieve.pack(inputs.reader_tokens, inputs.reader_lengths, spec, capacity.stream_tokens, capacity.longest)
        encoded = spec.reader.apply(variables, stream, method='encode')
        found = {'encoder_states': token_stream.to_rows(stream, encoded).reshape(size, -1, capacity.longest, encoded.shape[-1])}
        read = fid.fuse(*fid.encode_passages(spec.reader, params['reader'], stream), size)
        if max_length:
            found['generated'] = _greedy(variables, read, size, spec, max_length)
        if has_retriever:
            found |= _embeddings(params['retriever'], batch, inputs, spec)
        if not has_targets:
            return found, None
        decoder_inputs = t5.shift_right(batch.decoder_target_tokens, spec.config.reader.decoder_start_id)
        found['logits'] = spec.reader.apply(variables, decoder_inputs, *read, method='decode')
        differentiate = jax.value_and_grad(joint_loss.joint_loss, has_aux=True)
        (_, metrics), gradients = differentiate(params, batch, inputs, spec, len(spec.read) - 1)
        names = {'reader_loss': 'reader_loss', 'retriever_loss': 'retriever_loss', 'scores': 'retriever_score'}
        if spec.distill is not None and spec.distill.gold_score_mode != 'emdr':  # emdr teaches without a score of each passage
            names['gold_scores'] = 'gold_score'
        return found | {name: metrics[key] for key, name in names.items() if key in metrics}, gradients

    return jax.jit(forward)


def named_gradients(gradients: Params, spec: spec_lib.StepSpec) -> dict[str, np.ndarray]:
    """Gradients as grads/reader/<Hugging Face name> and grads/retriever/<Hugging Face name>, in Hugging Face's layout."""
    tables = {'reader': hf_names.t5_table(spec.config.reader)}
    if spec.passages_scored:
        tables['retriever'] = hf_names.contriever_table(spec.config.retriever)
    found = {}
    for part, table in tables.items():
        flat = hf_names.flatten(layer_scan.unstack_layers(jax.device_get(gradients[part])))
        found |= {f'grads/{part}/{entry.name}': entry.transform(np.asarray(flat[path])) for path, entry in table.items()}
    return found


class JointStep:
    """The train step without retrieval: loss, gradients, clip and AdamW in one program that is given its passages."""

    def __init__(self, params: Params, spec: spec_lib.StepSpec):
        optimizer = train_step.optimizer_for(spec, OPTIMIZER)
        self._state = state_lib.create(layer_scan.stack_layers(params), spec, optimizer)

        def step(state: state_lib.TrainState, batch: types.Batch, inputs: types.ReaderInputs):
            with partitioning.on_mesh(spec.mesh):
                gradients, metrics = train_step.loss_and_gradients(state.params, batch, inputs, spec)
                return train_step.apply_gradients(state, gradients, optimizer), metrics

        self._step = jax.jit(step, donate_argnums=0, out_shardings=(state_lib.state_shardings(spec, optimizer), None))

    def __call__(self, batch: types.Batch, inputs: types.ReaderInputs) -> dict[str, float]:
        """One update; the losses before it. Returns when all of it is done."""
        self._state, metrics = self._step(self._state, batch, inputs)
        jax.block_until_ready(self._state)
        return {name: float(metrics[name]) for name in ('reader_loss', 'retriever_loss') if name in metrics}


def _capacities(mask: np.ndarray, as_trained: bool) -> tuple[buckets.Capacity, ...]:
    lengths = mask.sum(axis=-1)  # [batches, batch, n]
    longest, passages = int(lengths.max()), lengths.shape[1] * lengths.shape[2]
    if as_trained:
        return buckets.capacities(lengths.reshape(-1), passages, longest)
    return (buckets.Capacity(int(lengths.sum(axis=(1, 2)).max()), longest),)


def _embeddings(params: Params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec) -> dict[str, jax.Array]:
    width = inputs.retriever_tokens.shape[-1]
    stream = retrieve.pack(inputs.retriever_tokens, inputs.retriever_lengths, spec, inputs.retriever_lengths.size * width, width)
    passages = retrieve.embed(params, stream, spec)
    return {'query_embeddings': retrieve.embed_queries(params, batch, spec),
            'passage_embeddings': passages.reshape(*inputs.retriever_lengths.shape, -1)}


def _greedy(variables: Params, read, size: int, spec: spec_lib.StepSpec, max_length: int) -> jax.Array:
    """[size, max_length] int32, the start token first, padding after the end."""
    config = spec.config.reader

    mask = read[1]
    params, keys_values = spec.reader.step_by_step(variables['params'], *read)

    def tokens_to_logits(token: jax.Array, position: jax.Array, cache):
        return spec.reader.apply({'params': params}, token, position, cache, keys_values, mask, method='decode_step')

    special = decoders.SpecialTokens(config.decoder_start_id, config.eos_id, config.pad_id)
    decoded = decoders.greedy(tokens_to_logits, spec.reader.init_cache(size, max_length - 1), size,
                            decoding_config.DecodingConfig(max_length=max_length), special)
    return jnp.concatenate([jnp.full((size, 1), special.start, jnp.int32), decoded.tokens[:, 0]], axis=1)
