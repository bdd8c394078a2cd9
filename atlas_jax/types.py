"""The arrays that pass between the rooms, with their shapes and dtypes: the one table of fields.

The same fields hold numpy arrays on the host, and shapes (`jax.ShapeDtypeStruct`) in planning.

Names of sizes: `batch`: examples; `top_k`: passages that an example retrieves; `passages`: any flat
number of passages; `rows`: rows of the index (a multiple of the device count); `streams`: token
streams (one on each device); `stream_tokens`: the capacity of a stream.
"""

import dataclasses
from typing import TypeVar

import jax
import numpy as np
from flax import struct

Array = jax.Array
T = TypeVar('T')


def required(value: T | None) -> T:
    """Returns an optional value that must be there at this point; None is a bug of ours."""
    assert value is not None
    return value


# A field that the task does not need is None. The tree then has another structure and gets its own
# program.
class Batch(struct.PyTreeNode):
    """Tokenised examples from the input pipeline.

    retriever_query_tokens   [batch, retriever_query_length] int32  [CLS] query [SEP], 0 on padding
    retriever_query_lengths  [batch] int32                          with special tokens; at least 2
    reader_query_tokens      [batch, reader_query_length] int32     the query without eos, 0 on
                                                                    padding
    reader_query_lengths     [batch] int32                          may be 0
    decoder_target_tokens    [batch, target_length] int32           ends in eos (1), 0 on padding
    decoder_loss_weights     [batch, target_length] float32         1 on target tokens, 0 on padding
    example_ids              [batch] int32                          line in the examples file, from
                                                                    0; -1 for a filler example

    Optional fields, None if the task does not need them:

    decoder_prompt_tokens    [batch, prompt_length] int32           start of a generated answer, 0
                                                                    on padding
    decoder_prompt_lengths   [batch] int32                          may be 0
    choice_tokens            [batch, choices, choice_length] int32  the answers to choose from, as
                                                                    decoder targets, 0 on padding
    choice_weights           [batch, choices, choice_length] float32  1 on scored tokens; all 0 for
                                                                      an unused choice
    passage_tokens           [batch, n, text_max_tokens] int32      given reader inputs: query,
                                                                    passage and special tokens
    passage_lengths          [batch, n] int32                       0 marks empty slots
    retriever_passage_tokens  [batch, n, retriever_max_tokens] int32  the same passages as retriever
                                                                      inputs, with special tokens
    retriever_passage_lengths  [batch, n] int32                     0 marks empty slots
    passage_gold_scores      [batch, n] float32                     a teacher's scores of the given
                                                                    passages; 0 at empty slots
    excluded_passage_ids     [batch, n] int32                       the example's own passages,
                                                                    which search must not return; -1
                                                                    marks empty slots
    """

    retriever_query_tokens: Array
    retriever_query_lengths: Array
    reader_query_tokens: Array
    reader_query_lengths: Array
    decoder_target_tokens: Array
    decoder_loss_weights: Array
    example_ids: Array
    decoder_prompt_tokens: Array | None = None
    decoder_prompt_lengths: Array | None = None
    choice_tokens: Array | None = None
    choice_weights: Array | None = None
    passage_tokens: Array | None = None
    passage_lengths: Array | None = None
    retriever_passage_tokens: Array | None = None
    retriever_passage_lengths: Array | None = None
    passage_gold_scores: Array | None = None
    excluded_passage_ids: Array | None = None


# Two crops of a passage, and a question with its passages, have the same shapes, so that one step
# serves both.
class ContrastiveBatch(struct.PyTreeNode):
    """Queries with their passages, to train a retriever without a reader.

    query_tokens     [batch, query_length] int32       with special tokens, 0 on padding
    query_lengths    [batch] int32                     at least 2
    passage_tokens   [batch, n, passage_length] int32  with special tokens; the first passage is the
                                                       positive, the others are hard negatives
    passage_lengths  [batch, n] int32                  0 marks empty slots
    identities       [batch, n] int32                  equal for equal passages; -1 marks empty
                                                       slots
    positives        [batch, p] int32                  identities of all positives of the query; -1
                                                       past the last
    example_ids      [batch] int32                     number of the passage or question, from 0
    """

    query_tokens: Array
    query_lengths: Array
    passage_tokens: Array
    passage_lengths: Array
    identities: Array
    positives: Array
    example_ids: Array


# Title and text share a row because the formats of reader and retriever take both in this order.
class TokenTable(struct.PyTreeNode):
    """Passages as token ids of one tokenizer, without special tokens: the title, then the text.

    tokens         [rows, width] uint16 or uint32, 0 on padding; width is a multiple of 128
    title_lengths  [rows] int32
    lengths        [rows] int32  title and text together
    """

    tokens: Array
    title_lengths: Array
    lengths: Array


# `valid` is an array instead of a row count, because deleted rows keep their places.
class IndexArrays(struct.PyTreeNode):
    """The index on the devices, its rows sharded over all mesh axes.

    embeddings  [rows, dim] float32, bfloat16 or int8
    valid       [rows] bool     False for deleted rows and for the padding at the end
    scales      [rows] float32  for int8 rows, embedding = scale * numbers; None for other dtypes
    """

    embeddings: Array
    valid: Array
    scales: Array | None = None


# Rounding this copy costs no accuracy: candidates are scored again with the index's embeddings.
class ScannedRows(struct.PyTreeNode):
    """An int8 copy of the index, for the int8 searcher to scan.

    rows      IndexArrays of int8 with scales, [rows, scan_dim], sharded like the index
    rotation  [dim, scan_dim] float32  rotates vectors before they are compared; orthonormal
                                       columns; None for no rotation
    """

    rows: IndexArrays
    rotation: Array | None = None


# A word holds bits of 32 rows: a scan unpacks one bit of all words at a time and gets adjacent
# rows.
class Codes(struct.PyTreeNode):
    """Codes of a few bits a dimension for each row of the index, to find candidates with
    (searchers/code.py).

    Each device has the codes of its own rows, padded to whole `searchers/codes.py: GROUPS` of
    words. `bits` is the sum of planes.

    words    [words, bits] uint32   bit b of word w belongs to row 32 * w + b; columns in planes:
                                    the lowest bits of all components, then the next bits of the
                                    components that have more, ...
    factors  [16, 2 * words] float32  entry [line, column] belongs to row 16 * column + line and
                                      corrects for the length that its code loses; 0 for an empty
                                      row
    turn     [dim, planes[0]] float32  principal components times their steps; queries are
                                       multiplied by it
    planes   static: number of components that have a first bit, a second bit, ...
    rows     static: number of rows of the index on all devices, padding included
    """

    words: Array
    factors: Array
    turn: Array
    planes: tuple[int, ...] = struct.field(pytree_node=False)
    rows: int = struct.field(pytree_node=False)


# All searchers return this type, so later code does not depend on the searcher.
class Retrieved(struct.PyTreeNode):
    """Search results, best first; the lower id wins a tie.

    scores       [batch, top_k] float32  inner products; -inf marks empty slots (fewer than top_k
                                         valid rows)
    passage_ids  [batch, top_k] int32    index rows; 0 in empty slots

    Optional fields, None unless the host has read the tokens (SearchConfig.tokens):

    reader_rows     TokenTable, [batch, top_k, ...]  these passages in the reader's tokens
    retriever_rows  TokenTable, [batch, top_k, ...]  these passages in the retriever's tokens; None
                                                     if no step embeds passages
    """

    scores: Array
    passage_ids: Array
    reader_rows: TokenTable | None = None
    retriever_rows: TokenTable | None = None


class TokenStream(struct.PyTreeNode):
    """Passages packed one after another, so that no product is spent on padding (docs/design.md,
    the flat layout).

    tokens           [streams, stream_tokens] int32  0 past the end
    positions        [streams, stream_tokens] int32  position within the passage, from 0; 0 past the
                                                     end
    passage_indices  [streams, stream_tokens] int32  passage within the stream; -1 past the end
    starts           [streams, passages] int32       first token of each passage
    lengths          [streams, passages] int32       may be 0
    longest          static int                      width of the attention rows, at least every
                                                     length
    """

    tokens: Array
    positions: Array
    passage_indices: Array
    starts: Array
    lengths: Array
    longest: int = struct.field(pytree_node=False)


# One argument of a step, so that all steps have the same signature.
class Knowledge(struct.PyTreeNode):
    """The data that a step reads besides the batch: the index and the passages' tokens, all sharded
    by row.

    index            IndexArrays; None if the host searches and no step reads embeddings
    reader_table     TokenTable in the reader's tokens; None if tokens stay on the host
    retriever_table  TokenTable in the retriever's tokens; None if tokens stay on the host or no
                     step embeds passages
    scanned          ScannedRows of the same rows; None unless the int8 searcher needs a copy
    codes            Codes of the same rows; None if the codes searcher is not used
    """

    index: IndexArrays | None
    reader_table: TokenTable | None = None
    retriever_table: TokenTable | None = None
    scanned: ScannedRows | None = None
    codes: Codes | None = None


# Retrieval makes these inputs inside the compiled program; given passages make them too.
class ReaderInputs(struct.PyTreeNode):
    """Assembled reader inputs, and the retriever's inputs for the same passages.

    reader_tokens         [batch, top_k, text_max_tokens] int32
    reader_lengths        [batch, top_k] int32              0 marks empty slots
    retrieved             Retrieved; None for given passages and for a closed book
    retriever_tokens      [batch, n, retriever_max_tokens] int32  passages that the retriever loss
                                                                  embeds; None if it embeds none
    retriever_lengths     [batch, n] int32                  None with retriever_tokens
    passage_embeddings    [batch, n, dim] float32           embeddings that the retriever loss reads
                                                            from the index; None if it reads none
    truncated_passages    scalar int32                      number of reader inputs whose text was
                                                            cut
    """

    reader_tokens: Array
    reader_lengths: Array
    retrieved: Retrieved | None = None
    retriever_tokens: Array | None = None
    retriever_lengths: Array | None = None
    passage_embeddings: Array | None = None
    truncated_passages: Array | int = 0


@dataclasses.dataclass(frozen=True)
class TokenLengths:
    """Token counts, from which the capacities of streams are chosen before tracing.

    reader_passages     [rows] int  tokens of title and text of every passage, for the reader
    retriever_passages  [rows] int  tokens of title and text of every passage, for the retriever
    reader_queries      [n] int     tokens of queries, for the reader
    """

    reader_passages: np.ndarray
    retriever_passages: np.ndarray
    reader_queries: np.ndarray
