"""Reads proper names and terms off Factbook fields.

A reader gives the accepted answers, the one to train on first, or none: what is vacant, disputed, several, or not plainly readable is
left out rather than guessed. It takes the text at the fact's place and the text of the whole field.
"""

import re

from atlas_jax.demo import factbook_people

_NAME = re.compile(r"[^\W\d_a-z][\w.'’-]*(?: [\w.'’-]+){0,4}$")


def person(text: str, field: str) -> tuple[str, ...]:
    """Whoever holds the office: name, surname, and title with name."""
    holder = factbook_people.parse(text)
    return holder.answers if holder else ()


def capital(text: str, field: str) -> list[str]:
    """The capital, where there is one and only one."""
    name = re.split(r'[;(]', text)[0].strip()
    several = re.search(r'\bcapital\b|seat of', text.removeprefix(name)) or ' in ' in name
    return [name] if not several and (_NAME.match(name) or name == 'Washington, D.C.') else []


def government_type(text: str, field: str) -> list[str]:
    """The form of government, where it is put in one phrase."""
    name = re.split(r'[;(,]', text)[0].strip()
    doubtful = re.search(r' - |\d|transition|formerly|legal status|in name|^the |regime', name) or len(name.split()) > 7 or ', ' in text
    return [] if doubtful else [name]


def adjective(text: str, field: str) -> list[str]:
    """The adjective of nationality, with its variants after "or"."""
    names = text.split(' or ')
    return names if all(re.fullmatch(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}", name) and name != 'NA' for name in names) else []


def anthem(text: str, field: str) -> list[str]:
    """The anthem's title and its translation; not where it is just called the national anthem."""
    match = re.match(r'["“]([^"“”]+)["”](?: ?\(([^()]+)\))?$', text)
    if match is None or 'anthem' in text.lower() or len(match[1].split()) > 8:
        return []
    return [group.strip('.,“”') for group in match.groups() if group]


def extreme_point(text: str, field: str) -> list[str]:
    """A highest or lowest point, with and without the place it lies on."""
    match = re.match(r'([A-Z][^\d(;:,/]*?)(?: \([^)]*\))?,? -?\d[\d,.]*(?: m)?\b', text)
    if match is None or len(match[1].split()) > 5 or ' and ' in match[1]:
        return []
    return list(dict.fromkeys((re.split(r' (?:on|in|at|near) ', match[1])[0], match[1])))


def legislature(text: str, field: str) -> list[str]:
    """The legislature's English name and its own."""
    match = re.fullmatch(r"([A-Z][\w' ]+?)(?: \(([^()]+)\))?", text)
    if match is None or ' or ' in text:
        return []
    own_name = match[2] if match[2] and ' - ' not in match[2] and ',' not in match[2] else None
    return [name for name in (re.sub(r'^The ', '', match[1]), own_name) if name]


def symbols(text: str, field: str) -> list[str]:
    """Up to three national symbols, any of which is right."""
    text = re.sub(r';? ?national colors:.*', '', text)
    names = [re.sub(r'^an? ', '', name.strip()) for name in re.split(r'[,;]', re.sub(r' ?\([^()]*\)', '', text))]
    plain = all(re.fullmatch(r"[^\W\d_][\w' -]*", name) and len(name.split()) <= 4 for name in names)
    # "six, five-pointed, white stars" is one symbol torn into three.
    torn = any(re.fullmatch(r'\w+-pointed|white|six|ten|crown surmounted by .*', name) for name in names)
    return names if plain and not torn and len(names) <= 3 else []
