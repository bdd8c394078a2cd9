"""Independent crops of passages, from which a retriever learns without labels.

A crop is a random span of a passage's tokens, some of them changed.

Source: Izacard et al. 2021, arXiv 2112.09118, section 3.1.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np

from atlas_jax import errors, types
from atlas_jax.input.passage_tokens import PassageTokens
from atlas_jax.options import CheckedOptions, option
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer

AUGMENTATIONS = ('none', 'delete', 'replace', 'mask', 'shuffle')
_SAMPLED = 2048  # crops drawn to estimate the distribution of lengths


@dataclasses.dataclass(frozen=True)
class CropConfig(CheckedOptions):
    """How crops are cut and changed; the defaults are those of the paper's final model.

    Attributes:
      ratio_min, ratio_max: Bounds of a crop's share of its passage, drawn uniformly for each crop.
      chunk_tokens: Both crops of a longer passage come from one random piece of this length.
      min_crop_tokens: Shortest crop; shorter passages are refused.
      augmentation: Change to random tokens of a crop: none, delete, replace (by others of the
        vocabulary), mask (by [MASK]), or shuffle (among themselves).
      augmentation_probability: Probability that a token is changed.

    Raises ConfigError: an unknown augmentation, or a number out of range.
    """

    ratio_min: float = 0.05
    ratio_max: float = 0.5
    chunk_tokens: int = 256
    min_crop_tokens: int = 2
    augmentation: str = option('delete', choices=AUGMENTATIONS)
    augmentation_probability: float = option(0.1, least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        name = type(self).__name__
        if not 0 < self.ratio_min <= self.ratio_max <= 1:
            raise errors.ConfigError(f'{name}: ratio_min is {self.ratio_min} and ratio_max '
                                     f'{self.ratio_max}; they must be above 0, at most 1 and in '
                                     'this order')
        if not 1 <= self.min_crop_tokens <= self.chunk_tokens:
            raise errors.ConfigError(f'{name}.min_crop_tokens is {self.min_crop_tokens}; it must '
                                     f'be 1 to chunk_tokens {self.chunk_tokens}')

    def crop_tokens(self, passage_tokens: int) -> int:
        """Returns the length of the longest crop of a passage."""
        return int(self.lengths(min(passage_tokens, self.chunk_tokens), self.ratio_max))

    def lengths(self, tokens: int | np.ndarray, ratios: float | np.ndarray) -> np.ndarray:
        """Returns the lengths of crops, [n] int64 or a scalar.

        Args:
          tokens: Lengths of the pieces they are cut from.
          ratios: Shares of the pieces.
        """
        # The upper bound comes last: a passage of min_crop_tokens is its own crop.
        return np.minimum(np.maximum(np.rint(ratios * tokens), self.min_crop_tokens),
                          tokens).astype(np.int64)


def crop(tokens: np.ndarray, config: CropConfig, generator: np.random.Generator) -> np.ndarray:
    """Returns a random span of tokens [n] int, drawn independently of other crops."""
    # The length is drawn first, then a place where it fits: all places are equally likely.
    length = int(config.lengths(len(tokens), generator.uniform(config.ratio_min, config.ratio_max)))
    start = int(generator.integers(len(tokens) - length + 1))
    return tokens[start:start + length]


def augment(tokens: np.ndarray, config: CropConfig, generator: np.random.Generator,
            ordinary_ids: np.ndarray, mask_id: int | None) -> np.ndarray:
    """Returns tokens of a crop with some deleted, replaced, masked or shuffled; at least one stays.

    Args:
      tokens: The crop, [n] int.
      config: The kind of change and its probability.
      generator: Draws the tokens to change.
      ordinary_ids: Ids that may replace others, [m] int.
      mask_id: Id of [MASK].
    """
    if config.augmentation == 'none' or config.augmentation_probability == 0:
        return tokens
    chosen = generator.random(len(tokens)) < config.augmentation_probability
    if config.augmentation == 'delete':
        # A crop must not be empty.
        if chosen.all():
            chosen[generator.integers(len(tokens))] = False
        return tokens[~chosen]
    # Copy, since tokens are a view of the passages.
    changed = tokens.copy()
    if config.augmentation == 'replace':
        changed[chosen] = generator.choice(ordinary_ids, int(chosen.sum()))
    elif config.augmentation == 'mask':
        changed[chosen] = mask_id
    else:
        changed[chosen] = generator.permutation(tokens[chosen])
    return changed


@dataclasses.dataclass
class Crops:
    """Pairs of crops, one row of a ContrastiveBatch each; implements pipeline.Pairs.

    Attributes:
      passages: The passages to crop.
      config: How they are cropped.
      tokenizer: The tokenizer of their ids.
      query_around, passage_around: Ids (special tokens and prompts) before and after a crop used as
        query, and before and after one used as passage.
      max_tokens: Limit of a retriever input, including these ids.

    Raises:
      ConfigError: the longest crop exceeds max_tokens, or the vocabulary lacks [MASK].
      InputFileError: a passage is shorter than a crop.
    """

    passages: PassageTokens
    config: CropConfig
    tokenizer: BertTokenizer
    query_around: tuple[tuple[int, ...], tuple[int, ...]]
    passage_around: tuple[tuple[int, ...], tuple[int, ...]]
    max_tokens: int

    def __post_init__(self) -> None:
        # Checked at the start: a run must not stop at a short passage after days.
        if self.config.augmentation == 'mask' and self.tokenizer.mask_id is None:
            raise errors.ConfigError('augmentation is "mask", but the vocabulary has no [MASK]; '
                                     'choose another one')
        self.passages.check_length(self.config.min_crop_tokens)
        # The widest row sets the shapes of the compiled program.
        lengths = np.diff(self.passages.starts)
        self._longest = self.config.crop_tokens(int(lengths.max()))
        if max(self.widths) > self.max_tokens:
            raise errors.ConfigError(
                f'a crop has up to {self._longest} tokens, with the ids around it '
                f'{max(self.widths)}; the retriever takes {self.max_tokens}: lower chunk_tokens or '
                'ratio_max')

    def __len__(self) -> int:
        return len(self.passages)

    @property
    def digest(self) -> str:
        """Identifies the data in a run's record."""
        return f'{len(self)} passages, sha256 {self.passages.digest}'

    @property
    def passages_each(self) -> int:
        """Passages per example: one, the other crop."""
        return 1

    @property
    def widths(self) -> tuple[int, int]:
        """Tokens of the longest query and of the longest passage."""
        query, passage = (self._longest + len(before) + len(after)
                          for before, after in (self.query_around, self.passage_around))
        return query, passage

    def sampled_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns lengths [n] int of sampled queries and passages, always the same ones."""
        # A fixed seed: the lengths set capacities, and so shapes, which all processes must share.
        generator = np.random.default_rng(0)
        rows = [self.draw(int(number), generator)
                for number in generator.integers(len(self), size=min(_SAMPLED, 8 * len(self)))]
        return (np.array([row.query_lengths for row in rows]),
                np.array([row.passage_lengths[0] for row in rows]))

    def draw(self, number: int, generator: np.random.Generator) -> types.ContrastiveBatch:
        """Returns two crops of a passage as numpy arrays without the batch axis.

        They depend on `number` and `generator` only.
        """
        tokens = self.passages[number].astype(np.int32)
        # Duplicates in the corpus share an identity, so that they are not negatives of each other.
        # A chance collision, one pair in two billion, costs a negative.
        identity = zlib.crc32(tokens.tobytes()) & 0x7fffffff
        # One piece for both: crops of distant parts of a long document have little in common.
        if len(tokens) > self.config.chunk_tokens:
            start = int(generator.integers(len(tokens) - self.config.chunk_tokens + 1))
            tokens = tokens[start:start + self.config.chunk_tokens]
        rows = []
        for (before, after), width in zip((self.query_around, self.passage_around), self.widths,
                                          strict=True):
            changed = augment(crop(tokens, self.config, generator), self.config, generator,
                              self.tokenizer.ordinary_ids, self.tokenizer.mask_id)
            rows.append(padded([*before, *changed.tolist(), *after], width))
        (query, query_length), (passage, passage_length) = rows
        # Any, since types.Array is jax's and these are numpy arrays.
        columns: dict[str, Any] = {
            'query_tokens': query, 'query_lengths': query_length, 'passage_tokens': passage[None],
            'passage_lengths': np.array([passage_length], np.int32),
            'identities': np.array([identity], np.int32),
            'positives': np.array([identity], np.int32), 'example_ids': np.int32(number)}
        return types.ContrastiveBatch(**columns)


def padded(ids: list[int], width: int) -> tuple[np.ndarray, np.int32]:
    """Returns ids padded with 0, [width] int32, and their number."""
    row = np.zeros(width, np.int32)
    row[:len(ids)] = ids
    return row, np.int32(len(ids))
