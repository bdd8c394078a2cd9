"""The keys of other projects' configuration files, each with a rule: read, harmless, or bound to
certain values.

A file that asks for another computation than ours is refused, naming the key. It would otherwise
load and compute wrongly.

sentence-transformers' files have few keys, which all change embeddings: unknown ones are refused.
Unknown keys of config.json and of tokenizers' files are accepted: transformers writes every
argument it was ever given there, and its BERT and T5 read only the keys below. Custom code could
read more; `auto_map` refuses it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Harmless:
    """A key that does not change what we compute, and the reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Only:
    """A key that must have one of these values.

    Special tokens may be objects with the value as `content`.
    """

    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Honoured:
    """A key whose value is read and used."""


Rule = Harmless | Only | Honoured
Table = Mapping[str, Rule]
_OFF = Only((None, False, 0, '', [], {}))


def _honoured(names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Honoured())


def _harmless(reason: str, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Harmless(reason))


def _off(names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), _OFF)


# What transformers writes into the config.json of any model.
_ANY_CONFIG: Table = {
    **_harmless('origin of the file', """
        _name_or_path _commit_hash transformers_version architectures tokenizer_class
        finetuning_task _num_labels name_or_path"""),
    **_harmless('weights are read as float32; activations have their own setting', """
        dtype torch_dtype use_bfloat16"""),
    **_harmless('belongs to a classifier, which is not read', """
        id2label label2id problem_type num_labels classifier_dropout classifier_dropout_prob"""),
    **_harmless("form of a PyTorch module's outputs", """
        return_dict output_hidden_states output_attentions output_past torchscript"""),
    **_harmless('trades memory for time; the numbers stay the same', """
        use_cache gradient_checkpointing chunk_size_feed_forward xla_device attn_implementation
        _attn_implementation _attn_implementation_autoset _attn_implementation_internal"""),
    **_harmless('spread of fresh weights', 'initializer_range initializer_factor'),
    **_harmless('generation has its own configuration, DecodingConfig', """
        max_length min_length num_beams do_sample temperature top_k top_p typical_p
        repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
        early_stopping num_return_sequences num_beam_groups diversity_penalty bad_words_ids
        forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens
        remove_invalid_values exponential_decay_length_penalty return_dict_in_generate
        output_scores prefix task_specific_params sep_token_id"""),
    **_off("""
        is_decoder cross_attention_hidden_size pruned_heads quantization_config auto_map
        tie_encoder_decoder""")}

T5_CONFIG: Table = {
    **_ANY_CONFIG,
    **_honoured("""
        model_type vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads
        relative_attention_num_buckets relative_attention_max_distance dropout_rate
        layer_norm_epsilon feed_forward_proj pad_token_id eos_token_id decoder_start_token_id
        tie_word_embeddings scale_decoder_outputs"""),
    **_harmless('transformers computes it from feed_forward_proj', 'dense_act_fn is_gated_act'),
    **_harmless('relative positions have no limit, and T5 has no first token', """
        n_positions bos_token_id"""),
    **_harmless("T5's decoder always has it", 'add_cross_attention'),
    'is_encoder_decoder': Only((True, ))}

BERT_CONFIG: Table = {
    **_ANY_CONFIG,
    **_honoured("""
        model_type vocab_size hidden_size num_attention_heads num_hidden_layers intermediate_size
        max_position_embeddings type_vocab_size layer_norm_eps hidden_dropout_prob layer_norm
        pooling normalize"""),
    **_harmless('dropout has one rate, hidden_dropout_prob', 'attention_probs_dropout_prob'),
    **_harmless('lengths mark padding, and the tokenizer adds the first and last token', """
        pad_token_id bos_token_id eos_token_id"""),
    **_harmless('belongs to the pooler, which is not read', """
        pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
        pooler_type directionality"""),
    **_harmless('belongs to the output layer of pre-training, which is not read', """
        tie_word_embeddings"""),
    **_off('is_encoder_decoder add_cross_attention'),
    'hidden_act': Only(('gelu', )),
    'position_embedding_type': Only(('absolute', None))}

MODULE: Table = {
    **_honoured('type path'),
    **_harmless('order and names of the list itself', 'idx name'),
    **_off('kwargs')}

POOLING: Table = _honoured("""
    word_embedding_dimension embedding_dimension pooling_mode include_prompt pooling_mode_cls_token
    pooling_mode_mean_tokens pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens
    pooling_mode_weightedmean_tokens pooling_mode_lasttoken""")

NORMALIZE: Table = dict.fromkeys(('module_input_name', 'module_output_name'),
                                 Only(('sentence_embedding', None)))

# Arguments of transformers' loaders that change how a model is loaded, not what it computes.
LOADER_ARGUMENTS: Table = _harmless('how a model is loaded', """
    add_pooling_layer attn_implementation dtype torch_dtype trust_remote_code use_fast
    low_cpu_mem_usage""")
LOADERS = ('model_args', 'tokenizer_args', 'config_args', 'model_kwargs', 'processor_kwargs',
           'config_kwargs')

SENTENCE_BERT: Table = {
    **_honoured('max_seq_length do_lower_case'),
    **_honoured(' '.join(LOADERS)),
    **_harmless('trades memory for time; the numbers stay the same', 'unpad_inputs'),
    **_off('processing_kwargs query_length document_length query_expansion tokenizer_name_or_path'),
    'transformer_task': Only(('feature-extraction', )),
    'module_output_name': Only(('token_embeddings', )),
    'modality_config': Only(
        ({'text': {'method': 'forward', 'method_output_name': 'last_hidden_state'}}, ))}

SENTENCE_TRANSFORMERS: Table = {
    **_honoured('prompts default_prompt_name similarity_fn_name truncate_dim'),
    **_harmless('origin of the file', '__version__ requirements'),
    'model_type': Only(('SentenceTransformer', None))}

_ANY_TOKENIZER: Table = {
    **_harmless('formats add special tokens; InputConfig cuts and pads inputs', """
        add_special_tokens max_length stride truncation_strategy pad_to_multiple_of
        pad_token_type_id padding_side model_input_names padding"""),
    **_harmless('used to turn ids back into text', 'clean_up_tokenization_spaces'),
    **_harmless('origin of the file', """
        name_or_path special_tokens_map_file tokenizer_file vocab_file use_fast is_local
        local_files_only backend processor_class verbose"""),
    **_off('split_special_tokens auto_map'),
    'truncation_side': Only(('right', None))}

BERT_TOKENIZER: Table = {
    **_ANY_TOKENIZER,
    # sentence-transformers keeps the limit of inputs in model_max_length.
    **_honoured("""
        do_lower_case strip_accents tokenize_chinese_chars model_max_length added_tokens_decoder
        additional_special_tokens extra_special_tokens"""),
    **_harmless('BERT begins with [CLS]', 'bos_token'),
    **_harmless('BERT ends with [SEP]', 'eos_token'),
    **_off('never_split'),
    'tokenizer_class': Only(('BertTokenizer', 'BertTokenizerFast', 'PreTrainedTokenizerFast',
                             'TokenizersBackend', None)),
    'do_basic_tokenize': Only((True, None)),
    'pad_token': Only(('[PAD]', None)),
    'unk_token': Only(('[UNK]', None)),
    'cls_token': Only(('[CLS]', None)),
    'sep_token': Only(('[SEP]', None)),
    'mask_token': Only(('[MASK]', None))}

T5_TOKENIZER: Table = {
    **_ANY_TOKENIZER,
    **_honoured('extra_ids added_tokens_decoder additional_special_tokens extra_special_tokens'),
    **_harmless('InputConfig cuts inputs', 'model_max_length'),
    **_harmless('every format puts a space before text beside a sentinel, where both ways agree',
                'legacy add_prefix_space'),
    **_off('sp_model_kwargs bos_token cls_token sep_token mask_token'),
    'tokenizer_class': Only(('T5Tokenizer', 'T5TokenizerFast', 'MT5Tokenizer', 'MT5TokenizerFast',
                             'PreTrainedTokenizerFast', 'TokenizersBackend', None)),
    'pad_token': Only(('<pad>', None)),
    'unk_token': Only(('<unk>', None)),
    'eos_token': Only(('</s>', None))}

BERT_SPECIAL = frozenset({'[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'})
T5_SPECIAL = frozenset({'<pad>', '<unk>', '</s>'})


def check(path: str | pathlib.Path, values: Mapping[str, Any], table: Table, *,
          unknown: bool = False) -> None:
    """Checks the keys of one file.

    Args:
      path: the file, or an object in it, for messages.
      values: its content.
      table: the rules of its keys.
      unknown: accepts keys without a rule.

    Raises:
      ModelFolderError: a key is unknown, or asks for another computation than ours; names it.
    """
    for key, value in values.items():
        rule = table.get(key)
        if rule is None and not unknown:
            raise errors.ModelFolderError(f'{path}: the key {key!r} (value {_short(value)}) is '
                                          'not known here and may change what the model computes; '
                                          f'known are {", ".join(sorted(table))}')
        if isinstance(rule, Only) and not any(_same(_content(value), one) for one in rule.values):
            expected = ' or '.join(
                _short(one) for one in rule.values[:3] if one is not None) or 'null'
            raise errors.ModelFolderError(f'{path}: {key} is {_short(value)}; only {expected} is '
                                          'computed here, so this model is not supported')


def check_tokens(path: pathlib.Path, values: Mapping[str, Any], known: frozenset[str],
                 start: str | None = None) -> None:
    """Checks that a tokenizer's file adds only `known` tokens, or tokens that begin with `start`.

    Raises:
      ModelFolderError: another token was added; our tokenizer would never produce its id. Names it.
    """
    for key in ('added_tokens_decoder', 'additional_special_tokens', 'extra_special_tokens'):
        added = values.get(key) or ()
        for token in added.values() if isinstance(added, dict) else added:
            text = _content(token)
            # A damaged file may have a list or an object here, which cannot be looked up in a set.
            is_known = isinstance(text, str) and text in known
            if not is_known and not (start and isinstance(text, str) and text.startswith(start)):
                raise errors.ModelFolderError(f'{path}: {key} adds the token {_short(text)}, '
                                              'which is not supported; give the tokenizer '
                                              'without it')


def _content(value: Any) -> Any:
    """Returns a special token's text; transformers writes a string or an object with `content`."""
    return value['content'] if isinstance(value, dict) and isinstance(value.get('content'),
                                                                      str) else value


def _same(value: Any, other: Any) -> bool:
    # JSON tells 0 from false and 1 from true; Python's == does not.
    return type(value) is type(other) and value == other


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:80]}…'
