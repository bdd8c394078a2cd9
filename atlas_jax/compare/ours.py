"""Our side of a comparison as a worker process: loads models and token arrays, computes, is timed.

Run as `python -m atlas_jax.compare.ours`, asked through line_process.
"""

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.compare import step as compare_step
from atlas_jax.conversion import hf, kinds, loading
from atlas_jax.io import atomic
from atlas_jax.models import contriever
from atlas_jax.nn import layer_scan
from atlas_jax.runtime import line_process, resources
from atlas_jax.steps import spec as spec_lib


class Side:
    """What the worker knows; its public methods answer requests."""

    def models(self, reader: str | None, retriever: str | None, model: str | None, layer_norm: str | None) -> dict[str, Any]:
        """Loads the models; says what the other side needs to know of them."""
        self._configs, self._params = load_models(reader, retriever, model, layer_norm)
        pooled = self._configs.get('retriever')
        found = [kinds.detect(folder).kind for folder in (reader, retriever) if folder]
        return {'vocab_sizes': {'reader_vocab': self._configs['reader'].vocab_size,
                                'retriever_vocab': None if pooled is None else pooled.vocab_size},
                'hugging_face': bool(found) and all(kind in (kinds.READER, kinds.RETRIEVER) for kind in found),
                'retriever': None if pooled is None else {name: getattr(pooled, name) for name in ('layer_norm', 'pooling', 'normalize')}}

    def inputs(self, inputs: str, gold_score_mode: str = 'pdist', temperature_gold: float = 0.01, temperature_score: float = 0.01,
               dtype: str = 'float32', as_trained: bool = False) -> dict[str, Any]:
        """Loads an npz file of token arrays, first axis batch; says on what it all runs."""
        with np.load(inputs) as file:
            self._arrays = {name: file[name] for name in file.files}
        check_tokens(self._configs, self._arrays)
        distill = spec_lib.DistillConfig(gold_score_mode, temperature_gold, temperature_score)
        self._spec = compare_step.make_spec(self._configs['reader'], self._configs.get('retriever'), self._arrays, distill, dtype,
                                            as_trained)
        self._step: compare_step.JointStep | None = None
        return {'device': jax.devices()[0].device_kind, 'version': f'jax {jax.__version__}', 'threads': os.cpu_count(),
                'allocator': os.environ.get('MALLOC_MMAP_MAX_') is not None}

    def export(self, folder: str) -> dict[str, str | None]:
        """Writes the models as Hugging Face folders for the other side."""
        paths: dict[str, str | None] = {'reader': str(pathlib.Path(folder) / 'reader'), 'retriever': None}
        params = layer_scan.unstack_layers(jax.device_get(self._params))
        hf.write_t5(paths['reader'], self._configs['reader'], params['reader'])
        if 'retriever' in self._configs:
            paths['retriever'] = str(pathlib.Path(folder) / 'retriever')
            hf.write_contriever(paths['retriever'], self._configs['retriever'], params['retriever'])
        return paths

    def outputs(self, out: str, max_length: int, grads: bool) -> None:
        """Writes every batch's quantities as npz, computed at the highest matmul precision."""
        found = all_outputs(self._params, self._spec, self._arrays, max_length, grads)
        with atomic.writing(out, 'wb') as file:
            np.savez(file, **found)

    def step(self, batch: int) -> dict[str, float]:
        """One train step on this batch: seconds, cpu_seconds and the losses before it."""
        first = self._step is None
        if first:
            self._step = compare_step.JointStep(self._params, self._spec)
            self._params = None  # the step has copies of its own
        arguments = compare_step.batch_of(self._arrays, batch)
        losses: dict[str, float] = {}
        with resources.releasing_freed() if first else contextlib.nullcontext():
            return resources.timed(lambda: losses.update(self._step(*arguments))) | losses

    def memory(self) -> dict[str, int]:
        """The most memory used so far: of the process, and on the accelerator."""
        stats = jax.devices()[0].memory_stats() or {}
        accelerator = {'device_bytes': stats['peak_bytes_in_use']} if 'peak_bytes_in_use' in stats else {}
        return {'peak_bytes': resources.peak_bytes(), **accelerator}

    def serve(self) -> None:
        """Answers requests until standard input ends."""
        names = ('models', 'inputs', 'export', 'outputs', 'step', 'memory')
        line_process.serve({name: getattr(self, name) for name in names})


def load_models(reader: str | None, retriever: str | None, model: str | None,
                layer_norm: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configs, params), each by 'reader' and 'retriever', of one model folder or of a reader's and perhaps a retriever's.

    Raises ModelFolderError; ConfigError for an unknown layer norm.
    """
    opened = loading.open_model(model or reader)
    if retriever is not None:
        opened = loading.join(opened, loading.open_model(retriever))
    configs, params = {}, {}
    for name in ('reader', *(['retriever'] if retriever or model and 'retriever' in opened.openers else [])):
        part = opened.part(name)
        configs[name], params[name] = part.config, part.params()
    if 'retriever' in configs:
        configs['retriever'] = dataclasses.replace(configs['retriever'], layer_norm=layer_norm or configs['retriever'].layer_norm)
    else:
        params['retriever'] = nn.unbox(contriever.init_params(compare_step.NO_RETRIEVER, jax.random.key(0)))
    return configs, layer_scan.stack_layers(params)


def check_tokens(configs: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises ConfigError for token ids that a model does not have, and passages longer than a retriever's positions."""
    for name, model in (('reader', 'reader'), ('target', 'reader'), ('query', 'retriever'), ('passage', 'retriever')):
        if f'{name}_ids' not in arrays or model not in configs:
            continue
        largest, vocab_size = int(arrays[f'{name}_ids'].max(initial=0)), configs[model].vocab_size
        if largest >= vocab_size:
            raise errors.ConfigError(f'{name}_ids has token {largest}, but the {model} only {vocab_size}; '
                                     'the inputs belong to another model')
        longest = int(arrays[f'{name}_mask'].sum(axis=-1).max(initial=0))
        if model == 'retriever' and longest > configs[model].max_positions:
            raise errors.ConfigError(f'{name}_ids has {longest} tokens in a row, but the retriever has '
                                     f'{configs[model].max_positions} positions; cut them')


def all_outputs(params: dict[str, Any], spec: spec_lib.StepSpec, arrays: dict[str, np.ndarray], max_length: int,
                grads: bool) -> dict[str, np.ndarray]:
    """`<batch>/<quantity>` of every batch as float32 (tokens int32): what OUT.npz of `atlas-jax compare` holds."""
    has_retriever = spec.config.retriever.vocab_size > compare_step.NO_RETRIEVER.vocab_size and 'query_ids' in arrays
    forward = compare_step.make_forward(spec, max_length, 'target_ids' in arrays, has_retriever)
    found: dict[str, np.ndarray] = {}
    for number in range(arrays['reader_ids'].shape[0]):
        with jax.default_matmul_precision('highest'):
            quantities, gradients = forward(params, *compare_step.batch_of(arrays, number))
        quantities = {name: np.asarray(value) for name, value in quantities.items()}
        quantities['encoder_states'] = _to_width(quantities['encoder_states'], arrays['reader_ids'].shape[-1])
        if grads and gradients is not None:
            quantities |= compare_step.named_gradients(gradients, spec)
        found |= {f'{number}/{name}': value for name, value in quantities.items()}
    return found


def _to_width(states: np.ndarray, width: int) -> np.ndarray:
    """[batch, n, longest, dim] to [batch, n * width, dim], the layout of the inputs."""
    padded = np.pad(states[:, :, :width].astype(np.float32), ((0, 0), (0, 0), (0, max(width - states.shape[2], 0)), (0, 0)))
    return padded.reshape(states.shape[0], -1, states.shape[-1])


if __name__ == '__main__':
    Side().serve()
