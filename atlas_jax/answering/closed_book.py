"""The closed-book likelihood of an answer: how likely the reader finds it without any passage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax.answering import prepare
from atlas_jax.model import AtlasModel
from atlas_jax.runtime import hosts
from atlas_jax.steps import evidence
from atlas_jax.steps import score as score_step
from atlas_jax.steps.spec import StepConfig
from atlas_jax.tasks.task import TaskExample


class ClosedBook:
    """Scores given answers by the reader's memory alone, for comparison with their passages."""

    def __init__(self, atlas: AtlasModel, examples: Sequence[TaskExample], batch_size: int,
                 step: StepConfig | None = None):
        """Prepares these examples; `batch_size` divides over the mesh, `step` has the dtypes."""
        self._prepared = prepare.prepare_examples(atlas, examples, None, 0, batch_size, step=step)
        self._step, self._size = score_step.make_score_step(self._prepared.spec), batch_size

    def log_likelihoods(self, params: Any, examples: Sequence[TaskExample],
                        tokens: np.ndarray) -> np.ndarray:
        """Returns the log likelihood [batch size] float32 of the tokens [batch size, length] int32
        that were generated for the examples.
        """
        batch, _ = self._prepared.batch(examples, self._size, params)
        weights = evidence.counted(tokens, hosts.to_host(batch.decoder_prompt_lengths),
                                   self._prepared.spec.config.reader.eos_id)
        sharding = self._prepared.sharding(self._size)
        rows = list(hosts.local_rows(sharding, self._size))
        # Reading padding would cost more than reading a short answer (evidence.of_answer).
        short = evidence.SHORT_ANSWER_TOKENS
        if not weights[:, short:].any():
            tokens, weights = tokens[:, :short], weights[:, :short]
        # The generated tokens: encoding their text again could give other pieces.
        choices = hosts.from_local({
            'choice_tokens': tokens[rows, None],
            'choice_weights': weights[rows, None].astype(np.float32)}, sharding, self._size)
        scored = self._step(params, batch.replace(**choices), None)
        return hosts.to_host(scored.log_likelihoods)[:, 0]
