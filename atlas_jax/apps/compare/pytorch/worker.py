"""The PyTorch side as a worker process: loads models and token arrays, computes, searches and
answers, with times.

Runs as `python -m atlas_jax.apps.compare.pytorch` and answers requests through line_process.
"""

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers

from atlas_jax import errors
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.apps.compare.pytorch import flat, joint_step, torch_models, variants
from atlas_jax.runtime import line_process, resources

# Makes reader inputs (ids, mask) from passage rows.
Assemble = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


def flat_search(embeddings: torch.Tensor, queries: torch.Tensor,
                top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Searches queries [batch, dim] in embeddings [rows, dim] by inner product: (scores, rows)
    [batch, top_k], best first.
    """
    return torch.topk(queries @ embeddings.T, top_k, dim=1)


@torch.inference_mode()
def embed_passages(model: joint_step.Model, ids: np.ndarray, lengths: np.ndarray,
                   batch_size: int) -> np.ndarray:
    """Embeds passages ids [n, width] with lengths [n], `batch_size` at a time, in the variant's
    order and padding: [n, dim].
    """
    # Passages of similar lengths together need the least padding.
    order = (np.argsort(-lengths, kind='stable') if model.variant.sorted_embedding else
             np.arange(len(lengths)))
    parts = [model.embed_passages(rows).float().cpu().numpy()
             for rows in _chunks(model, ids[order], lengths[order], batch_size)]
    embeddings = np.concatenate(parts)
    result = np.empty_like(embeddings)
    # Back to the order of the passages.
    result[order] = embeddings
    return result


@torch.inference_mode()
def answer(model: joint_step.Model, index: torch.Tensor, queries: torch_models.Rows,
           assemble: Assemble, n_context: int, max_length: int,
           beams: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers queries: embeds them, searches, reads, decodes.

    Args:
      model: reader and retriever.
      index: [rows, dim] embeddings.
      queries: the retriever's queries, [batch, length].
      assemble: makes reader inputs (ids, mask), each [batch, n_context, width], from passage rows
        [batch, n_context] int.
      n_context, max_length, beams: passages to read, length of answers, beams.

    Returns:
      Sequences [batch, <= max_length] with the start token first, and passage rows [batch,
      n_context].
    """
    found = flat_search(index, model.embed(queries), n_context)[1].cpu().numpy()
    passages = torch_models.pad_rows(*assemble(found), model.variant.pad_to, model.device)
    # [batch * n, length, dim] to [batch, n * length, dim]
    memory = model.reader.fuse(model.reader.encode(passages), found.shape[0])
    return model.reader.generate(memory, max_length, beams).cpu().numpy(), found


def _chunks(model: joint_step.Model, ids: np.ndarray, lengths: np.ndarray,
            size: int) -> Iterator[torch_models.Rows]:
    for start in range(0, len(lengths), size):
        mask = np.arange(ids.shape[1]) < lengths[start:start + size, None]
        yield model.retriever_rows(ids[start:start + size], mask)


def outputs(model: joint_step.Model, arrays: dict[str, np.ndarray], max_length: int,
            gradients: bool) -> dict[str, np.ndarray]:
    """Computes one batch's quantities under the names of `atlas-jax compare`.

    Args:
      model: the models; its variant says how to compute.
      arrays: one batch, [batch, ...], see apps/compare/token_arrays.py; quantities whose inputs are
        missing are left out.
      max_length: length of the greedy sequences with the start token; 0 generates none.
      gradients: True adds grads/reader/<name> and grads/retriever/<name>, the gradients of the
        reader's and of the retriever's loss.
    """
    inputs = model.inputs(arrays)
    found = {'encoder_states': _states(model, inputs, arrays['reader_ids'].shape[-1])}
    if max_length:
        found['generated'] = _generate(model, inputs, max_length)
    if inputs.targets is None:
        if inputs.retriever is not None:
            with torch.no_grad():
                found['query_embeddings'] = model.embed(inputs.retriever.queries)
                found['passage_embeddings'] = model.embed_passages(inputs.retriever.passages)
        return _arrays(found)
    with torch.set_grad_enabled(gradients):
        results = model.losses(inputs)
    if gradients:
        # Or the gradients would be added to those of an earlier batch.
        for part in model.parameters():
            part.grad = None
        (results['reader_loss'] + results.get('retriever_loss', 0)).backward()
        found |= _gradients('reader', model.t5)
        if inputs.retriever is not None and model.retriever is not None:
            found |= _gradients('retriever', model.retriever.bert)
            if model.passage_encoder is not None:
                found |= _gradients('passage_encoder', model.passage_encoder.bert)
    return _arrays(found | results)


@torch.no_grad()
def _states(model: joint_step.Model, inputs: joint_step.Inputs, width: int) -> torch.Tensor:
    """Returns encoder states [batch, n * width, dim], zeros on padding."""
    if isinstance(model.reader, flat.FlatReader):
        layout = flat.FlatLayout(inputs.passages, model.dtype)
        rows = layout.to_rows(model.reader.encode_stream(layout))
    else:
        memory = model.reader.encode(inputs.passages)
        rows = memory.content * memory.mask[..., None]
    # [batch * n, length, dim]: torch's pad counts axes from the last, so the second pair pads
    # `length`.
    rows = torch.nn.functional.pad(rows[:, :width], (0, 0, 0, max(width - rows.shape[1], 0)))
    return rows.reshape(inputs.passages.ids.shape[0], -1, rows.shape[-1])


@torch.no_grad()
def _generate(model: joint_step.Model, inputs: joint_step.Inputs, max_length: int) -> torch.Tensor:
    """Generates [batch, max_length] int64 greedily, the start token first, 0 after the end."""
    # Hugging Face's generate decodes from padded states in every variant.
    reader = torch_models.PaddedReader(model.t5)
    memory = reader.fuse(reader.encode(inputs.passages), inputs.passages.ids.shape[0])
    tokens = reader.generate(memory, max_length, beams=1)
    return torch.nn.functional.pad(tokens, (0, max_length - tokens.shape[1]),
                                   value=model.t5.config.pad_token_id)


def _gradients(part: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    # A parameter that the loss does not reach has None; our side has zeros there.
    return {f'grads/{part}/{name}':
            torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for name, value in module.named_parameters()}


def _arrays(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    def to_numpy(value: torch.Tensor) -> np.ndarray:
        value = value.detach().cpu()
        # numpy has no bfloat16.
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

    return {name: to_numpy(value) for name, value in found.items()}


class TorchSide:
    """The PyTorch side's models and arrays; its public methods answer requests."""

    def load(self, reader: str, retriever: str | None, inputs: str, variant: str,
             gold_score_mode: str = 'pdist', temperature_gold: float = 0.01,
             temperature_score: float = 0.01, layer_norm: str = 'true', pooling: str = 'average',
             normalize: bool = False, truncate_dim: int | None = None,
             passage_encoder: str | None = None, dtype: str = 'float32',
             flush_denormal: bool = False) -> dict[str, Any]:
        """Loads Hugging Face folders and an npz file of token arrays, batches first; returns
        device, version, threads and allocator.

        Raises:
          ConfigError: the variant is unknown, or cannot compute the gold score mode.
          ModelFolderError: transformers cannot load a folder.
        """
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        # Numbers near zero cost a CPU many cycles each. XLA flushes them; PyTorch needs the
        # setting.
        torch.set_flush_denormal(flush_denormal)
        chosen = variants.variant(variant)
        if gold_score_mode == 'adist' and chosen.flat:
            raise errors.ConfigError('the flat PyTorch variant has no adist; compare with another '
                                     'variant')
        # adist sums attention probabilities, which only eager attention returns.
        attention = 'eager' if gold_score_mode == 'adist' else chosen.attention
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        t5 = torch_models.load_reader(reader, attention).to(device, _DTYPES[dtype])

        def encoder(folder: str | None) -> torch_models.TorchContriever | None:
            if folder is None:
                return None
            loaded = torch_models.load_retriever(folder, attention, layer_norm, pooling, normalize,
                                                 truncate_dim)
            return loaded.to(device, _DTYPES[dtype])

        distillation = joint_step.Distillation(gold_score_mode, temperature_gold, temperature_score)
        self._model = joint_step.Model(t5, encoder(retriever), chosen, distillation,
                                       encoder(passage_encoder))
        with np.load(inputs) as file:
            self._arrays = {name: file[name] for name in file.files}
        self._step: joint_step.TrainStep | None = None
        self._index: torch.Tensor | None = None
        self._device = device
        return {
            'device': torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu',
            'version': f'torch {torch.__version__}', 'threads': torch.get_num_threads(),
            'allocator': os.environ.get('MALLOC_MMAP_MAX_') is not None}

    def outputs(self, out: str, reference: str | None, max_length: int, grads: bool) -> None:
        """Writes every batch's quantities to the npz file `out`, and in float64 to `reference`."""
        _write(out, self._model, self._arrays, max_length, grads)
        if reference is not None:
            # Copies: the float32 models are timed afterwards.
            t5 = copy.deepcopy(self._model.t5).double()
            retriever, passage_encoder = (
                None if encoder is None else copy.deepcopy(encoder).double()
                for encoder in (self._model.retriever, self._model.passage_encoder))
            model = joint_step.Model(t5, retriever, self._model.variant, self._model.distillation,
                                     passage_encoder)
            _write(reference, model, self._arrays, 0, grads)

    def step(self, batch: int) -> dict[str, float]:
        """Runs one train step on this batch; returns seconds, cpu_seconds and the losses before it.
        """
        if self._step is None:
            self._step = joint_step.TrainStep(self._model)
        step = self._step
        # Padding on the host is not timed.
        inputs = self._model.inputs({name: values[batch] for name, values in self._arrays.items()})
        losses: dict[str, float] = {}
        return resources.timed(lambda: losses.update(step(inputs))) | losses

    def embed(self, batch_size: int, out: str | None = None) -> dict[str, float]:
        """Embeds `embed_ids` [n, width] with `embed_lengths` [n], and writes the embeddings to the
        npy file `out` if it is given.
        """
        found: list[np.ndarray] = []
        ids, lengths = self._arrays['embed_ids'], self._arrays['embed_lengths']
        seconds = resources.timed(
            lambda: found.append(embed_passages(self._model, ids, lengths, batch_size)))
        if out is not None:
            np.save(out, found[0])
        return seconds

    def answer(self, batch: int, n_context: int, max_length: int, beams: int,
               limit: int) -> dict[str, Any]:
        """Answers the queries of a batch from `index_embeddings`, with reader inputs cut at `limit`
        tokens. Returns seconds, tokens and passages.
        """
        arrays, model = self._arrays, self._model
        if self._index is None:
            self._index = torch.from_numpy(arrays['index_embeddings']).to(self._device, model.dtype)
        index = self._index
        queries = model.retriever_rows(arrays['query_ids'][batch], arrays['query_mask'][batch])
        found: list[tuple[np.ndarray, np.ndarray]] = []
        seconds = resources.timed(lambda: found.append(
            answer(model, index, queries, lambda rows: _assemble(arrays, batch, rows, limit),
                   n_context, max_length, beams)))
        return seconds | {'tokens': found[0][0].tolist(), 'passages': found[0][1].tolist()}

    def memory(self) -> dict[str, int]:
        """Returns the most memory used so far: the process's, and the accelerator's."""
        used = {'peak_bytes': resources.peak_bytes()}
        if self._device.type == 'cuda':
            used['device_bytes'] = torch.cuda.max_memory_allocated()
        return used

    def serve(self) -> None:
        """Answers requests until standard input ends."""
        names = ('load', 'outputs', 'step', 'embed', 'answer', 'memory')
        line_process.serve({name: getattr(self, name) for name in names})


def _write(path: str, model: joint_step.Model, arrays: dict[str, np.ndarray], max_length: int,
           grads: bool) -> None:
    found: dict[str, np.ndarray] = {}
    for i in range(len(arrays['reader_ids'])):
        batch = outputs(model, {name: values[i] for name, values in arrays.items()}, max_length,
                        grads)
        found |= {f'{i}/{name}': value for name, value in batch.items()}
    compare_inputs.write(path, found)


def _assemble(arrays: dict[str, np.ndarray], batch: int, rows: np.ndarray,
              limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes reader inputs from the passages `rows` [batch, n]: the query, as much of the passage as
    fits in `limit`, eos.
    """
    queries, lengths = arrays['reader_query_ids'][batch], arrays['reader_query_lengths'][batch]
    width = int(lengths.max() + arrays['table_lengths'][rows].max()) + 1
    ids, mask = np.zeros((*rows.shape, width), np.int32), np.zeros((*rows.shape, width), np.int32)
    for example, passages in enumerate(rows):
        for place, row in enumerate(passages):
            # The passage is cut, never the query. One token is kept for eos, whose id is 1.
            kept = min(arrays['table_lengths'][row], limit - 1 - lengths[example])
            tokens = np.concatenate([
                queries[example][:lengths[example]], arrays['table_ids'][row][:kept], [1]])
            ids[example, place, :len(tokens)], mask[example, place, :len(tokens)] = tokens, 1
    return ids, mask
