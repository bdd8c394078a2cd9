"""Options of generation on the command line, and an answer as text."""

import argparse

import pytest

from atlas_jax import api, errors
from atlas_jax.cli import answer as cli_answer


def _config(*words):
    parser = argparse.ArgumentParser()
    cli_answer.add_decoding(parser)
    return cli_answer.decoding_config(parser.parse_args(words))


def test_options_of_generation():
    assert _config().num_beams == 1 and _config().max_length is None
    config = _config('--num_beams', '4', '--length_penalty', '0.6', '--min_length', '2', '--max_length', '9', '--num_return_sequences', '3')
    assert (config.num_beams, config.length_penalty, config.min_length, config.max_length, config.num_return_sequences) == (4, 0.6, 2, 9, 3)
    with pytest.raises(errors.ConfigError, match='num_return_sequences is 3; it must be at most num_beams, 2'):
        _config('--num_beams', '2', '--num_return_sequences', '3')


def test_text_shows_scores_and_alternatives():
    plain = cli_answer.as_text(api.Answer('who ?', 'me'))
    assert plain == 'question: who ?\nanswer:   me'
    beams = cli_answer.as_text(api.Answer('who ?', 'me', score=-0.25, alternatives=(api.Alternative('you', -1.5),)))
    assert beams.splitlines()[1:] == ['answer:   me  (score -0.250)', '          you  (score -1.500)']
