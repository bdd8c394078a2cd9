"""Every key of the configuration files of models from elsewhere: honoured, without influence for a reason, or bound to one value.

A file that says something else than what is computed here is refused by the key's name, for it would load and compute wrongly.

Unknown keys are refused in the files of sentence-transformers, whose few keys all change embeddings. In config.json and the tokenizers'
files they are left alone: transformers writes every argument it was ever given there, its BERT and T5 read no keys but those below, and
code of its own, which could read more, is refused by `auto_map`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Harmless:
    """A key that changes nothing that is computed here, and the reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Only:
    """A key that must have one of these values. Special tokens may be objects with the value as `content`."""

    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Honoured:
    """A key whose value is read and used."""


Rule = Harmless | Only | Honoured
Table = Mapping[str, Rule]
HONOURED = Honoured()
_NOTHING: tuple[Any, ...] = (None, False, 0, '', [], {})
_OFF = Only(_NOTHING)


def _honoured(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, HONOURED)


def _harmless(reason: str, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, Harmless(reason))


# What transformers writes into the config.json of any model.
_ANY_CONFIG: Table = {
    **_harmless('origin of the file', '_name_or_path', '_commit_hash', 'transformers_version', 'architectures', 'tokenizer_class',
                'finetuning_task', '_num_labels', 'name_or_path'),
    **_harmless('weights are read as float32, activations have a setting of their own', 'dtype', 'torch_dtype', 'use_bfloat16'),
    **_harmless('of the classes of a classifier, which is not read', 'id2label', 'label2id', 'problem_type', 'num_labels',
                'classifier_dropout', 'classifier_dropout_prob'),
    **_harmless('form of the outputs of a PyTorch module', 'return_dict', 'output_hidden_states', 'output_attentions', 'output_past',
                'torchscript'),
    **_harmless('memory against time, the same numbers', 'use_cache', 'gradient_checkpointing', 'chunk_size_feed_forward', 'xla_device',
                'attn_implementation', '_attn_implementation', '_attn_implementation_autoset', '_attn_implementation_internal'),
    **_harmless('spread of fresh weights', 'initializer_range', 'initializer_factor'),
    **_harmless('generation has a configuration of its own, DecodingConfig', 'max_length', 'min_length', 'num_beams', 'do_sample',
                'temperature', 'top_k', 'top_p', 'typical_p', 'repetition_penalty', 'length_penalty', 'no_repeat_ngram_size',
                'encoder_no_repeat_ngram_size', 'early_stopping', 'num_return_sequences', 'num_beam_groups', 'diversity_penalty',
                'bad_words_ids', 'forced_bos_token_id', 'forced_eos_token_id', 'suppress_tokens', 'begin_suppress_tokens',
                'remove_invalid_values', 'exponential_decay_length_penalty', 'return_dict_in_generate', 'output_scores', 'prefix',
                'task_specific_params', 'sep_token_id'),
    **dict.fromkeys(('is_decoder', 'cross_attention_hidden_size', 'pruned_heads', 'quantization_config', 'auto_map', 'tie_encoder_decoder'),
                    _OFF)}

T5_CONFIG: Table = {
    **_ANY_CONFIG,
    **_honoured('model_type', 'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_decoder_layers', 'num_heads',
                'relative_attention_num_buckets', 'relative_attention_max_distance', 'dropout_rate', 'layer_norm_epsilon',
                'feed_forward_proj', 'pad_token_id', 'eos_token_id', 'decoder_start_token_id', 'tie_word_embeddings',
                'scale_decoder_outputs'),
    **_harmless('transformers computes it from feed_forward_proj', 'dense_act_fn', 'is_gated_act'),
    **_harmless('relative positions have no limit, and T5 has no first token', 'n_positions', 'bos_token_id'),
    'is_encoder_decoder': Only((True,)), 'add_cross_attention': Harmless("T5's decoder always has it")}

BERT_CONFIG: Table = {
    **_ANY_CONFIG,
    **_honoured('model_type', 'vocab_size', 'hidden_size', 'num_attention_heads', 'num_hidden_layers', 'intermediate_size',
                'max_position_embeddings', 'type_vocab_size', 'layer_norm_eps', 'hidden_dropout_prob', 'layer_norm', 'pooling',
                'normalize'),
    **_harmless('dropout has one rate, that of hidden_dropout_prob', 'attention_probs_dropout_prob'),
    **_harmless('padding is left out by its length, and an encoder starts and ends as its tokenizer says', 'pad_token_id', 'bos_token_id',
                'eos_token_id'),
    **_harmless('of the pooler, which is not read', 'pooler_fc_size', 'pooler_num_attention_heads', 'pooler_num_fc_layers',
                'pooler_size_per_head', 'pooler_type', 'directionality'),
    **_harmless('of the output layer of pre-training, which is not read', 'tie_word_embeddings'),
    'hidden_act': Only(('gelu',)), 'position_embedding_type': Only(('absolute', None)), 'is_encoder_decoder': _OFF,
    'add_cross_attention': _OFF}

MODULE: Table = {**_honoured('type', 'path'), **_harmless('order and names of the list itself', 'idx', 'name'), 'kwargs': _OFF}

_POOLING_MODES = ('pooling_mode_cls_token', 'pooling_mode_mean_tokens', 'pooling_mode_max_tokens', 'pooling_mode_mean_sqrt_len_tokens',
                  'pooling_mode_weightedmean_tokens', 'pooling_mode_lasttoken')
POOLING: Table = _honoured('word_embedding_dimension', 'embedding_dimension', 'pooling_mode', 'include_prompt', *_POOLING_MODES)

NORMALIZE: Table = dict.fromkeys(('module_input_name', 'module_output_name'), Only(('sentence_embedding', None)))

_LOADING = ('add_pooling_layer', 'attn_implementation', 'dtype', 'torch_dtype', 'trust_remote_code', 'use_fast', 'low_cpu_mem_usage')
# Arguments of transformers' loaders; these change how a model is loaded, never what it computes.
LOADER_ARGUMENTS: Table = _harmless('how a model is loaded', *_LOADING)
LOADERS = ('model_args', 'tokenizer_args', 'config_args', 'model_kwargs', 'processor_kwargs', 'config_kwargs')

SENTENCE_BERT: Table = {
    **_honoured('max_seq_length', 'do_lower_case', *LOADERS),
    **_harmless('memory against time, the same numbers', 'unpad_inputs'),
    'transformer_task': Only(('feature-extraction',)), 'module_output_name': Only(('token_embeddings',)),
    'modality_config': Only(({'text': {'method': 'forward', 'method_output_name': 'last_hidden_state'}},)),
    **dict.fromkeys(('processing_kwargs', 'query_length', 'document_length', 'query_expansion', 'tokenizer_name_or_path'), _OFF)}

SENTENCE_TRANSFORMERS: Table = {
    **_honoured('prompts', 'default_prompt_name', 'similarity_fn_name', 'truncate_dim'),
    **_harmless('origin of the file', '__version__', 'requirements'), 'model_type': Only(('SentenceTransformer', None))}

_ANY_TOKENIZER: Table = {
    **_harmless('formats add special tokens, and inputs are cut and padded by InputConfig', 'add_special_tokens', 'max_length', 'stride',
                'truncation_strategy', 'pad_to_multiple_of', 'pad_token_type_id', 'padding_side', 'model_input_names', 'padding'),
    **_harmless('of turning ids back to text', 'clean_up_tokenization_spaces'),
    **_harmless('origin of the file', 'name_or_path', 'special_tokens_map_file', 'tokenizer_file', 'vocab_file', 'use_fast', 'is_local',
                'local_files_only', 'backend', 'processor_class', 'verbose'),
    'truncation_side': Only(('right', None)), 'split_special_tokens': _OFF, 'auto_map': _OFF}

BERT_TOKENIZER: Table = {
    **_ANY_TOKENIZER,
    # sentence-transformers keeps the limit of inputs here.
    **_honoured('do_lower_case', 'strip_accents', 'tokenize_chinese_chars', 'model_max_length', 'added_tokens_decoder',
                'additional_special_tokens', 'extra_special_tokens'),
    'tokenizer_class': Only(('BertTokenizer', 'BertTokenizerFast', 'PreTrainedTokenizerFast', 'TokenizersBackend', None)),
    'do_basic_tokenize': Only((True, None)), 'never_split': _OFF, 'pad_token': Only(('[PAD]', None)), 'unk_token': Only(('[UNK]', None)),
    'cls_token': Only(('[CLS]', None)), 'sep_token': Only(('[SEP]', None)), 'mask_token': Only(('[MASK]', None)),
    'bos_token': Harmless('BERT begins with [CLS]'), 'eos_token': Harmless('BERT ends with [SEP]')}

T5_TOKENIZER: Table = {
    **_ANY_TOKENIZER,
    **_honoured('extra_ids', 'added_tokens_decoder', 'additional_special_tokens', 'extra_special_tokens'),
    **_harmless('inputs are cut by InputConfig', 'model_max_length'),
    **_harmless('text beside a sentinel stands behind a space in every format, where the two ways agree', 'legacy', 'add_prefix_space'),
    'tokenizer_class': Only(('T5Tokenizer', 'T5TokenizerFast', 'MT5Tokenizer', 'MT5TokenizerFast', 'PreTrainedTokenizerFast',
                             'TokenizersBackend', None)),
    'sp_model_kwargs': _OFF, 'pad_token': Only(('<pad>', None)), 'unk_token': Only(('<unk>', None)), 'eos_token': Only(('</s>', None)),
    'bos_token': _OFF, 'cls_token': _OFF, 'sep_token': _OFF, 'mask_token': _OFF}

BERT_SPECIAL = frozenset({'[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'})
T5_SPECIAL = frozenset({'<pad>', '<unk>', '</s>'})


def check(path: str | pathlib.Path, values: Mapping[str, Any], table: Table, *, unknown: bool = False) -> None:
    """Checks the keys of one file.

    Args:
      path: of the file, for messages, or of an object in it.
      values: its content.
      table: the rules of its keys.
      unknown: accepts keys without a rule.

    Raises:
      ModelFolderError: a key has another value than the one that is computed, or is unknown; names it.
    """
    for key, value in values.items():
        rule = table.get(key)
        if rule is None and not unknown:
            raise errors.ModelFolderError(f'{path}: the key {key!r} (value {_short(value)}) is not known here and may change what the '
                                          f'model computes; known are {", ".join(sorted(table))}')
        if isinstance(rule, Only) and not any(_same(_content(value), one) for one in rule.values):
            expected = ' or '.join(_short(one) for one in rule.values[:3] if one is not None) or 'null'
            raise errors.ModelFolderError(f'{path}: {key} is {_short(value)}; only {expected} is computed here, so this model is not '
                                          'supported')


def check_tokens(path: pathlib.Path, values: Mapping[str, Any], known: frozenset[str], start: str | None = None) -> None:
    """Checks that a tokenizer's file adds no token but those `known`, or those that begin with `start`.

    Raises:
      ModelFolderError: a token was added, which has an id here that no text gets; names it.
    """
    for key in ('added_tokens_decoder', 'additional_special_tokens', 'extra_special_tokens'):
        added = values.get(key) or ()
        for token in added.values() if isinstance(added, dict) else added:
            text = _content(token)
            # A damaged file may have a list or an object here, which no set holds.
            is_known = isinstance(text, str) and text in known
            if not is_known and not (start and isinstance(text, str) and text.startswith(start)):
                raise errors.ModelFolderError(f'{path}: {key} adds the token {_short(text)}, which is not supported; give the tokenizer '
                                              'without it')


def _content(value: Any) -> Any:
    """Returns a special token's text; transformers writes it bare or as an object with `content`."""
    return value['content'] if isinstance(value, dict) and isinstance(value.get('content'), str) else value


def _same(value: Any, other: Any) -> bool:
    # 0 is no False and 1 no True here: JSON keeps them apart.
    return type(value) is type(other) and value == other


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:80]}…'
