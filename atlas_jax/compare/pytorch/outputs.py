"""Everything that a comparison looks at, from one batch: embeddings, states, logits, losses, tokens, gradients."""

import numpy as np
import torch

from atlas_jax.compare.pytorch import flat, joint_step


def outputs(model: joint_step.Model, arrays: dict[str, np.ndarray], max_length: int, gradients: bool) -> dict[str, np.ndarray]:
    """One batch's quantities under the names of `atlas-jax compare`.

    Args:
      model: its variant decides how.
      arrays: of the batch; parts whose keys are missing are left out.
      max_length: of the greedy sequences, the start token counted; 0 generates none.
      gradients: also grads/reader/<name> and grads/retriever/<name>, of the reader's and of the retriever's loss.
    """
    inputs = model.inputs(arrays)
    found = {'encoder_states': _states(model, inputs, arrays['reader_ids'].shape[-1])}
    if max_length:
        found['generated'] = _generate(model, inputs, max_length)
    if inputs.targets is None:
        if inputs.retriever_queries is not None:
            with torch.no_grad():
                found['query_embeddings'] = model.embed(inputs.retriever_queries)
                found['passage_embeddings'] = model.embed(inputs.retriever_passages)
        return _arrays(found)
    with torch.set_grad_enabled(gradients):
        results = model.losses(inputs)
    if gradients:
        for part in model.parameters():
            part.grad = None
        (results['reader_loss'] + results.get('retriever_loss', 0)).backward()
        found |= _gradients('reader', model.t5)
        if inputs.retriever_queries is not None:
            found |= _gradients('retriever', model.retriever.bert)
    return _arrays(found | results)


@torch.no_grad()
def _states(model: joint_step.Model, inputs: joint_step.Inputs, width: int) -> torch.Tensor:
    """[batch, n * width, dim], zeros on padding."""
    if model.variant.flat:
        layout = flat.Layout(inputs.passages, model.dtype)
        rows = layout.to_rows(model.reader.encode_stream(layout))
    else:
        memory = model.reader.encode(inputs.passages)
        rows = memory.content * memory.mask[..., None]
    rows = torch.nn.functional.pad(rows[:, :width], (0, 0, 0, max(width - rows.shape[1], 0)))
    return rows.reshape(inputs.passages.ids.shape[0], -1, rows.shape[-1])


@torch.no_grad()
def _generate(model: joint_step.Model, inputs: joint_step.Inputs, max_length: int) -> torch.Tensor:
    """[batch, max_length] int64, the start token first, 0 after the end."""
    reader = joint_step.readers.PaddedReader(model.t5)
    memory = reader.fuse(reader.encode(inputs.passages), inputs.passages.ids.shape[0])
    tokens = reader.generate(memory, max_length, beams=1)
    return torch.nn.functional.pad(tokens, (0, max_length - tokens.shape[1]), value=model.t5.config.pad_token_id)


def _gradients(part: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f'grads/{part}/{name}': torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for name, value in module.named_parameters()}


def _arrays(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    def to_numpy(value: torch.Tensor) -> np.ndarray:
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

    return {name: to_numpy(value) for name, value in found.items()}
