"""Parameter grids by pairs: every two values of two parameters meet in some case, at a fraction of the cases of the whole grid."""

import allpairspy
import pytest


def by_pairs(**values: list) -> pytest.MarkDecorator:
    """Parametrizes a test over cases in which every value of each parameter meets every value of each other one.

    Most defects show with one value or a pair of them (Kuhn, Wallace and Gallo 2004). With two parameters this is the whole grid.
    """
    return pytest.mark.parametrize(tuple(values), [tuple(case) for case in allpairspy.AllPairs(list(values.values()))])
