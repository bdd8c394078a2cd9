"""The PyTorch side as a worker process: loads models and token arrays, computes, is timed. Run as `python -m atlas_jax.compare.pytorch`."""

import copy
import os
from typing import Any

import numpy as np
import torch
import transformers

from atlas_jax import errors
from atlas_jax.compare.pytorch import joint_step, models, outputs, variants
from atlas_jax.compare.pytorch import retrieval as search
from atlas_jax.io import atomic
from atlas_jax.runtime import line_process, resources

_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


class Side:
    """What the worker knows; its public methods answer requests."""

    def load(self, reader: str, retriever: str | None, inputs: str, variant: str, gold_score_mode: str = 'pdist',
             temperature_gold: float = 0.01, temperature_score: float = 0.01, layer_norm: str = 'true', pooling: str = 'average',
             normalize: bool = False, dtype: str = 'float32', flush_denormal: bool = False) -> dict[str, Any]:
        """Loads Hugging Face folders and an npz file of token arrays, first axis batch; says on what it runs."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_flush_denormal(flush_denormal)
        chosen = variants.variant(variant)
        if gold_score_mode == 'adist' and chosen.flat:
            raise errors.ConfigError('the flat PyTorch variant has no adist; compare with another variant')
        # the attention probabilities that adist sums exist in eager attention alone
        attention = 'eager' if gold_score_mode == 'adist' else chosen.attention
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        t5 = models.load_reader(reader, attention).to(device, _DTYPES[dtype])
        bert = None
        if retriever is not None:
            bert = models.load_retriever(retriever, attention, layer_norm, pooling, normalize).to(device, _DTYPES[dtype])
        distillation = joint_step.Distillation(gold_score_mode, temperature_gold, temperature_score)
        self._model = joint_step.Model(t5, bert, chosen, distillation)
        with np.load(inputs) as file:
            self._arrays = {name: file[name] for name in file.files}
        self._step: joint_step.TrainStep | None = None
        self._device = device
        return {'device': torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu', 'version': f'torch {torch.__version__}',
                'threads': torch.get_num_threads(), 'allocator': os.environ.get('MALLOC_MMAP_MAX_') is not None}

    def outputs(self, out: str, reference: str | None, max_length: int, grads: bool) -> None:
        """Writes every batch's quantities as `out`, npz; computed again in float64 as `reference`."""
        _write(out, self._model, self._arrays, max_length, grads)
        if reference is not None:
            t5 = copy.deepcopy(self._model.t5).double()
            retriever = None if self._model.retriever is None else copy.deepcopy(self._model.retriever).double()
            model = joint_step.Model(t5, retriever, self._model.variant, self._model.distillation)
            _write(reference, model, self._arrays, 0, grads)

    def step(self, batch: int) -> dict[str, float]:
        """One train step on this batch: seconds, cpu_seconds and the losses before it."""
        if self._step is None:
            self._step = joint_step.TrainStep(self._model)
        # host to device is part of a step, padding on the host is not
        inputs = self._model.inputs({name: values[batch] for name, values in self._arrays.items()})
        losses: dict[str, float] = {}
        return resources.timed(lambda: losses.update(self._step(inputs))) | losses

    def embed(self, batch_size: int, out: str | None = None) -> dict[str, float]:
        """Embeds `embed_ids` [n, width] with `embed_lengths` [n]; writes the embeddings as npy where asked."""
        found: list[np.ndarray] = []
        seconds = resources.timed(lambda: found.append(
            search.embed_passages(self._model, self._arrays['embed_ids'], self._arrays['embed_lengths'], batch_size)))
        if out is not None:
            np.save(out, found[0])
        return seconds

    def answer(self, batch: int, n_context: int, max_length: int, beams: int, limit: int) -> dict[str, Any]:
        """Answers the queries of a batch from `index_embeddings`: seconds, tokens, passages; reader inputs are cut at `limit` tokens."""
        arrays, model = self._arrays, self._model
        if not hasattr(self, '_index'):
            self._index = torch.from_numpy(arrays['index_embeddings']).to(self._device, model.dtype)
        pad_to = model.variant.pad_to
        queries = joint_step.padding.rows(arrays['query_ids'][batch], arrays['query_mask'][batch],
                                          None if pad_to is None else min(pad_to, model.retriever.bert.config.max_position_embeddings),
                                          self._device)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        seconds = resources.timed(lambda: found.append(search.answer(
            model, self._index, queries, lambda rows: _assemble(arrays, batch, rows, limit), n_context, max_length, beams)))
        return seconds | {'tokens': found[0][0].tolist(), 'passages': found[0][1].tolist()}

    def memory(self) -> dict[str, int]:
        """The most memory used so far: of the process, and on the accelerator."""
        accelerator = {'device_bytes': torch.cuda.max_memory_allocated()} if self._device.type == 'cuda' else {}
        return {'peak_bytes': resources.peak_bytes(), **accelerator}

    def serve(self) -> None:
        """Answers requests until standard input ends."""
        names = ('load', 'outputs', 'step', 'embed', 'answer', 'memory')
        line_process.serve({name: getattr(self, name) for name in names})


def _write(path: str, model: joint_step.Model, arrays: dict[str, np.ndarray], max_length: int, grads: bool) -> None:
    found = {}
    for i in range(len(arrays['reader_ids'])):
        batch = outputs.outputs(model, {name: values[i] for name, values in arrays.items()}, max_length, grads)
        found |= {f'{i}/{name}': value for name, value in batch.items()}
    with atomic.writing(path, 'wb') as file:
        np.savez(file, **found)


def _assemble(arrays: dict[str, np.ndarray], batch: int, rows: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Reader inputs of the passages `rows` [batch, n]: query, as much of the passage as `limit` leaves room for, eos."""
    queries, lengths = arrays['reader_query_ids'][batch], arrays['reader_query_lengths'][batch]
    width = int(lengths.max() + arrays['table_lengths'][rows].max()) + 1
    ids, mask = np.zeros((*rows.shape, width), np.int32), np.zeros((*rows.shape, width), np.int32)
    for example, passages in enumerate(rows):
        for place, row in enumerate(passages):
            kept = min(arrays['table_lengths'][row], limit - 1 - lengths[example])
            tokens = np.concatenate([queries[example][:lengths[example]], arrays['table_ids'][row][:kept], [1]])
            ids[example, place, :len(tokens)], mask[example, place, :len(tokens)] = tokens, 1
    return ids, mask
