"""Options of generation on the command line, and an answer as text."""

import argparse
import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.cli import answer as cli_answer


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
    assert plain == ('question: who ?\nanswer:   me\nconfidence: not calibrated: `atlas-jax calibrate --model RUN --index INDEX '
                     '--examples FILE` makes it')
    beams = cli_answer.as_text(api.Answer('who ?', 'me', score=-0.25, alternatives=(api.Alternative('you', -1.5),)))
    assert beams.splitlines()[1:3] == ['answer:   me  (score -0.250)', '          you  (score -1.500)']


def test_text_shows_how_far_to_trust_an_answer():
    passage = api.AnswerPassage('d', 'France', 'Paris is large .', 1.5, 0.75, carried=2.25,
                                words=(('Paris', 0.5), ('is', 0.0), ('large', 0.125), ('.', 0.0)))
    lines = cli_answer.as_text(api.Answer('where ?', 'Paris', (passage, dataclasses.replace(passage, carried=-0.5, words=())),
                                          confidence=0.876)).splitlines()
    assert lines[2] == 'confidence: 0.88' and lines[4:7] == [
        '     Paris is large .', "     without it the answer's log likelihood falls by 2.250",
        '     attention to its words: Paris 50.0%, large 12.5%, is 0.0%, . 0.0%']
    assert lines[-1] == "     without it the answer's log likelihood rises by 0.500"
    withheld = cli_answer.as_text(api.Answer('where ?', api.WITHHELD, confidence=0.1, abstained=True, guess='Rome'), 'run').splitlines()
    assert withheld[1:] == ['answer:   I do not know', 'guess:    Rome', 'confidence: 0.10']
