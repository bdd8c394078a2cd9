"""Configuration of an Atlas model: the sizes of its two networks, and the formats of their inputs.
"""

import dataclasses
from typing import Any

from atlas_jax import errors
from atlas_jax.io import untrusted
from atlas_jax.models import contriever, limits, t5
from atlas_jax.tokenizers import formats
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer

_QUERY_TOKENS, _TARGET_TOKENS = 64, 16  # suit questions and short answers


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """Formats and length limits of reader and retriever inputs (the original's options).

    Attributes:
      encoder_format: reader input for one passage; fields {query}, {title}, {text}.
      closed_book_format: reader input without a passage; field {query}.
      retriever_format: retriever input for a passage, after the retriever's prompt; fields {title},
        {text}.
      retriever_query_format: retriever input for a query, after the retriever's prompt; field
        {query}.
      decoder_format: text of the decoder's target; field {target}, the task's target.
      decoder_prompt_format: start of every answer, before decoder_format; it has no loss. Field
        {query}; None for no prompt.
      text_max_tokens: limit of a reader input; the text is cut, never the query.
      retriever_max_tokens: limit of a retriever passage; None takes the retriever's limit. An index
        depends on it if it cuts passages.
      query_max_tokens: limit of a query, in tokens of either model, with the retriever's prompt and
        special tokens. None takes the task's limit, at most three quarters of text_max_tokens.
      target_max_tokens: limit of a target, eos included; None takes the task's limit.

    Raises ConfigError: a field has another type, a limit is below 2, or query_max_tokens leaves no
    room for text.
    """

    encoder_format: str = '{query} title: {title} context: {text}'
    closed_book_format: str = '{query}'
    retriever_format: str = '{title} {text}'
    retriever_query_format: str = '{query}'
    decoder_format: str = '{target}'
    decoder_prompt_format: str | None = None
    text_max_tokens: int = 200
    retriever_max_tokens: int | None = None
    query_max_tokens: int | None = None
    target_max_tokens: int | None = None

    def __post_init__(self):
        limits.check(self)
        if self.query_max_tokens is not None and self.query_max_tokens >= self.text_max_tokens:
            raise errors.ConfigError(f'InputConfig.query_max_tokens ({self.query_max_tokens}) '
                                     'must be smaller than '
                                     f'text_max_tokens ({self.text_max_tokens}), or no text fits '
                                     'beside a query')

    def for_task(self, query_tokens: int, target_tokens: int) -> 'InputConfig':
        """Returns the configuration with query and target limits: its own, or else the task's."""
        # At least a quarter of the input is for the passage.
        query = self.query_max_tokens or max(2, min(query_tokens, self.text_max_tokens * 3 // 4))
        return dataclasses.replace(self, query_max_tokens=query,
                                   target_max_tokens=self.target_max_tokens or target_tokens)

    @property
    def query_limit(self) -> int:
        """query_max_tokens, or the limit of question answering if it is None."""
        return self.query_max_tokens or max(2, min(_QUERY_TOKENS, self.text_max_tokens * 3 // 4))

    @property
    def target_limit(self) -> int:
        """target_max_tokens, or the limit of question answering if it is None."""
        return self.target_max_tokens or _TARGET_TOKENS


class RetrieverFormats:
    """Limits and formats of a retriever's inputs, from its own options and InputConfig.

    Attributes:
      retriever: sizes of the Contriever.
      inputs: formats and token limits.
    """

    # Not a dataclass: its fields would precede AtlasConfig.reader.
    retriever: contriever.ContrieverConfig
    inputs: InputConfig

    @property
    def retriever_max_tokens(self) -> int:
        """Limit of a retriever passage: the smaller of the retriever's limit and
        InputConfig.retriever_max_tokens.
        """
        own = self.retriever.input_tokens
        return own if self.inputs.retriever_max_tokens is None else min(
            own, self.inputs.retriever_max_tokens)

    @property
    def passage_format(self) -> str:
        """Format of a retriever passage: the retriever's prompt, then InputConfig.retriever_format.
        """
        return formats.literal(self.retriever.passage_prompt) + self.inputs.retriever_format

    @property
    def query_format(self) -> str:
        """Format of a retriever query: the retriever's prompt, then
        InputConfig.retriever_query_format.
        """
        return formats.literal(self.retriever.query_prompt) + self.inputs.retriever_query_format


@dataclasses.dataclass(frozen=True)
class RetrieverConfig(RetrieverFormats):
    """Configuration of a retriever that is trained without a reader."""

    retriever: contriever.ContrieverConfig
    inputs: InputConfig = InputConfig()


@dataclasses.dataclass(frozen=True)
class AtlasConfig(RetrieverFormats):
    """Configuration of reader and retriever.

    Attributes:
      reader: sizes of the T5.
      retriever: sizes of the Contriever.
      inputs: formats and token limits.
      n_context: number of passages that the reader reads; 0 is a closed book.

    Raises ConfigError: n_context is not a whole number of at least 0.
    """

    reader: t5.T5Config
    retriever: contriever.ContrieverConfig
    inputs: InputConfig = InputConfig()
    n_context: int = 1

    def __post_init__(self):
        limits.check(self)


@dataclasses.dataclass(frozen=True)
class Segments:
    """The formats of an InputConfig as token segments, special tokens included.

    `reader` and `closed_book` are None if a field of the format touches other text: the host
    assembles such inputs.
    """

    reader: tuple[formats.Segment, ...] | None
    closed_book: tuple[formats.Segment, ...] | None
    retriever: tuple[formats.Segment, ...]


def cut_segments(config: AtlasConfig, reader_tokenizer: T5Tokenizer,
                 retriever_tokenizer: BertTokenizer) -> Segments:
    """Cuts the formats of reader inputs and passages into token segments.

    Raises:
      FormatError: a format names an unknown field, or a field of the retriever's format touches a
        letter, a digit or another field.
    """
    def reader(template: str) -> tuple[formats.Segment, ...] | None:
        if formats.touching(template) is not None:
            return None
        # T5's input ends with eos and has no start token.
        return formats.cut_format(template, reader_tokenizer.encode,
                                  suffix_ids=(reader_tokenizer.eos_id, ))

    # BERT also splits words at punctuation marks, so fields may touch them.
    retriever = formats.cut_format(config.passage_format, retriever_tokenizer.encode,
                                   prefix_ids=(retriever_tokenizer.cls_id, ),
                                   suffix_ids=(retriever_tokenizer.sep_id, ),
                                   borders=formats.PUNCTUATION)
    return Segments(reader(config.inputs.encoder_format), reader(config.inputs.closed_book_format),
                    retriever)


def config_to_dict(config: AtlasConfig | RetrieverConfig) -> dict[str, Any]:
    """Converts the configuration to plain JSON values; `reader` is None for a RetrieverConfig."""
    return {'reader': None, **dataclasses.asdict(config)}


def config_from_dict(values: dict[str, Any]) -> AtlasConfig | RetrieverConfig:
    """Reads the result of `config_to_dict`. JSON's lists become tuples; fields that older files
    lack get their defaults.

    Raises:
      ModelFolderError: a field is unknown or missing, or has an invalid value.
    """
    # JSON has no tuples. Configurations must be hashable, because programs are cached by them.
    def tuples(part: str) -> dict[str, Any]:
        fields = values[part]
        if not isinstance(fields, dict):
            raise TypeError(f'{part} is {untrusted.shown(fields)}, expected an object')
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()}

    try:
        retriever, given = contriever.ContrieverConfig(**tuples('retriever')), tuples('inputs')
        inputs = InputConfig(**_old_limit(given) | given)
        # A file without the key is damaged.
        if values['reader'] is None:
            return RetrieverConfig(retriever, inputs)
        return AtlasConfig(t5.T5Config(**tuples('reader')), retriever, inputs, values['n_context'])
    except (KeyError, TypeError, errors.ConfigError) as error:
        raise errors.ModelFolderError('model.json does not describe an Atlas model of this '
                                      f'version: {error}') from error


def _old_limit(inputs: dict[str, Any]) -> dict[str, Any]:
    # Before retriever_max_tokens existed, text_max_tokens limited the passages of both networks.
    return {'retriever_max_tokens': inputs['text_max_tokens']
            } if 'retriever_max_tokens' not in inputs else {}
