"""The training data of a retriever alone: crops of the passages in files, a store or an index, or
questions with passages.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import index_manifest
from atlas_jax.input import crops, passage_tokens, pipeline, question_passages, text_inputs
from atlas_jax.io.folder import Folder
from atlas_jax.model import RetrieverModel
from atlas_jax.tokenizers import formats
from atlas_jax.training.contrastive import ContrastiveConfig

_CROPS = {field.name: field.default for field in dataclasses.fields(crops.CropConfig)}
Around = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class RetrieverData:
    """The files or the folder that a retriever learns from; give exactly one.

    Attributes:
      train_file: JSON lines with text, and optionally title and section: a file, a folder, a
        pattern, or several of these.
      store_dir: store with passages.
      index_dir: index with passages; deleted ones are left out.
      questions_file: JSON lines of questions with positive and negative passages
        (docs/retriever.md), or DPR's files.

    Raises:
      ConfigError: none or several are given.
    """

    train_file: str | Sequence[str] | None = None
    store_dir: str | None = None
    index_dir: str | None = None
    questions_file: str | Sequence[str] | None = None

    def __post_init__(self):
        names = tuple(field.name for field in dataclasses.fields(self))
        given = [name for name in names if getattr(self, name)]
        if len(given) != 1:
            raise errors.ConfigError(f'a retriever learns from one of {", ".join(names)}; '
                                     f'{" and ".join(given) or "none"} is given')


def pairs_of(data: RetrieverData, model: RetrieverModel,
             contrastive: ContrastiveConfig) -> pipeline.Pairs:
    """Reads the data, and returns the pairs that training draws from it.

    Raises:
      InputFileError, StoreError, IndexFolderError: missing or damaged, or a passage that is shorter
        than a crop. ConfigError: a crop that is longer than the retriever's input, hard negatives
        for passages without questions, or options of crops for questions.
    """
    if data.questions_file:
        if others := [
                name for name, value in _CROPS.items() if getattr(contrastive, name) != value]:
            raise errors.ConfigError(f'ContrastiveConfig.{others[0]} is '
                                     f'{getattr(contrastive, others[0])!r}, an option of crops, '
                                     'and questions_file gives whole passages; leave it out')
        query = _encoder(model, model.config.query_format,
                         min(model.config.inputs.query_limit, model.config.retriever.input_tokens))
        passage = _encoder(model, model.config.passage_format, model.config.retriever_max_tokens)
        return question_passages.QuestionPairs(data.questions_file, query, passage,
                                               contrastive.hard_negatives)
    if contrastive.hard_negatives:
        raise errors.ConfigError('ContrastiveConfig.hard_negatives is '
                                 f'{contrastive.hard_negatives}; crops have none: give '
                                 'questions_file, or 0')
    query_around = around(model, model.config.query_format)
    passage_around = around(model, model.config.passage_format)
    return crops.Crops(_passages(data, model), contrastive, model.tokenizer, query_around,
                       passage_around, model.config.retriever_max_tokens)


def around(model: RetrieverModel, template: str) -> Around:
    """Returns the token ids before and after a format's fields: special tokens and prompts.

    Raises FormatError.
    """
    segments = formats.cut_format(template, model.tokenizer.encode,
                                  prefix_ids=(model.tokenizer.cls_id, ),
                                  suffix_ids=(model.tokenizer.sep_id, ),
                                  borders=formats.PUNCTUATION)
    # A crop replaces all fields, and the literals between them.
    fields = [number for number, segment in enumerate(segments) if segment.kind != 'literal']

    def literal(part: Sequence[formats.Segment]) -> tuple[int, ...]:
        return tuple(token for segment in part for token in segment.ids)

    return literal(segments[:fields[0]]), literal(segments[fields[-1] + 1:])


def _encoder(model: RetrieverModel, template: str, limit: int) -> text_inputs.FormatEncoder:
    return text_inputs.FormatEncoder(template, model.tokenizer.encode, limit,
                                     (model.tokenizer.cls_id, ), (model.tokenizer.sep_id, ),
                                     formats.PUNCTUATION)


def _passages(data: RetrieverData, model: RetrieverModel) -> passage_tokens.PassageTokens:
    if data.train_file:
        return passage_tokens.tokens_of_files(data.train_file, model.tokenizer)
    if data.store_dir:
        return passage_tokens.tokens_of_store(PassageStore.open(data.store_dir), model.tokenizer)
    folder = Folder(types.required(data.index_dir))
    manifest = index_manifest.read(folder)
    # Deleted passages stay in the store until the index is compacted.
    rows = np.flatnonzero(~index_manifest.read_tombstones(folder, manifest))
    store = PassageStore.open(index_manifest.store_path(folder, manifest))
    return passage_tokens.tokens_of_store(store, model.tokenizer, rows)
