"""Cases by pairs leave no pair of values out."""

import itertools

from tests.testing import grids

VALUES = {'a': [1, 2, 3], 'b': [True, False], 'c': ['x', 'y', 'z'], 'd': [0.5, 1.0]}


def test_every_pair_of_values_is_in_a_case():
    names, cases = grids.by_pairs(**VALUES).args
    assert names == tuple(VALUES) and len(cases) <= 12 < 36 == len(list(itertools.product(*VALUES.values())))
    for (first, these), (second, those) in itertools.combinations(enumerate(VALUES.values()), 2):
        assert {(case[first], case[second]) for case in cases} == set(itertools.product(these, those))


@grids.by_pairs(a=[1, 2], b=['x', 'y'])
def test_two_parameters_make_the_whole_grid(a, b, request):
    assert request.node.callspec.params == {'a': a, 'b': b}
