"""Options of generation: greedy or beam search, length limits, number of answers."""

import dataclasses

from atlas_jax import errors
from atlas_jax.options import CheckedOptions, option


@dataclasses.dataclass(frozen=True)
class DecodingConfig(CheckedOptions):
    """Options of generation. Lengths count tokens: the start token and a forced prefix count, eos
    does not.

    Attributes:
      num_beams: number of beams; 1 is greedy search.
      length_penalty: exponent in a sequence's score, the sum of its log likelihoods / length **
        length_penalty. Only beam search uses it.
      min_length: shortest length at which eos may come.
      max_length: longest length; None takes the longest target of the model's training plus the
        start token.
      num_return_sequences: number of sequences to return, best first; at most num_beams.
      quote: puts beams first that a passage contains word for word, those from the best passage
        before others; needs two beams.

    Raises ConfigError: a value is out of range.
    """

    num_beams: int = option(1, least=1)
    length_penalty: float = option(1.0)
    min_length: int = option(0, least=0)
    max_length: int | None = option(None, least=2, remark='; the start token counts')
    num_return_sequences: int = option(1, least=1)
    quote: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.max_length is not None and self.min_length >= self.max_length:
            raise errors.ConfigError(f'DecodingConfig.min_length is {self.min_length}; it must be '
                                     f'less than max_length, {self.max_length}')
        if self.quote and self.num_beams == 1:
            raise errors.ConfigError('DecodingConfig.quote chooses among beams, and num_beams is '
                                     '1; set num_beams to 2 or more')
        if self.num_return_sequences > self.num_beams:
            raise errors.ConfigError('DecodingConfig.num_return_sequences is '
                                     f'{self.num_return_sequences}; it must be at most num_beams, '
                                     f'{self.num_beams}')

    def with_max_length(self, max_length: int) -> 'DecodingConfig':
        """Returns the options with this max_length if theirs is None.

        Raises ConfigError: min_length is not below max_length.
        """
        if self.max_length is not None:
            return self
        return dataclasses.replace(self, max_length=max_length)

    @property
    def steps(self) -> int:
        """Largest number of decoding steps: max_length without the start token.

        Raises ValueError: max_length is not set.
        """
        if self.max_length is None:
            raise ValueError('DecodingConfig.max_length is None; call with_max_length first')
        return self.max_length - 1
