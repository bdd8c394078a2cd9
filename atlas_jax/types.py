"""The arrays that pass between the rooms, with their shapes and dtypes: the one table of fields.

On the host the same fields hold numpy arrays, in planning shapes (`jax.ShapeDtypeStruct`).

Names used in shapes: `batch` examples, `top_k` passages an example retrieves, `passages` any flat number of passages, `rows` of the
index (a multiple of the device count), `streams` token streams (one per device), `stream_tokens` the capacity of one stream.
"""

import dataclasses
from typing import TypeVar

import jax
import numpy as np
from flax import struct

Array = jax.Array
T = TypeVar('T')


def required(value: T | None) -> T:
    """Returns a part that a step of this kind always has. Its lack is a fault of ours, so it is an AssertionError."""
    assert value is not None
    return value


# Optional fields are None where a task does not need them: the tree's structure then differs, and so the program.
class Batch(struct.PyTreeNode):
    """Tokenised examples, as the input pipeline yields them.

    retriever_query_tokens   [batch, retriever_query_length] int32  [CLS] query [SEP], 0 on padding
    retriever_query_lengths  [batch] int32                          specials included; at least 2
    reader_query_tokens      [batch, reader_query_length] int32     the query alone, no eos, 0 on padding
    reader_query_lengths     [batch] int32                          may be 0
    decoder_target_tokens    [batch, target_length] int32           ends in eos (1), 0 on padding
    decoder_loss_weights     [batch, target_length] float32         1 on target tokens, 0 on padding
    example_ids              [batch] int32                          line in the examples file from 0; -1 for a filler example

    None if a task has no use for them:

    decoder_prompt_tokens    [batch, prompt_length] int32           the beginning of a generated answer, 0 on padding
    decoder_prompt_lengths   [batch] int32                          may be 0
    choice_tokens            [batch, choices, choice_length] int32  the answers to choose from, as decoder targets, 0 on padding
    choice_weights           [batch, choices, choice_length] float32  1 on the tokens that are scored; all 0 for an unused choice
    passage_tokens           [batch, n, text_max_tokens] int32      given reader inputs, whole: query, passage and specials
    passage_lengths          [batch, n] int32                       0 marks empty slots
    retriever_passage_tokens  [batch, n, retriever_max_tokens] int32  the same passages as the retriever sees them, specials included
    retriever_passage_lengths  [batch, n] int32                     0 marks empty slots
    passage_gold_scores      [batch, n] float32                     a teacher's scores of the given passages; 0 at empty slots
    excluded_passage_ids     [batch, n] int32                       not to be returned, the example's own; -1 marks empty slots
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


# Of one shape whether its rows are two crops of a passage or a question with passages: one step serves both.
class ContrastiveBatch(struct.PyTreeNode):
    """Queries with passages of their own, as a retriever learns from them without a reader.

    query_tokens     [batch, query_length] int32       specials included, 0 on padding
    query_lengths    [batch] int32                     at least 2
    passage_tokens   [batch, n, passage_length] int32  specials included; the first is the positive, the others hard negatives
    passage_lengths  [batch, n] int32                  0 marks empty slots
    identities       [batch, n] int32                  equal for equal passages, -1 marks empty slots
    positives        [batch, p] int32                  identities of all passages that are positives of the query, -1 past the last
    example_ids      [batch] int32                     number of the passage or of the question among all, from 0
    """

    query_tokens: Array
    query_lengths: Array
    passage_tokens: Array
    passage_lengths: Array
    identities: Array
    positives: Array
    example_ids: Array


# Title and text stand in one row because the reader's and the retriever's formats take both, in this order.
class TokenTable(struct.PyTreeNode):
    """Passages as token ids of one tokenizer, no special tokens: the title's ids, then the text's.

    tokens         [rows, width] uint16 or uint32, 0 on padding; width a multiple of 128
    title_lengths  [rows] int32
    lengths        [rows] int32  title and text together
    """

    tokens: Array
    title_lengths: Array
    lengths: Array


# valid is an array and not a row count: deleted rows stay where they are.
class IndexArrays(struct.PyTreeNode):
    """The index on the devices, rows sharded over every mesh axis.

    embeddings  [rows, dim] float32, bfloat16 or int8
    valid       [rows] bool     False for deleted rows and for the padding at the end
    scales      [rows] float32  for int8 rows: embedding = scale * numbers; None for the other types
    """

    embeddings: Array
    valid: Array
    scales: Array | None = None


# A copy to scan: candidates are scored again by the index's own embeddings, so its rounding costs no accuracy.
class ScannedRows(struct.PyTreeNode):
    """An int8 copy of the index, for the int8 searcher to scan.

    rows      IndexArrays in int8 with scales, [rows, scan_dim], sharded as the index
    rotation  [dim, scan_dim] float32  turns vectors before they are compared; orthonormal columns; None for no rotation
    """

    rows: IndexArrays
    rotation: Array | None = None


# Bits of 32 rows share a word: a scan unpacks one bit of all words at a time, and the rows stay together.
class Codes(struct.PyTreeNode):
    """A code of a few bits a dimension for each row of the index, to find candidates by (searchers/code.py).

    Each device has its own rows from the first word on, padded to whole `searchers/codes.py: GROUPS` of words. `bits` is the sum of planes.

    words    [words, bits] uint32   bit b of a word is that of row 32 * word + b; columns by planes: the lowest bits of all components, then
                                    the next bits of those that have more, ...
    factors  [16, 2 * words] float32  of row 16 * column + line: divides out how much shorter a code is than its row; 0 marks no row
    turn     [dim, planes[0]] float32  principal components times their steps: what a query is multiplied by
    planes   static: number of components that have a first bit, a second, ...
    rows     static: rows of the index on all devices, as it is padded there
    """

    words: Array
    factors: Array
    turn: Array
    planes: tuple[int, ...] = struct.field(pytree_node=False)
    rows: int = struct.field(pytree_node=False)


# Scores and ids travel together, whoever has searched, so that nothing behind needs to know.
class Retrieved(struct.PyTreeNode):
    """Search results, best first; ties by the lower id.

    scores       [batch, top_k] float32  inner products; -inf where fewer than top_k rows are valid
    passage_ids  [batch, top_k] int32    index rows; 0 where the score is -inf

    None unless the host has read them (SearchConfig.tokens):

    reader_rows     TokenTable, [batch, top_k, ...]  these passages in the reader's tokens
    retriever_rows  TokenTable, [batch, top_k, ...]  in the retriever's; None where no step embeds passages
    """

    scores: Array
    passage_ids: Array
    reader_rows: TokenTable | None = None
    retriever_rows: TokenTable | None = None


# Passages one after another, so that no product is spent on padding (docs/design.md, the flat layout).
class TokenStream(struct.PyTreeNode):
    """Passages laid one after another without padding between them (docs/design.md, the flat layout).

    tokens           [streams, stream_tokens] int32  0 past the end
    positions        [streams, stream_tokens] int32  position within its passage, from 0; 0 past the end
    passage_indices  [streams, stream_tokens] int32  passage within the stream; -1 past the end
    starts           [streams, passages] int32       first token of each passage
    lengths          [streams, passages] int32       may be 0
    longest          static int                      width of the attention rows; >= every length
    """

    tokens: Array
    positions: Array
    passage_indices: Array
    starts: Array
    lengths: Array
    longest: int = struct.field(pytree_node=False)


# One argument, so that a step without a retriever's tokens has another tree and not another signature.
class Knowledge(struct.PyTreeNode):
    """Everything a step reads besides the batch: the index and the passages' tokens, rows sharded alike.

    index            IndexArrays; None if the host searches and no step reads embeddings
    reader_table     TokenTable in the reader's tokens; None where they stay on the host
    retriever_table  TokenTable in the retriever's tokens; None there too, and if no step embeds passages
    scanned          ScannedRows of the same rows; None if the int8 searcher is not used or index is int8 itself
    codes            Codes of the same rows; None if the codes searcher is not used
    """

    index: IndexArrays | None
    reader_table: TokenTable | None = None
    retriever_table: TokenTable | None = None
    scanned: ScannedRows | None = None
    codes: Codes | None = None


# Made in the graph by retrieval, or from passages that are given; reading sees no difference.
class ReaderInputs(struct.PyTreeNode):
    """Assembled reader inputs and what the retriever loss needs of the same passages.

    reader_tokens         [batch, top_k, text_max_tokens] int32
    reader_lengths        [batch, top_k] int32              0 marks empty slots
    retrieved             Retrieved; None if passages were given or none are read
    retriever_tokens      [batch, n, retriever_max_tokens] int32  passages that the retriever loss embeds; None if there are none
    retriever_lengths     [batch, n] int32                  None with retriever_tokens
    passage_embeddings    [batch, n, dim] float32           embeddings that the retriever loss takes from the index; None if there are none
    truncated_passages    scalar int32                      number of reader inputs whose text was cut
    """

    reader_tokens: Array
    reader_lengths: Array
    retrieved: Retrieved | None = None
    retriever_tokens: Array | None = None
    retriever_lengths: Array | None = None
    passage_embeddings: Array | None = None
    truncated_passages: Array | int = 0


@dataclasses.dataclass(frozen=True)
# On the host, since shapes must be known before anything is traced.
class TokenLengths:
    """Token counts on the host, from which the capacities of streams are chosen.

    reader_passages     [rows] int  title and text of every passage, in the reader's tokens
    retriever_passages  [rows] int  the same in the retriever's
    reader_queries      [n] int     queries in the reader's tokens
    """

    reader_passages: np.ndarray
    retriever_passages: np.ndarray
    reader_queries: np.ndarray
