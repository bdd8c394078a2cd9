"""One side of benchmarks/contrastive.py as a worker process: ours or PyTorch's. Both cut the same crops of the same random tokens."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from atlas_jax import types
from atlas_jax.input import crops, pipeline
from atlas_jax.input.passage_tokens import PassageTokens
from atlas_jax.runtime import line_process, resources
from atlas_jax.training.contrastive import ContrastiveConfig

# With normalised embeddings and temperature 1, random weights give losses that can be compared; the time does not depend on either.
_PIECE, _TEMPERATURE, _RATE, _MOMENTUM = 256, 1.0, 5e-5, 0.9995
_AROUND = ((101,), (102,))  # [CLS] and [SEP]


class _NoTokenizer:
    """Replaces a tokenizer when no token is replaced or masked."""

    ordinary_ids, mask_id = np.zeros(0, np.int64), None


class Side:
    """Answers `load`, `step` and `memory`."""

    def load(self, side: str, retriever: str, method: str, batch_size: int, queue_size: int, batches: int, dtype: str) -> dict[str, Any]:
        """Loads the retriever and cuts the crops."""
        options = ContrastiveConfig(chunk_tokens=_PIECE, method=method, queue_size=queue_size, momentum=_MOMENTUM, temperature=_TEMPERATURE,
                                    normalize_query=True, normalize_passage=True)
        generator = np.random.default_rng(0)
        vocab_size = json.loads((pathlib.Path(retriever) / 'config.json').read_text(encoding='utf-8'))['vocab_size']
        tokens = generator.integers(_AROUND[1][0] + 1, vocab_size, batch_size * batches * _PIECE)
        passages = PassageTokens(tokens.astype(np.uint16), np.arange(batch_size * batches + 1) * _PIECE, str)
        pairs: Any = crops.Crops(passages, options, _NoTokenizer(), _AROUND, _AROUND, 512)  # type: ignore[arg-type]
        drawn = pipeline.contrastive_batches(pairs, batch_size, seed=0)
        self._batches = [next(drawn) for _ in range(batches)]
        make = self._ours if side == 'ours' else self._theirs
        self._step = make(side, retriever, options, pairs, batch_size, dtype)
        return {}

    def step(self, number: int) -> dict[str, float]:
        """Makes one update on the batch with this number. Returns seconds and loss."""
        found: list[float] = []
        batch = self._batches[number % len(self._batches)]
        return resources.timed(lambda: found.append(self._step(batch))) | {'retriever_loss': found[0]}

    def memory(self) -> dict[str, float]:
        """Returns the peak memory of this process."""
        return {'peak_bytes': resources.peak_bytes()}

    def _ours(self, _: str, folder: str, options: ContrastiveConfig, pairs: Any, batch_size: int, dtype: str) -> Any:
        import jax

        from atlas_jax import partitioning
        from atlas_jax.conversion import hf
        from atlas_jax.nn import layer_scan
        from atlas_jax.steps.spec import StepConfig
        from atlas_jax.training import contrastive, contrastive_step
        from atlas_jax.training import state as state_lib
        from atlas_jax.training.optimizer import OptimizerConfig
        opened = hf.open_contriever(folder)
        config, params = dataclasses.replace(opened.config, dropout_rate=0.0), opened.params()
        optimizer = OptimizerConfig(retriever_learning_rate=_RATE, schedule='fixed', warmup_steps=0, weight_decay=0.01, clip=0.0)
        spec = contrastive.make_contrastive_spec(config, partitioning.make_mesh(), pairs.sampled_lengths(), pairs.widths, batch_size,
                                                 options, StepConfig(compute_dtype=dtype))
        state = state_lib.create_contrastive({'retriever': layer_scan.stack_layers(params)}, spec,
                                             contrastive_step.optimizer_for(optimizer))
        self._state, run = state, contrastive_step.make_contrastive_step(spec, optimizer)
        sharding = partitioning.batch_sharding(spec.mesh, batch_size)

        def step(batch: types.ContrastiveBatch) -> float:
            self._state, metrics = run(self._state, jax.device_put(batch, sharding))
            return float(metrics['loss'])

        return step

    def _theirs(self, side: str, folder: str, options: ContrastiveConfig, pairs: Any, batch_size: int, dtype: str) -> Any:
        import torch
        import torch_contrastive

        from atlas_jax.apps.compare.pytorch import torch_models
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        retriever = torch_models.load_retriever(folder, 'sdpa' if side == 'tuned' else 'eager', 'true', 'average', False).to(device)
        # The rows that our queue starts with.
        rows = np.random.default_rng(0).standard_normal((options.queue_size, retriever.bert.config.hidden_size), np.float32)
        queue = torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True)).to(device) if options.moco else None
        settings = torch_contrastive.TorchContrastiveConfig(_TEMPERATURE, _RATE, _MOMENTUM, 0.0, True, True, 0.01)
        trainer = torch_contrastive.ContrastiveTrainer(retriever, settings, queue)

        def rows_of(tokens: np.ndarray, lengths: np.ndarray) -> torch_models.Rows:
            return torch_models.pad_rows(tokens, np.arange(tokens.shape[-1]) < lengths[..., None], None, device)

        def step(batch: types.ContrastiveBatch) -> float:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bfloat16'):
                return trainer.step(rows_of(np.asarray(batch.query_tokens), np.asarray(batch.query_lengths)),
                                    rows_of(np.asarray(batch.passage_tokens), np.asarray(batch.passage_lengths)))

        return step


if __name__ == '__main__':
    side = Side()
    line_process.serve({name: getattr(side, name) for name in ('load', 'step', 'memory')})
