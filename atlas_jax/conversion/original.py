"""Checkpoints of the original PyTorch Atlas, `model.pth.tar`: both models and their training
options.

The file holds tensors under Hugging Face's names with `reader.` or `retriever.` before them, and
`opt`, an argparse.Namespace. The retriever is one encoder (`retriever.contriever.`) or two
(`retriever.query_contriever.`, `retriever.passage_contriever.`).
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf, hf_names, retriever_folder, torch_file, weights
from atlas_jax.io import untrusted
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib

# The original's name of an option: our name and the type.
_Wanted = dict[str, tuple[str, type]]
_INPUTS: _Wanted = {
    'encoder_format': ('encoder_format', str), 'retriever_format': ('retriever_format', str),
    'decoder_format': ('decoder_format', str),
    'decoder_prompt_format': ('decoder_prompt_format', str),
    'text_maxlength': ('text_max_tokens', int), 'target_maxlength': ('target_max_tokens', int)}
_DISTILL: _Wanted = {
    'gold_score_mode': ('gold_score_mode', str), 'temperature_gold': ('temperature_gold', float),
    'temperature_score': ('temperature_score', float),
    'retriever_n_context': ('retriever_n_context', int)}
_TASK: _Wanted = {
    'qa_prompt_format': ('qa_prompt_format', str), 'mlm_noise_density': ('noise_density', float),
    'mlm_mean_noise_span_length': ('mean_span_tokens', float),
    'min_words_per_lm_instance': ('min_words', int),
    'min_lm_context_ratio': ('min_context_ratio', float),
    'max_lm_context_ratio': ('max_context_ratio', float),
    'multiple_choice_train_permutations': ('train_permutations', str),
    'multiple_choice_eval_permutations': ('eval_permutations', str)}


def inputs(path: pathlib.Path, options: dict[str, Any]) -> atlas.InputConfig:
    """Returns formats and lengths. The original does not limit queries; in ours the task does.

    Raises:
      ModelFolderError: an option has the wrong type; names `path`.
      ConfigError: a length is too small.
    """
    inputs = atlas.InputConfig(**_values(path, options, _INPUTS))
    # The original has one limit for both networks' passages.
    return dataclasses.replace(inputs, retriever_max_tokens=inputs.text_max_tokens)


def n_context(path: pathlib.Path, options: dict[str, Any]) -> int:
    """Returns the number of passages to read; 0 is closed book.

    Raises ModelFolderError if an option has the wrong type.
    """
    if options.get('closed_book') is True:
        return 0
    return _values(path, options, {'n_context': ('n_context', int)}).get('n_context', 1)


def task(path: pathlib.Path, options: dict[str, Any]) -> task_lib.Task:
    """Returns the task with its options, by default question answering.

    Raises:
      ModelFolderError: an option has the wrong type.
      ConfigError, FormatError: a value is invalid for the task.
    """
    name = _values(path, options, {'task': ('task', str)}).get('task', 'qa')
    # The options also have those of other tasks, at their defaults; only this task's matter.
    fields: set[str] = set()
    if name in registry.TASKS:
        fields = {field.name for field in dataclasses.fields(registry.TASKS[name])}
    values = _values(path, options, _TASK)
    return registry.make(name, **{name: values[name] for name in fields & values.keys()})


def distillation(path: pathlib.Path, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of DistillConfig that the checkpoint was trained with.

    Raises ModelFolderError if an option has the wrong type.
    """
    # DistillConfig accepts the original's names and values, ppmean and evalnormsum too.
    values = _values(path, options, _DISTILL)
    if options.get('query_side_retriever_training') is True:
        values['retriever_training'] = 'query_side'
    elif options.get('train_retriever') is False:
        values['retriever_training'] = 'frozen'
    return values


def options_to_json(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that JSON can store, for a file beside the converted model."""
    def plain(value: Any) -> bool:
        try:
            json.dumps(value)
        # ValueError: an integer with more digits than Python writes.
        except (TypeError, ValueError, RecursionError):
            return False
        return True
    return {name: value for name, value in sorted(options.items()) if plain(value)}


def named_folders(path: pathlib.Path, option: Any) -> list[pathlib.Path]:
    """Returns the places where the folder that an option names may lie: the path itself, and beside
    the checkpoint or up to 3 folders above it.
    """
    if not isinstance(option, str) or option in ('', 'none'):
        return []
    # The option is a path on another machine or a name on the Hub. Often only its last part exists
    # here.
    above = list(path.absolute().parents)[:4]
    return [
        pathlib.Path(option), *(parent / option for parent in above),
        *(parent / pathlib.PurePath(option).name for parent in above)]


def _values(path: pathlib.Path, options: dict[str, Any], wanted: _Wanted) -> dict[str, Any]:
    """Returns the options that have a value, by our names."""
    values: dict[str, Any] = {}
    for theirs, (ours, kind) in wanted.items():
        value = options.get(theirs)
        if value is None:
            continue
        # argparse keeps a default of 1 as an integer.
        if kind is float and type(value) is int:
            value = float(value)
        # The exact type: True is an int in Python but not a length.
        if type(value) is not kind:
            raise errors.ModelFolderError(f'{path}: opt.{theirs} is {untrusted.shown(value)}, '
                                          f'expected {kind.__name__}')
        values[ours] = value
    return values


_TIED, _QUERY = 'retriever.contriever.', 'retriever.query_contriever.'
_PASSAGE = 'retriever.passage_contriever.'
# Shapes do not show the number of heads. All BERTs that Google released have 64 dimensions per
# head; others need their config.json.
_HEADS_OF_BERT = {128: 2, 256: 4, 512: 8, 768: 12, 1024: 16}
_SOURCE = 'the sizes of its other parameters'


class Original:
    """An original checkpoint, its parameters not read yet.

    Attributes:
      path: the file.
      options: `opt` as a dict.
      step: training steps done.

    Raises:
      ModelFolderError: the file is broken, or contains Python objects.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        # Only `model` must consist of tensors. The optimisers' tensors are not read.
        self._file = torch_file.TorchFile(path, within='model')
        self.options = self._file.options
        # A file that was saved again may lack the step.
        step = self._file.root.get('step')
        self.step = step if isinstance(step, int) and 0 <= step < 2**31 else 0

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in the file, of 'reader', 'retriever' and 'passage_encoder'."""
        prefixes = {
            'reader': ('reader.', ), 'retriever': (_TIED, _QUERY), 'passage_encoder': (_PASSAGE, )}
        return tuple(part for part, starts in prefixes.items() if any(
            name.startswith(starts) for name in self._file.names()))

    def reader(self) -> weights.Weights[t5.T5Config]:
        """Opens the T5.

        Raises ModelFolderError if a parameter is missing, unknown or mis-shaped; names it.
        """
        self._need('reader')
        # The file has no config.json, so sizes come from shapes. They do not show whether the
        # output is tied.
        tied = self._output_is_tied()
        names = hf.t5_names(self._file, tied, 'reader.')
        # Shapes do not show the max distance. The original ignores its option for it and uses T5's
        # own 128.
        config = weights.infer_t5(self.path, _our_shapes(self._file, names), tied)
        return hf.of_tensors(self._with_dropout(config), self._file, names, self.path, _SOURCE)

    def retriever(
            self, config_folder: pathlib.Path | None = None
    ) -> weights.Weights[contriever.ContrieverConfig]:
        """Opens the query encoder, which also embeds passages if the file has one encoder for both.

        Args:
          config_folder: folder with the config.json of the BERT or Contriever, for the number of
            heads. None suffices for Google's sizes.

        Raises:
          ModelFolderError: a parameter is missing, unknown or mis-shaped, or the number of heads is
            unknown.
        """
        self._need('retriever')
        tied = any(name.startswith(_TIED) for name in self._file.names())
        return self._encoder(_TIED if tied else _QUERY, config_folder)

    def passage_encoder(
            self, config_folder: pathlib.Path | None = None
    ) -> weights.Weights[contriever.ContrieverConfig]:
        """Opens the passage encoder if the file has a separate one. See `retriever`.

        Raises ModelFolderError.
        """
        self._need('passage_encoder')
        return self._encoder(_PASSAGE, config_folder)

    def _need(self, part: str) -> None:
        if part not in self.parts:
            raise errors.ModelFolderError(f'{self.path}: no {part} in it (found '
                                          f'{", ".join(self.parts) or "nothing that is known"})')

    def _output_is_tied(self) -> bool:
        names = self._file.names()
        output, shared = 'reader.lm_head.weight', 'reader.shared.weight'
        if output not in names or shared not in names:
            return output not in names
        # PyTorch saves tied weights under both names: only their values show that they are tied.
        return self._file.shape(output) == self._file.shape(shared) and np.array_equal(
            self._file.read(output), self._file.read(shared))

    def _encoder(
            self, prefix: str,
            config_folder: pathlib.Path | None) -> weights.Weights[contriever.ContrieverConfig]:
        names = hf.contriever_names(self._file.names(), prefix)
        if config_folder is not None and (config_folder / 'config.json').is_file():
            # Released checkpoints were trained with a layer norm that divides by the second moment
            # (docs/design.md, section 6).
            config = hf.read_contriever_config(retriever_folder.describe(config_folder),
                                               'second_moment')
            source = str(config_folder / 'config.json')
        else:
            config, source = self._bert_config(names), _SOURCE
        return hf.of_tensors(self._with_dropout(config), self._file, names, self.path, source)

    def _bert_config(self, names: dict[str, str]) -> contriever.ContrieverConfig:
        # Embeddings are [rows, embed], linear layers [out, in].
        def need(name: str) -> tuple[int, ...]:
            shape = self._file.shape(names[name]) if name in names else ()
            if len(shape) != 2:
                raise errors.ModelFolderError(f'{self.path}: the retriever\'s {name} has shape '
                                              f'{list(shape)}, expected a matrix')
            return shape

        vocab_size, emb_dim = need('embeddings.word_embeddings.weight')
        if emb_dim not in _HEADS_OF_BERT:
            raise errors.ModelFolderError(
                f'{self.path}: a retriever of width {emb_dim} may have any number of heads; put '
                f'its config.json into {self.path.parent / "retriever"}, or give the folder that '
                'has it to `atlas-jax convert` by --retriever_tokenizer')
        # encoder.layer.<number>.…; at least 1, so that a file without layers fails with the name
        # of a missing parameter.
        layers = {name.split('.')[2] for name in names if name.startswith('encoder.layer.')}
        return contriever.ContrieverConfig(
            vocab_size=vocab_size, emb_dim=emb_dim, num_heads=_HEADS_OF_BERT[emb_dim],
            num_layers=max(1, len(layers)),
            mlp_dim=need('encoder.layer.0.intermediate.dense.weight')[0],
            max_positions=need('embeddings.position_embeddings.weight')[0],
            type_vocab_size=need('embeddings.token_type_embeddings.weight')[0],
            layer_norm='second_moment')

    def _with_dropout(self, config: weights.ConfigT) -> weights.ConfigT:
        # The option overrides the dropout in both models' configurations.
        rate = self.options.get('dropout')
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            return config
        return dataclasses.replace(config, dropout_rate=float(rate))


def _our_shapes(tensors: torch_file.TorchFile, names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a T5's parameters in the file, by our paths."""
    def layers(side: str) -> int:
        # <side>.block.<number>.…
        return max(1,
                   len({name.split('.')[2] for name in names if name.startswith(f'{side}.block.')}))

    # The table of the largest model that the names allow. Parameters that the file lacks are left
    # out here and found missing later.
    gated = 'encoder.block.0.layer.1.DenseReluDense.wi_0.weight' in names
    table = hf_names.t5_table(layers('encoder'), layers('decoder'), gated, 'lm_head.weight'
                              not in names)
    return {
        path: entry.shape(tensors.shape(names[entry.name]))
        for path, entry in table.items()
        if entry.name in names}
