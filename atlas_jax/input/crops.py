"""Two crops of a passage, each a span of its tokens with some of them changed: what a retriever learns from without labels.

Source: Izacard et al. 2021, arXiv 2112.09118, section 3.1: independent cropping, and the augmentations of tokens.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np

from atlas_jax import errors, types
from atlas_jax.input.passage_tokens import PassageTokens
from atlas_jax.tokenizers.bert import BertTokenizer

AUGMENTATIONS = ('none', 'delete', 'replace', 'mask', 'shuffle')
_SAMPLED = 2048  # crops whose lengths stand for all that will come


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """How crops are cut and changed; the defaults are those of the paper's final model.

    Attributes:
      ratio_min, ratio_max: bounds of a crop's share of its passage; drawn evenly between them, for each crop anew.
      chunk_tokens: of a longer passage both crops come from one random piece of so many tokens.
      min_crop_tokens: no crop is shorter; shorter passages are refused.
      augmentation: what happens to the tokens of a crop: none, delete (they are left out), replace (by others of the vocabulary), mask (by
        [MASK]), or shuffle (they change places with one another).
      augmentation_probability: of each token of a crop, to be one of these.

    Raises ConfigError for an unknown augmentation and a number out of range.
    """

    ratio_min: float = 0.05
    ratio_max: float = 0.5
    chunk_tokens: int = 256
    min_crop_tokens: int = 2
    augmentation: str = 'delete'
    augmentation_probability: float = 0.1

    def __post_init__(self):
        name = type(self).__name__
        if not 0 < self.ratio_min <= self.ratio_max <= 1:
            raise errors.ConfigError(f'{name}: ratio_min is {self.ratio_min} and ratio_max {self.ratio_max}; they must be above 0, at most '
                                     '1 and in this order')
        if self.augmentation not in AUGMENTATIONS:
            raise errors.ConfigError(f'{name}.augmentation is "{self.augmentation}"; choose one of {", ".join(AUGMENTATIONS)}')
        if not 0 <= self.augmentation_probability < 1:
            raise errors.ConfigError(f'{name}.augmentation_probability is {self.augmentation_probability}; it must be at least 0 and below '
                                     '1')
        if not 1 <= self.min_crop_tokens <= self.chunk_tokens:
            raise errors.ConfigError(f'{name}.min_crop_tokens is {self.min_crop_tokens}; it must be 1 to chunk_tokens {self.chunk_tokens}')

    def crop_tokens(self, passage_tokens: int) -> int:
        """Returns the tokens of the longest crop of a passage."""
        return int(self.lengths(min(passage_tokens, self.chunk_tokens), self.ratio_max))

    def lengths(self, tokens: int | np.ndarray, ratios: float | np.ndarray) -> np.ndarray:
        """Returns the tokens of crops that are these shares of pieces of so many tokens, int64: [n], or one for a number."""
        # The bounds are asked in this order: a passage of as few tokens as a crop may have is its own crop.
        return np.minimum(np.maximum(np.rint(ratios * tokens), self.min_crop_tokens), tokens).astype(np.int64)


def crop(tokens: np.ndarray, config: CropConfig, generator: np.random.Generator) -> np.ndarray:
    """Returns a random span of tokens [n] int; its length and place are drawn independently of any other crop's."""
    # Length first, then a place where it fits: every place is as likely as another.
    length = int(config.lengths(len(tokens), generator.uniform(config.ratio_min, config.ratio_max)))
    start = int(generator.integers(len(tokens) - length + 1))
    return tokens[start:start + length]


def augment(tokens: np.ndarray, config: CropConfig, generator: np.random.Generator, ordinary_ids: np.ndarray,
            mask_id: int | None) -> np.ndarray:
    """Returns tokens [n] int with some of them deleted, replaced, masked or shuffled; at least one is left.

    Args:
      tokens: of a crop.
      config: what is done, and how often.
      generator: source of the draws.
      ordinary_ids: [m] int, the ids that replace others.
      mask_id: of [MASK].
    """
    if config.augmentation == 'none' or config.augmentation_probability == 0:
        return tokens
    chosen = generator.random(len(tokens)) < config.augmentation_probability
    if config.augmentation == 'delete':
        # An empty crop would be a query that says nothing.
        if chosen.all():
            chosen[generator.integers(len(tokens))] = False
        return tokens[~chosen]
    # A copy: tokens are a view of the passages, which come again.
    changed = tokens.copy()
    if config.augmentation == 'replace':
        changed[chosen] = generator.choice(ordinary_ids, int(chosen.sum()))
    elif config.augmentation == 'mask':
        changed[chosen] = mask_id
    else:
        # Among themselves, so that no token is lost.
        changed[chosen] = generator.permutation(tokens[chosen])
    return changed


@dataclasses.dataclass
class Crops:
    """Pairs of crops of passages, a row of a ContrastiveBatch each; see input/pipeline.py: Pairs.

    Attributes:
      passages: what is cropped.
      config: how.
      tokenizer: of their ids.
      query_around, passage_around: ids before and after a crop that stands for a query, and for a passage: special tokens and prompts.
      max_tokens: limit of an input of the retriever, those included.

    Raises:
      ConfigError: the longest crop exceeds max_tokens, or the vocabulary lacks [MASK]. InputFileError: a passage is shorter than a crop.
    """

    passages: PassageTokens
    config: CropConfig
    tokenizer: BertTokenizer
    query_around: tuple[tuple[int, ...], tuple[int, ...]]
    passage_around: tuple[tuple[int, ...], tuple[int, ...]]
    max_tokens: int

    def __post_init__(self) -> None:
        # All before anything is compiled: a run that stops at such a passage may have run for days.
        if self.config.augmentation == 'mask' and self.tokenizer.mask_id is None:
            raise errors.ConfigError('augmentation is "mask", but the vocabulary has no [MASK]; choose another one')
        self.passages.check_length(self.config.min_crop_tokens)
        # The widest row sets the program's width, so it is known before anything is traced.
        lengths = np.diff(self.passages.starts)
        self._longest = self.config.crop_tokens(int(lengths.max()))
        if max(self.widths) > self.max_tokens:
            raise errors.ConfigError(f'a crop has up to {self._longest} tokens, with what stands around it {max(self.widths)}; the '
                                     f'retriever takes {self.max_tokens}: lower chunk_tokens or ratio_max')

    def __len__(self) -> int:
        return len(self.passages)

    @property
    def digest(self) -> str:
        """Stands for the data in the record of a run."""
        return f'{len(self)} passages, sha256 {self.passages.digest}'

    @property
    def passages_each(self) -> int:
        """Passages of an example: the other crop."""
        return 1

    @property
    def widths(self) -> tuple[int, int]:
        """The most tokens of a query and of a passage."""
        query, passage = (self._longest + len(before) + len(after) for before, after in (self.query_around, self.passage_around))
        return query, passage

    def sampled_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns lengths [n] int of queries and of passages as they will come, always the same ones."""
        # Fixed: capacities decide what is compiled, and must be the same in every process and every run.
        generator = np.random.default_rng(0)
        rows = [self.draw(int(number), generator) for number in generator.integers(len(self), size=min(_SAMPLED, 8 * len(self)))]
        return np.array([row.query_lengths for row in rows]), np.array([row.passage_lengths[0] for row in rows])

    def draw(self, number: int, generator: np.random.Generator) -> types.ContrastiveBatch:
        """Returns two crops of a passage, numpy arrays without the batch axis; they depend on number and generator alone."""
        tokens = self.passages[number].astype(np.int32)
        # Of the tokens, so that a passage that a corpus has twice is none of its own negatives. Where two others agree by chance, one pair
        # in two billion, each misses one negative.
        identity = zlib.crc32(tokens.tobytes()) & 0x7fffffff
        # One piece for both: crops of two far ends of a long document have little in common.
        if len(tokens) > self.config.chunk_tokens:
            start = int(generator.integers(len(tokens) - self.config.chunk_tokens + 1))
            tokens = tokens[start:start + self.config.chunk_tokens]
        # Two independent draws of one generator; neither crop knows of the other.
        rows = []
        for (before, after), width in zip((self.query_around, self.passage_around), self.widths, strict=True):
            changed = augment(crop(tokens, self.config, generator), self.config, generator, self.tokenizer.ordinary_ids,
                              self.tokenizer.mask_id)
            rows.append(padded([*before, *changed.tolist(), *after], width))
        (query, query_length), (passage, passage_length) = rows
        # Numpy arrays, until they are placed on devices; types.Array is jax's.
        columns: dict[str, Any] = {
            'query_tokens': query, 'query_lengths': query_length, 'passage_tokens': passage[None], 'example_ids': np.int32(number),
            'passage_lengths': np.array([passage_length], np.int32), 'identities': np.array([identity], np.int32),
            'positives': np.array([identity], np.int32)}
        return types.ContrastiveBatch(**columns)


def padded(ids: list[int], width: int) -> tuple[np.ndarray, np.int32]:
    """Returns ids as a row [width] int32, 0 on padding, and their number."""
    row = np.zeros(width, np.int32)
    row[:len(ids)] = ids
    return row, np.int32(len(ids))
