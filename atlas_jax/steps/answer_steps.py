"""Compiled answer steps, kept."""

import dataclasses

from atlas_jax.decoding import DecodingConfig
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import spec as spec_lib

# Compiled steps outlive the model they were made for: the next one of the same sizes need not compile again.
_ANSWER_STEPS: dict[tuple[spec_lib.StepSpec, DecodingConfig], answer_step.AnswerStep] = {}


def for_spec(spec: spec_lib.StepSpec, config: DecodingConfig) -> answer_step.AnswerStep:
    """A jitted answer step that serves `spec`: one made before, where its capacities are large enough, else a new one."""
    for (known, known_config), step in _ANSWER_STEPS.items():
        if known_config == config and _covers(known, spec):
            return step
    return _ANSWER_STEPS.setdefault((spec, config), answer_step.make_answer_step(spec, config))


def _covers(known: spec_lib.StepSpec, spec: spec_lib.StepSpec) -> bool:
    """Whether a step made for `known` also serves `spec`: same model and passages, room for at least as many tokens."""
    same = dataclasses.replace(known, read=()) == dataclasses.replace(spec, read=())
    return same and known.read[-1].stream_tokens >= spec.read[-1].stream_tokens and known.read[-1].longest >= spec.read[-1].longest
