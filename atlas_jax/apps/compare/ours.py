"""Our side of a comparison as a worker process: the train step's loss, its parts and greedy tokens
on given token arrays.

Runs as `python -m atlas_jax.apps.compare.ours` and answers requests through line_process.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.conversion import hf, hf_names, loading
from atlas_jax.decoding import config as decoding_config
from atlas_jax.decoding import decoders
from atlas_jax.models import atlas, contriever, fid, readings, t5
from atlas_jax.nn import layer_scan, token_stream
from atlas_jax.runtime import line_process, resources
from atlas_jax.steps import buckets, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.training import joint_loss, train_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig

Arrays = Mapping[str, np.ndarray]
Params = dict[str, Any]
# A compiled forward pass: quantities by name, and the gradients of the joint loss (None without
# targets).
Forward = Callable[[Params, types.Batch, types.ReaderInputs], tuple[dict[str, jax.Array],
                                                                    Params | None]]

# Both sides use these settings; the time of a step does not depend on them.
OPTIMIZER = OptimizerConfig(learning_rate=4e-5, retriever_learning_rate=4e-5, schedule='fixed',
                            warmup_steps=0, weight_decay=0.01)

# Replaces a retriever that is not compared, because every train state has one.
NO_RETRIEVER = contriever.ContrieverConfig(vocab_size=2, emb_dim=2, num_heads=1, num_layers=1,
                                           mlp_dim=1, max_positions=8)


def make_compared_spec(reader: t5.T5Config, retriever: contriever.ContrieverConfig | None,
                       arrays: Arrays, distill: spec_lib.DistillConfig, dtype: str = 'float32',
                       as_trained: bool = False) -> spec_lib.StepSpec:
    """Makes the static side of a step over these arrays, on one device, without dropout.

    Args:
      reader, retriever: the models; the retriever may be None.
      arrays: all batches, [batches, batch, ...], see apps/compare/token_arrays.py.
      distill: the distillation loss.
      dtype: compute dtype.
      as_trained: True takes the capacities of a training run with such lengths; False takes streams
        that are just large enough for the fullest batch.
    """
    capacities = {'read': _capacities(arrays['reader_mask'], as_trained)}
    trains = retriever is not None and 'query_ids' in arrays and 'target_ids' in arrays
    _, _, n, width = arrays['reader_ids'].shape
    # The inputs exist already; these limits only have to be valid.
    inputs = atlas.InputConfig(text_max_tokens=max(width, 3), query_max_tokens=2)
    # Without dropout, because the two sides draw different random numbers.
    config = atlas.AtlasConfig(dataclasses.replace(reader, dropout_rate=0.0),
                               dataclasses.replace(retriever or NO_RETRIEVER, dropout_rate=0.0),
                               inputs, n)
    # One device, like the other side. Nothing is assembled, so there are no segments.
    spec = spec_lib.StepSpec(config, atlas.Segments((), (), ()),
                             partitioning.make_mesh(devices=jax.devices()[:1]), read=(),
                             step=spec_lib.StepConfig(compute_dtype=dtype))
    if trains:
        distill = dataclasses.replace(distill, retriever_n_context=arrays['passage_ids'].shape[2])
        spec = dataclasses.replace(spec, distill=distill)
        capacities['embedded'] = _capacities(arrays['passage_mask'], as_trained)
    capacities = buckets.distinct(capacities)
    return dataclasses.replace(spec, read=capacities['read'],
                               embedded=capacities.get('embedded', ()))


def batch_of(arrays: Arrays, number: int) -> tuple[types.Batch, types.ReaderInputs]:
    """Returns one batch in the form of the train step; parts that the arrays lack get one token."""
    part = {name: values[number] for name, values in arrays.items()}
    size = part['reader_ids'].shape[0]

    def tokens(name: str) -> tuple[jax.Array, jax.Array]:
        if f'{name}_ids' not in part:
            return jnp.ones((size, 1), jnp.int32), jnp.ones(size, jnp.int32)
        lengths = part[f'{name}_mask'].sum(axis=-1)  # a mask is 1 on the first tokens of a row
        return jnp.asarray(part[f'{name}_ids'], jnp.int32), jnp.asarray(lengths, jnp.int32)

    # The step's shapes need every field, so a missing part gets one token, which nothing reads.
    # Lengths are [batch] for queries and [batch, n] for passages.
    query_tokens, query_lengths = tokens('query')
    target_tokens, _ = tokens('target')
    weights = part.get('target_mask', np.ones(target_tokens.shape))
    if 'query_mask_reader' in part:
        width = part['query_mask_reader'].shape[-1]
        # Every reader input of an example begins with the same query: [batch, width] and [batch].
        reader_query = part['reader_ids'][:, 0, :width], part['query_mask_reader'].sum(axis=-1)
    else:
        reader_query = np.zeros((size, 1)), np.zeros(size)
    batch = types.Batch(retriever_query_tokens=query_tokens, retriever_query_lengths=query_lengths,
                        reader_query_tokens=jnp.asarray(reader_query[0], jnp.int32),
                        reader_query_lengths=jnp.asarray(reader_query[1], jnp.int32),
                        decoder_target_tokens=target_tokens, decoder_loss_weights=jnp.asarray(
                            weights, jnp.float32), example_ids=jnp.arange(size))
    reader_tokens, reader_lengths = tokens('reader')
    passage_tokens, passage_lengths = tokens('passage') if 'passage_ids' in part else (None, None)
    return batch, types.ReaderInputs(reader_tokens=reader_tokens, reader_lengths=reader_lengths,
                                     retriever_tokens=passage_tokens,
                                     retriever_lengths=passage_lengths)


def make_forward(spec: spec_lib.StepSpec, max_length: int, has_targets: bool,
                 has_retriever: bool) -> Forward:
    """Compiles a function of params, batch and inputs that returns quantities by name and the
    gradients of the joint loss.

    Args:
      spec: the static side of the step.
      max_length: length of the greedy sequences with the start token; 0 generates none.
      has_targets: True computes logits, losses and gradients; False returns None for gradients.
      has_retriever: True computes embeddings.
    """
    return compile_step(_forward, spec, max_length, has_targets, has_retriever)


def _forward(spec: spec_lib.StepSpec, max_length: int, has_targets: bool, has_retriever: bool,
             params: Params, batch: types.Batch,
             inputs: types.ReaderInputs) -> tuple[dict[str, jax.Array], Params | None]:
    size, capacity = batch.decoder_target_tokens.shape[0], spec.read[-1]
    apply: Callable[..., Any] = functools.partial(spec.reader.apply, {'params': params['reader']})
    # One device has one stream: [1, stream_tokens].
    stream = retrieve.pack(inputs.reader_tokens, inputs.reader_lengths, spec,
                           capacity.stream_tokens, capacity.longest)
    encoded = apply(stream, method='encode')
    # [1, batch * n, longest, dim] to [batch, n, longest, dim]
    states = token_stream.to_rows(stream, encoded).reshape(size, -1, capacity.longest,
                                                           encoded.shape[-1])
    found = {'encoder_states': states}
    read = fid.fuse(*fid.encode_passages(spec.reader, params['reader'], stream), size)
    if max_length:
        found['generated'] = _greedy(params['reader'], read, size, spec, max_length)
    if has_retriever:
        found |= _embeddings(params, batch, inputs, spec)
    if not has_targets:
        return found, None
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens,
                                    spec.config.reader.decoder_start_id)
    found['logits'] = apply(decoder_inputs, *read, method='decode')  # [batch, target_length, vocab]
    differentiate = jax.value_and_grad(joint_loss.joint_loss, has_aux=True)
    # Every batch fits the last level of capacities.
    (_, metrics), gradients = differentiate(params, batch, inputs, spec, len(spec.read) - 1)
    # Quantities are compared by name; PyTorch's side has the same names
    # (apps/compare/pytorch/joint_step.py).
    names = {
        'reader_loss': 'reader_loss', 'retriever_loss': 'retriever_loss',
        'scores': 'retriever_score'}
    # emdr gives a passage no score.
    if spec.distill is not None and spec.distill.gold_score_mode != 'emdr':
        names['gold_scores'] = 'gold_score'
    return found | {name: metrics[key] for key, name in names.items() if key in metrics}, gradients


def named_gradients(gradients: Params, spec: spec_lib.StepSpec) -> dict[str, np.ndarray]:
    """Returns gradients as grads/<model>/<Hugging Face name>, in Hugging Face's layout: linear
    layers [out, in].
    """
    tables = {'reader': hf_names.table(spec.config.reader)}
    # Without distillation the retriever has no gradient.
    if spec.passages_scored:
        encoders = ('retriever',
                    'passage_encoder') if spec.trains_passage_encoder else ('retriever', )
        tables |= dict.fromkeys(encoders, hf_names.table(spec.config.retriever))
    found: dict[str, np.ndarray] = {}
    for part, table in tables.items():
        flat = hf_names.flatten(layer_scan.unstack_layers(jax.device_get(gradients[part])))
        found |= {
            f'grads/{part}/{entry.name}': entry.transform(np.asarray(flat[path]))
            for path, entry in table.items()}
    return found


class JointStep:
    """The train step without retrieval: loss, gradients, clip and AdamW on given passages, in one
    program.
    """

    def __init__(self, params: Params, spec: spec_lib.StepSpec):
        optimizer = train_step.optimizer_for(spec, OPTIMIZER)
        passage_encoder = params.get('passage_encoder')
        both = {name: values for name, values in params.items() if name != 'passage_encoder'}
        self._state: state_lib.TrainState = state_lib.create(layer_scan.stack_layers(both), spec,
                                                             optimizer, passage_encoder)
        # The state is donated, as in training, because memory is compared too.
        self._step = compile_step(_joint_step, spec, OPTIMIZER, donate=(0, ),
                                  out_shardings=_joint_step_shardings)

    def __call__(self, batch: types.Batch, inputs: types.ReaderInputs) -> dict[str, float]:
        """Updates once, waits until the update is done, and returns the losses before it."""
        self._state, metrics = self._step(self._state, batch, inputs)
        # Dispatch is asynchronous; the time of a step ends when its results are ready.
        jax.block_until_ready(self._state)
        return {name: float(metrics[name]) for name in ('reader_loss', 'retriever_loss')
                if name in metrics}


def _joint_step(spec: spec_lib.StepSpec, config: OptimizerConfig, state: state_lib.TrainState,
                batch: types.Batch,
                inputs: types.ReaderInputs) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
    gradients, metrics = train_step.loss_and_gradients(state.params, batch, inputs, spec)
    optimizer = train_step.optimizer_for(spec, config)
    return train_step.apply_gradients(state, gradients, optimizer), metrics


def _joint_step_shardings(spec: spec_lib.StepSpec,
                          config: OptimizerConfig) -> tuple[state_lib.TrainState, None]:
    return state_lib.state_shardings(spec, train_step.optimizer_for(spec, config)), None


def _capacities(mask: np.ndarray, as_trained: bool) -> tuple[buckets.Capacity, ...]:
    lengths = mask.sum(axis=-1)  # [batches, batch, n]
    # Exact capacities, because padding would be timed; the other side pads to its longest row.
    longest, passages = int(lengths.max()), lengths.shape[1] * lengths.shape[2]
    if as_trained:
        return buckets.capacities(lengths.reshape(-1), passages, longest)
    return (buckets.Capacity(int(lengths.sum(axis=(1, 2)).max()), longest),)


def _embeddings(params: Params, batch: types.Batch, inputs: types.ReaderInputs,
                spec: spec_lib.StepSpec) -> dict[str, jax.Array]:
    # A retriever is compared on passages, so they exist.
    assert inputs.retriever_tokens is not None and inputs.retriever_lengths is not None
    width = inputs.retriever_tokens.shape[-1]
    # Fits every passage at full width: this forward pass is compared, not timed.
    stream = retrieve.pack(inputs.retriever_tokens, inputs.retriever_lengths, spec,
                           inputs.retriever_lengths.size * width, width)
    # An untied model embeds passages with their own encoder, as in training and index building.
    passages = retrieve.embed(params.get('passage_encoder', params['retriever']), stream, spec)
    return {'query_embeddings': retrieve.embed_queries(params['retriever'], batch, spec),
            # [batch, n, dim]
            'passage_embeddings': passages.reshape(*inputs.retriever_lengths.shape, -1)}


def _greedy(params: Params, read: tuple[readings.Readable, jax.Array], size: int,
            spec: spec_lib.StepSpec, max_length: int) -> jax.Array:
    """Generates [size, max_length] int32, the start token first, padding after the end; `read`
    comes from fid.fuse.
    """
    config = spec.config.reader
    mask = read[1]
    # The passages' keys and values are computed once, as in answering.
    params, keys_values = spec.reader.step_by_step(params, *read)

    def tokens_to_logits(token: jax.Array, position: jax.Array, cache: Any) -> Any:
        return spec.reader.apply({'params': params}, token, position, cache, keys_values, mask,
                                 method='decode_step')

    special = decoders.SpecialTokens(config.decoder_start_id, config.eos_id, config.pad_id)
    # max_length counts the start token, as in Hugging Face's generate. It is never generated, so
    # the cache is one shorter.
    decoded = decoders.greedy(tokens_to_logits, spec.reader.init_cache(size, max_length - 1), size,
                            decoding_config.DecodingConfig(max_length=max_length), special)
    # tokens [batch, 1, length - 1]
    return jnp.concatenate([jnp.full((size, 1), special.start, jnp.int32), decoded.tokens[:, 0]],
                           axis=1)


@dataclasses.dataclass(frozen=True)
class Configs:
    """The configurations of the compared models; `retriever` is None if only a reader is compared.
    """

    reader: t5.T5Config
    retriever: contriever.ContrieverConfig | None = None


class JaxSide:
    """Our side's models and arrays; its public methods answer requests."""

    def models(self, reader: str | None, retriever: str | None, model: str | None,
               layer_norm: str | None) -> dict[str, Any]:
        """Loads the models; returns vocabulary sizes, kinds, and the retriever's settings for the
        other side.
        """
        self._configs, self._params = load_models(reader, retriever, model, layer_norm)
        # A Hugging Face folder need not state these settings, so the other side gets ours.
        pooled = self._configs.retriever
        found = [loading.detect(folder).kind for folder in (reader, retriever) if folder]
        return {
            'vocab_sizes': {
                'reader_vocab': self._configs.reader.vocab_size,
                'retriever_vocab': None if pooled is None else pooled.vocab_size},
            'hugging_face': bool(found)
            and all(kind in (loading.READER, loading.RETRIEVER) for kind in found),
            'retriever': None if pooled is None else {
                name: getattr(pooled, name)
                for name in ('layer_norm', 'pooling', 'normalize', 'truncate_dim')}}

    def inputs(self, inputs: str, gold_score_mode: str = 'pdist', temperature_gold: float = 0.01,
               temperature_score: float = 0.01, dtype: str = 'float32',
               as_trained: bool = False) -> dict[str, Any]:
        """Loads an npz file of token arrays, batches first; returns device, version, threads and
        allocator.
        """
        with np.load(inputs) as file:
            self._arrays = {name: file[name] for name in file.files}
        check_tokens(self._configs, self._arrays)
        distill = spec_lib.DistillConfig(
            gold_score_mode, temperature_gold, temperature_score,
            retriever_training='untied' if 'passage_encoder' in self._params else 'joint')
        self._spec = make_compared_spec(self._configs.reader, self._configs.retriever, self._arrays,
                                        distill, dtype, as_trained)
        self._step: JointStep | None = None
        return {
            'device': jax.devices()[0].device_kind, 'version': f'jax {jax.__version__}',
            'threads': os.cpu_count(), 'allocator': os.environ.get('MALLOC_MMAP_MAX_') is not None}

    def export(self, folder: str) -> dict[str, str | None]:
        """Writes the models as Hugging Face folders for the other side."""
        reader, retriever = pathlib.Path(folder) / 'reader', pathlib.Path(folder) / 'retriever'
        # Hugging Face names every layer; ours are stacked, [layers, ...].
        params = layer_scan.unstack_layers(jax.device_get(self._params))
        hf.write_params(reader, self._configs.reader, params['reader'])
        if self._configs.retriever is None:
            return {'reader': str(reader), 'retriever': None}
        hf.write_params(retriever, self._configs.retriever, params['retriever'])
        exported: dict[str, str | None] = {'reader': str(reader), 'retriever': str(retriever)}
        if 'passage_encoder' in params:
            passage_encoder = pathlib.Path(folder) / 'passage_encoder'
            hf.write_params(passage_encoder, self._configs.retriever, params['passage_encoder'])
            exported['passage_encoder'] = str(passage_encoder)
        return exported

    def outputs(self, out: str, max_length: int, grads: bool) -> None:
        """Writes every batch's quantities as npz, computed at the highest matmul precision."""
        found = all_outputs(self._params, self._spec, self._arrays, max_length, grads)
        compare_inputs.write(out, found)

    def step(self, batch: int) -> dict[str, float]:
        """Runs one train step on this batch; returns seconds, cpu_seconds and the losses before it.
        """
        # Compilation leaves freed memory behind, which would count as the step's.
        first = self._step is None
        if self._step is None:
            self._step = JointStep(self._params, self._spec)
            self._params = {}  # the step has its own copies
        step, arguments = self._step, batch_of(self._arrays, batch)
        losses: dict[str, float] = {}
        with resources.releasing_freed() if first else contextlib.nullcontext():
            return resources.timed(lambda: losses.update(step(*arguments))) | losses

    def memory(self) -> dict[str, int]:
        """Returns the most memory used so far: the process's, and the accelerator's."""
        stats = jax.devices()[0].memory_stats() or {}
        used = {'peak_bytes': resources.peak_bytes()}
        if 'peak_bytes_in_use' in stats:
            used['device_bytes'] = stats['peak_bytes_in_use']
        return used

    def serve(self) -> None:
        """Answers requests until standard input ends."""
        names = ('models', 'inputs', 'export', 'outputs', 'step', 'memory')
        line_process.serve({name: getattr(self, name) for name in names})


def load_models(reader: str | None, retriever: str | None, model: str | None,
                layer_norm: str | None) -> tuple[Configs, Params]:
    """Loads one model folder, or a reader's and perhaps a retriever's; the parameters are stacked
    by layer.

    An untied model has 'passage_encoder' besides 'reader' and 'retriever'.

    Raises:
      ConfigError: neither a model nor a reader is given, or the layer norm is unknown.
      ModelFolderError: a folder is missing or broken.
    """
    folder = model or reader
    if folder is None:
        raise errors.ConfigError('give --model DIR, or --reader DIR and perhaps --retriever DIR')
    opened = loading.open_model(folder)
    if retriever is not None:
        opened = loading.join(opened, loading.open_model(retriever))
    read = opened.reader()
    if retriever is None and (model is None or 'retriever' not in opened.openers):
        stand_in = nn.unbox(contriever.init_params(NO_RETRIEVER, jax.random.key(0)))
        return Configs(read.config), layer_scan.stack_layers({
            'reader': read.params(), 'retriever': stand_in})
    found = opened.retriever()
    # Hugging Face folders of released Atlas retrievers do not state their layer norm.
    config = dataclasses.replace(found.config, layer_norm=layer_norm or found.config.layer_norm)
    params = {'reader': read.params(), 'retriever': found.params()}
    if 'passage_encoder' in opened.openers:
        params['passage_encoder'] = opened.part('passage_encoder').params()
    return Configs(read.config, config), layer_scan.stack_layers(params)


def check_tokens(configs: Configs, arrays: Arrays) -> None:
    """Checks that the models have every token id, and that the retriever has positions for every
    row.

    Raises ConfigError.
    """
    for name in ('reader', 'target'):
        _check_vocabulary(name, 'reader', configs.reader.vocab_size, arrays)
    if configs.retriever is None:
        return
    for name in ('query', 'passage'):
        _check_vocabulary(name, 'retriever', configs.retriever.vocab_size, arrays)
        if f'{name}_ids' not in arrays:
            continue
        longest = int(arrays[f'{name}_mask'].sum(axis=-1).max(initial=0))
        if longest > configs.retriever.max_positions:
            raise errors.ConfigError(f'{name}_ids has {longest} tokens in a row, but the '
                                     f'retriever has {configs.retriever.max_positions} '
                                     'positions; cut them')


def _check_vocabulary(name: str, model: str, vocab_size: int, arrays: Arrays) -> None:
    largest = int(arrays[f'{name}_ids'].max(initial=0)) if f'{name}_ids' in arrays else 0
    # A gather would clamp such an id, and the comparison would be wrong without a word.
    if largest >= vocab_size:
        raise errors.ConfigError(f'{name}_ids has token {largest}, but the {model} only '
                                 f'{vocab_size}; the inputs belong to another model')


def all_outputs(params: Params, spec: spec_lib.StepSpec, arrays: Arrays, max_length: int,
                grads: bool) -> dict[str, np.ndarray]:
    """Computes `<batch>/<quantity>` for every batch [batch, ...] as float32 (tokens int32): OUT.npz
    of `atlas-jax compare`.
    """
    # No real vocabulary is as small as that of NO_RETRIEVER.
    has_retriever = (spec.config.retriever.vocab_size > NO_RETRIEVER.vocab_size and
                     'query_ids' in arrays)
    forward = make_forward(spec, max_length, 'target_ids' in arrays, has_retriever)
    found: dict[str, np.ndarray] = {}
    for number in range(arrays['reader_ids'].shape[0]):
        # By default accelerators multiply float32 at lower precision.
        with jax.default_matmul_precision('highest'):
            computed, gradients = forward(params, *batch_of(arrays, number))
        quantities = {name: np.asarray(value) for name, value in computed.items()}
        quantities['encoder_states'] = _to_width(quantities['encoder_states'],
                                                 arrays['reader_ids'].shape[-1])
        if grads and gradients is not None:
            quantities |= named_gradients(gradients, spec)
        found |= {f'{number}/{name}': value for name, value in quantities.items()}
    return found


def _to_width(states: np.ndarray, width: int) -> np.ndarray:
    """Returns states [batch, n, longest, dim] in the layout of the inputs: [batch, n * width, dim].
    """
    # Rows of streams are as wide as the longest input; the inputs are as wide as their array.
    padded = np.pad(states[:, :, :width].astype(np.float32),
                    ((0, 0), (0, 0), (0, max(width - states.shape[2], 0)), (0, 0)))
    return padded.reshape(states.shape[0], -1, states.shape[-1])


if __name__ == '__main__':
    JaxSide().serve()
