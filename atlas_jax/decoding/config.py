"""Options of generation: greedy or by beams, length limits, number of answers."""

import dataclasses
import math
import numbers

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Options of generation. Lengths count tokens, the start token counted and eos not; a forced prefix counts too.

    Attributes:
      num_beams: 1 is greedy.
      length_penalty: exponent in a sequence's score, the sum of its log likelihoods / length ** length_penalty. Matters to beams only.
      min_length: shortest length at which eos may come.
      max_length: longest length; None takes the longest target of the model's training, and the start token.
      num_return_sequences: number of sequences to return, best first; at most num_beams.
      quote: of the beams, those that stand word for word in a passage come first, those of the best passage before others; needs two beams.

    Raises ConfigError: a value is out of range.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    min_length: int = 0
    max_length: int | None = None
    num_return_sequences: int = 1
    quote: bool = False

    def __post_init__(self):
        self._check_whole('num_beams', 1)
        self._check_whole('min_length', 0)
        self._check_whole('num_return_sequences', 1)
        if self.max_length is not None:
            self._check_whole('max_length', 2, '; the start token counts')
            self._check_room(self.max_length)
        penalty = self.length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, numbers.Real) or not math.isfinite(penalty):
            raise errors.ConfigError(f'DecodingConfig.length_penalty is {penalty}; it must be a finite number')
        if self.quote and self.num_beams == 1:
            raise errors.ConfigError('DecodingConfig.quote chooses among beams, and num_beams is 1; set num_beams to 2, say')
        if self.num_return_sequences > self.num_beams:
            raise errors.ConfigError(f'DecodingConfig.num_return_sequences is {self.num_return_sequences}; it must be at most num_beams, '
                                     f'{self.num_beams}')

    def with_max_length(self, max_length: int) -> 'DecodingConfig':
        """Returns the options with this max_length if they have none.

        Raises ConfigError: min_length leaves no room below it.
        """
        if self.max_length is not None:
            return self
        # replace runs __post_init__ again, with its checks
        return dataclasses.replace(self, max_length=max_length)

    @property
    def steps(self) -> int:
        """Largest number of decoding steps: max_length without the start token. Raises ValueError: max_length is not set."""
        if self.max_length is None:
            raise ValueError('DecodingConfig.max_length is None; call with_max_length first')
        return self.max_length - 1

    def _check_whole(self, name: str, least: int, remark: str = '') -> None:
        """Raises ConfigError: the field is not a whole number of at least `least`."""
        value = getattr(self, name)
        # True is an int in Python, and would pass for 1.
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise errors.ConfigError(f'DecodingConfig.{name} is {value}; it must be a whole number, at least {least}{remark}')

    def _check_room(self, max_length: int) -> None:
        """Raises ConfigError: no sequence could be long enough and short enough."""
        if self.min_length >= max_length:
            raise errors.ConfigError(f'DecodingConfig.min_length is {self.min_length}; it must be less than max_length, {max_length}')
