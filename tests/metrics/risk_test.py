"""Risk, coverage and calibration error against values worked out by hand."""

import numpy as np
import pytest

from atlas_jax.metrics import risk

CONFIDENCE, CORRECT = [0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0]


def test_curve_and_area_by_hand():
    coverages, risks = risk.risk_coverage(CONFIDENCE, CORRECT)
    assert coverages == [0.25, 0.75, 1.0] and risks == pytest.approx([0, 1 / 3, 0.5])
    # After the first of the two tied answers half a wrong one is expected: risks 0, .5/2, 1/3, 2/4.
    assert risk.aurc(CONFIDENCE, CORRECT) == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)


def test_an_uninformative_confidence_has_the_risk_of_answering_all():
    assert risk.aurc([0.7] * 5, [1, 0, 0, 1, 0]) == pytest.approx(0.6)
    assert risk.aurc([3, 2, 1], [1, 1, 1]) == 0


def test_coverage_at_a_precision():
    assert risk.coverage_at(0.95, CONFIDENCE, CORRECT) == (0.25, 0.9)
    assert risk.coverage_at(0.6, CONFIDENCE, CORRECT) == (0.75, 0.8)
    assert risk.coverage_at(0.95, CONFIDENCE, [0, 1, 1, 1]) == (0.0, None)
    # The largest coverage counts, even after a dip.
    assert risk.coverage_at(0.75, [4, 3, 2, 1], [0, 1, 1, 1]) == (1.0, 1)


def test_calibration_error_by_bins_of_equal_mass():
    # bins (.1, .2) and (.6, .8, 1.0): |.15 - .5| * 2/5 and |.8 - 1/3| * 3/5 with array_split's sizes 3 and 2
    found = risk.calibration_error([0.1, 0.2, 0.6, 0.8, 1.0], [0, 1, 0, 1, 0], bins=2)
    assert found == pytest.approx(abs(0.3 - 1 / 3) * 3 / 5 + abs(0.9 - 0.5) * 2 / 5)
    assert risk.reliability([0.6, 0.1, 0.2, 0.8, 1.0], [1, 0, 1, 0, 1], 2) == [(pytest.approx(.3), pytest.approx(2 / 3), 3),
                                                                              (pytest.approx(.9), .5, 2)]
    assert risk.calibration_error([1.0, 0.0], [1, 0]) == 0
    assert risk.calibration_error([0.5], [1]) == 0.5


def test_order_of_the_questions_does_not_matter():
    generator = np.random.default_rng(3)
    confidence, correct = generator.random(50), generator.integers(0, 2, 50)
    order = generator.permutation(50)
    for figure in (risk.aurc, risk.calibration_error):
        assert figure(confidence, correct) == pytest.approx(figure(confidence[order], correct[order]))


@pytest.mark.parametrize(('confidence', 'correct'), [([], []), ([0.5], [1, 0])])
def test_wrong_numbers_of_values(confidence, correct):
    for figure in (risk.aurc, risk.calibration_error, risk.risk_coverage):
        with pytest.raises(ValueError, match='expected the same number of both'):
            figure(confidence, correct)
