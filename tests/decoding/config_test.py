"""Options of generation: invalid values are refused."""

import pytest

from atlas_jax import decoding, errors


@pytest.mark.parametrize('options, message', [
    ({'num_beams': 0}, 'num_beams is 0; it must be at least 1'),
    ({'num_beams': 2.5}, 'num_beams is 2.5; it must be a whole number, at least 1'),
    ({'num_beams': True}, 'num_beams is True'),
    ({'num_beams': 2, 'num_return_sequences': 3}, 'num_return_sequences is 3; it must be at most num_beams, 2'),
    ({'num_return_sequences': 0}, 'num_return_sequences is 0'),
    ({'min_length': -1}, 'min_length is -1'),
    ({'max_length': 1}, 'max_length is 1; it must be at least 2, or None; the start token counts'),
    ({'min_length': 7, 'max_length': 7}, 'min_length is 7; it must be less than max_length, 7'),
    ({'length_penalty': float('nan')}, 'length_penalty is nan; it must be a finite number'),
    ({'length_penalty': '1'}, 'length_penalty is "1"; it must be a number'),
])
def test_out_of_range(options, message):
    with pytest.raises(errors.ConfigError, match=message):
        decoding.DecodingConfig(**options)


def test_max_length_by_default():
    config = decoding.DecodingConfig(min_length=5)
    assert config.with_max_length(6).max_length == 6
    assert decoding.DecodingConfig(max_length=4).with_max_length(6).max_length == 4
    with pytest.raises(errors.ConfigError, match='min_length is 5; it must be less than max_length, 5'):
        config.with_max_length(5)
