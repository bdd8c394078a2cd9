"""Reads figures, shares and rankings off Factbook fields.

A reader gives the accepted answers, the one to train on first, or none: what is vacant, disputed, several, or not plainly readable is
left out rather than guessed. It takes the text at the fact's place and the text of the whole field.
"""

import re
from collections.abc import Callable

_COUNTRY_ALIASES = {
    'USA': ('US', 'United States'), 'US': ('USA', 'United States'), 'United States': ('USA', 'US'), 'UK': ('United Kingdom',),
    'UAE': ('United Arab Emirates',), 'S. Korea': ('South Korea',), 'NZ': ('New Zealand',), 'DRC': ('Democratic Republic of the Congo',)}
_SINGULAR = {'colones': 'colon', 'quetzales': 'quetzal', 'meticais': 'metical'}


def pattern(expression: str, *, whole: bool = False) -> Callable[[str, str], list[str]]:
    """A reader that takes the groups of a match at the start (or of the whole) of the text."""
    compiled = re.compile(expression)

    def read(text: str, field: str) -> list[str]:
        match = compiled.fullmatch(text) if whole else compiled.match(text)
        return [group for group in match.groups() if group] if match else []

    return read


def first_of_ranking(ranking: str) -> Callable[[str, str], list[str]]:
    """A reader of the first item, where the field says that its items are ranked so."""
    def read(text: str, field: str) -> list[str]:
        name = re.split(r', |;| \(', text)[0].strip()
        return [name] if ranking in field and ', ' in text and len(name.split()) <= 4 else []

    return read


def currency(text: str, field: str) -> list[str]:
    """The currency as the text has it and in the singular."""
    match = re.match(r"((?:new )?[^\W\d_][\w'/ -]*?) \(\w{2,3}\) per US dollar", text)
    if match is None or len(match[1].split()) > 6 or ' or ' in match[1]:
        return []
    names = [match[1]] + (match[1].split('/') if '/' in match[1] else [])
    return names + [_singular(name) for name in names if name.endswith('s')]


def _singular(name: str) -> str:
    first, _, last = name.rpartition(' ')
    return f'{first} {_SINGULAR.get(last, last[:-1])}'.strip()


def first_partner(text: str, field: str) -> list[str]:
    """The first trading partner, where its share is larger than all others'; with other names of the same country."""
    shares = re.findall(r'([A-Z][^%,]*?) (\d+(?:\.\d+)?)%', text)
    if not shares or not text.startswith(shares[0][0]) or any(float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    return [shares[0][0], *_COUNTRY_ALIASES.get(shares[0][0], ())]


def official_language(text: str, field: str) -> list[str]:
    """The official language, where there is one and only one."""
    match = re.match(r'([A-Z][a-z]+(?: [A-Z][a-z]+)?) (?:[\d.]+% )?\(official[^)]*\)', text)
    return [match[1]] if match and text.count('official') == 1 else []


def largest_religion(text: str, field: str) -> list[str]:
    """The first religious group, where its share is larger than all others'."""
    while '(' in text and (shorter := re.sub(r' ?\([^()]*\)', '', text)) != text:
        text = shorter
    shares = re.findall(r"([A-Za-z][A-Za-z' -]*?) (?:<|~)?(\d+(?:\.\d+)?)(?:-\d+)?%", text)
    if not shares or not text.startswith(shares[0][0]) or any(float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    return [] if re.match(r'none|other|no religion|unspecified|nominally', shares[0][0]) else [shares[0][0]]
