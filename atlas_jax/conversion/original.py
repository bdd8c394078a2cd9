"""Checkpoints of the original PyTorch Atlas, `model.pth.tar`: both models, and the options they were trained with.

The file holds tensors under Hugging Face's names with `reader.` or `retriever.` before them, and `opt`, an argparse.Namespace. The
retriever is one encoder (`retriever.contriever.`) or two (`retriever.query_contriever.`, `retriever.passage_contriever.`).
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf, hf_configs, hf_names, sentence_transformer, t5_sizes, torch_file, weights
from atlas_jax.models import contriever

_TIED, _QUERY, _PASSAGE = 'retriever.contriever.', 'retriever.query_contriever.', 'retriever.passage_contriever.'
# Heads do not show in shapes. All BERTs that Google released have 64 dimensions a head; others need their config.json.
_HEADS_OF_BERT = {128: 2, 256: 4, 512: 8, 768: 12, 1024: 16}
_SOURCE = 'the sizes of its other parameters'


class Original:
    """An original checkpoint, its parameters not read yet.

    path: the file. options: `opt` as a dict. step: training steps done.

    Raises ModelFolderError for a broken file, and one that holds Python objects.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = torch_file.TorchFile(path, within='model')
        self.options = self._file.options
        step = self._file.root.get('step')
        self.step = step if isinstance(step, int) else 0

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of 'reader', 'retriever' and 'passage_encoder' that are in the file."""
        prefixes = {'reader': ('reader.',), 'retriever': (_TIED, _QUERY), 'passage_encoder': (_PASSAGE,)}
        return tuple(part for part, starts in prefixes.items() if any(name.startswith(starts) for name in self._file.names()))

    def reader(self) -> weights.Weights:
        """The T5. Raises ModelFolderError naming a parameter that is missing, unknown or mis-shaped."""
        self._need('reader')
        tied = self._output_is_tied()
        names = hf.t5_names(self._file, self._file.names(), tied, 'reader.')
        config = t5_sizes.infer(self.path, _our_shapes(self._file, names), tied)
        return hf.of_tensors(self._with_dropout(config), self._file, names, self.path, _SOURCE)

    def retriever(self, config_folder: pathlib.Path | None = None) -> weights.Weights:
        """The encoder of queries, and of passages where there is one for both.

        Args:
          config_folder: has the config.json of the BERT or Contriever, which tells the number of heads; None will do for Google's sizes.

        Raises ModelFolderError naming a parameter that is missing, unknown or mis-shaped, and where the number of heads is unknown.
        """
        self._need('retriever')
        tied = any(name.startswith(_TIED) for name in self._file.names())
        return self._encoder(_TIED if tied else _QUERY, config_folder)

    def passage_encoder(self, config_folder: pathlib.Path | None = None) -> weights.Weights:
        """The encoder of passages, where it is another one; as `retriever`."""
        self._need('passage_encoder')
        return self._encoder(_PASSAGE, config_folder)

    def _need(self, part: str) -> None:
        if part not in self.parts:
            raise errors.ModelFolderError(f'{self.path}: no {part} in it (found {", ".join(self.parts) or "nothing that is known"})')

    def _output_is_tied(self) -> bool:
        names = self._file.names()
        output, shared = 'reader.lm_head.weight', 'reader.shared.weight'
        if output not in names or shared not in names:
            return output not in names
        return self._file.shape(output) == self._file.shape(shared) and np.array_equal(self._file.read(output), self._file.read(shared))

    def _encoder(self, prefix: str, config_folder: pathlib.Path | None) -> weights.Weights:
        names = hf.contriever_names(self._file.names(), prefix)
        if config_folder is not None and (config_folder / 'config.json').is_file():
            described = sentence_transformer.describe(config_folder)
            config, source = hf_configs.read_contriever(described, 'second_moment'), f'{config_folder / "config.json"}'
        else:
            config, source = self._bert_config(names), _SOURCE
        return hf.of_tensors(self._with_dropout(config), self._file, names, self.path, source)

    def _bert_config(self, names: dict[str, str]) -> contriever.ContrieverConfig:
        def need(name: str) -> tuple[int, ...]:
            shape = self._file.shape(names[name]) if name in names else ()
            if len(shape) != 2:
                raise errors.ModelFolderError(f'{self.path}: the retriever\'s {name} has shape {list(shape)}, expected a matrix')
            return shape

        vocab_size, emb_dim = need('embeddings.word_embeddings.weight')
        if emb_dim not in _HEADS_OF_BERT:
            raise errors.ModelFolderError(f'{self.path}: a retriever of width {emb_dim} may have any number of heads; give the folder with '
                                          'its config.json by --retriever_tokenizer')
        layers = {name.split('.')[2] for name in names if name.startswith('encoder.layer.')}
        return contriever.ContrieverConfig(
            vocab_size=vocab_size, emb_dim=emb_dim, num_heads=_HEADS_OF_BERT[emb_dim], num_layers=max(1, len(layers)),
            mlp_dim=need('encoder.layer.0.intermediate.dense.weight')[0], max_positions=need('embeddings.position_embeddings.weight')[0],
            type_vocab_size=need('embeddings.token_type_embeddings.weight')[0], layer_norm='second_moment')

    def _with_dropout(self, config: Any) -> Any:
        rate = self.options.get('dropout')
        return dataclasses.replace(config, dropout_rate=float(rate)) if isinstance(rate, int | float) and 0 <= rate < 1 else config


def _our_shapes(tensors: torch_file.TorchFile, names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Shapes of a T5's parameters by our paths, for those that are there."""
    def layers(side: str) -> int:
        return max(1, len({name.split('.')[2] for name in names if name.startswith(f'{side}.block.')}))

    table = hf_names.t5_table_of(layers('encoder'), layers('decoder'), gated='encoder.block.0.layer.1.DenseReluDense.wi_0.weight' in names,
                                 tied='lm_head.weight' not in names)
    return {path: entry.shape(tensors.shape(names[entry.name])) for path, entry in table.items() if entry.name in names}
