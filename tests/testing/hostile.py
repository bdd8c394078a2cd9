"""JSON documents with one value changed to what no writer of ours writes, for tests of what reads them."""

import copy
import math
from typing import Any

from hypothesis import strategies as st

VALUES = [None, True, False, 0, -1, 1, 3, 10**6, 2**53, 2**70, 0.5, math.nan, math.inf, '', 'x', '..', '../victim', '/etc/passwd', 'a\nb',
          'a\0b', '\ud800', '9' * 64, 'f' * 64, 'segment-00001', 'tombstones-000009.bits', 'int8', 'x' * 10**5, [], [[]], [1, 2], {},
          {'name': 1}, {'a': {'b': []}}]


def _places(document: Any, place: tuple = ()) -> list[tuple]:
    inside = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [place, *(below for key, value in inside for below in _places(value, (*place, key)))]


@st.composite
def mutated(draw, document: Any) -> Any:
    """The document with one value replaced, removed, doubled or under another name."""
    document = copy.deepcopy(document)
    place = draw(st.sampled_from(_places(document)[1:]))
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    change = draw(st.sampled_from(['replace', 'replace', 'replace', 'remove', 'double']))
    if change == 'replace':
        parent[place[-1]] = draw(st.sampled_from(VALUES) | st.integers(-3, 40))
    elif change == 'remove':
        del parent[place[-1]]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[place[-1]]))
    else:
        parent[draw(st.sampled_from(['new', '../victim', '', 'a/b', '..']))] = copy.deepcopy(parent[place[-1]])
    return document
