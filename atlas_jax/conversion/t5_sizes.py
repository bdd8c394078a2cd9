"""A T5's configuration read off the shapes of its parameters, where no config.json says it."""

from collections.abc import Mapping
from typing import Any

from atlas_jax import errors
from atlas_jax.models import t5


def infer(where: Any, shapes: Mapping[str, tuple[int, ...]], tied: bool | None = None) -> t5.T5Config:
    """The configuration of a T5.

    What shapes do not say is T5's own: max distance 128, tanh-gelu where gated and else relu.

    Args:
      where: file or folder, for messages.
      shapes: our path, layers apart -> shape, heads joined.
      tied: whether the output kernel is the embedding; None: whether there is no output kernel.

    Raises ModelFolderError where a parameter that tells a size is missing or no matrix.
    """
    def need(path: str) -> tuple[int, ...]:
        shape = shapes.get(path)
        if shape is None or len(shape) != 2:
            raise errors.ModelFolderError(f'{where}: {path} {"is missing" if shape is None else f"has shape {list(shape)}"}, expected a '
                                          'matrix, as every T5 has; give the checkpoint of a T5')
        return shape

    def layers(side: str) -> int:
        return max(1, len({path.split('/')[1] for path in shapes if path.startswith(f'{side}/layers_')}))

    (vocab_size, emb_dim), (num_heads, buckets) = need('token_embedder/embedding'), need('encoder/relpos_bias/rel_embedding')
    joined_kv = need('encoder/layers_0/attention/query/kernel')[1]
    gated = 'encoder/layers_0/mlp/wi_0/kernel' in shapes
    if num_heads == 0 or joined_kv % num_heads:
        raise errors.ModelFolderError(f'{where}: encoder/layers_0/attention/query/kernel has {joined_kv} columns, expected a multiple of '
                                      f'the {num_heads} heads of encoder/relpos_bias/rel_embedding')
    try:
        return t5.T5Config(
            vocab_size=vocab_size, emb_dim=emb_dim, num_heads=num_heads, head_dim=joined_kv // num_heads,
            mlp_dim=need(f'encoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel')[1], num_encoder_layers=layers('encoder'),
            num_decoder_layers=layers('decoder'), mlp_activations=('gelu', 'linear') if gated else ('relu',),
            logits_via_embedding='decoder/logits_dense/kernel' not in shapes if tied is None else tied, relpos_buckets=buckets)
    except errors.ConfigError as error:
        raise errors.ModelFolderError(f'{where}: its parameters describe no T5: {error}') from error
