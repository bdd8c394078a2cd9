"""Which facts of the Factbook become questions, and how an answer is read off a field's text.

A reader of a field returns the accepted answers, the one to train on first, or nothing: whatever is vacant, disputed, several, or not
plainly readable is left out rather than guessed.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

from atlas_jax.corpus import factbook_people

_NAME = re.compile(r"[^\W\d_a-z][\w.'’-]*(?: [\w.'’-]+){0,4}$")
_COUNTRY_ALIASES = {
    'USA': ('US', 'United States'), 'US': ('USA', 'United States'), 'United States': ('USA', 'US'), 'UK': ('United Kingdom',),
    'UAE': ('United Arab Emirates',), 'S. Korea': ('South Korea',), 'NZ': ('New Zealand',), 'DRC': ('Democratic Republic of the Congo',)}
_SINGULAR = {'colones': 'colon', 'quetzales': 'quetzal', 'meticais': 'metical'}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One kind of question.

    name       "capital"
    questions  ways to ask, with {country} ("the Bahamas") or {possessive} ("the Bahamas'") to fill in
    places     where it stands, the first that is there counts: (section, field) or (section, field, part); editions differ
    read       (text of the place, text of the whole field) -> accepted answers
    office     whether the answer is a person who holds an office
    """

    name: str
    questions: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    read: Callable[[str, str], Iterable[str]]
    office: bool = False


def _pattern(expression: str, *, whole: bool = False) -> Callable[[str, str], list[str]]:
    """A reader that takes the groups of a match at the start (or of the whole) of the text."""
    compiled = re.compile(expression)

    def read(text: str, field: str) -> list[str]:
        match = compiled.fullmatch(text) if whole else compiled.match(text)
        return [group for group in match.groups() if group] if match else []

    return read


def _person(text: str, field: str) -> tuple[str, ...]:
    person = factbook_people.parse(text)
    return person.answers if person else ()


def _capital(text: str, field: str) -> list[str]:
    name = re.split(r'[;(]', text)[0].strip()
    several = re.search(r'\bcapital\b|seat of', text.removeprefix(name)) or ' in ' in name
    return [name] if not several and (_NAME.match(name) or name == 'Washington, D.C.') else []


def _government_type(text: str, field: str) -> list[str]:
    name = re.split(r'[;(,]', text)[0].strip()
    doubtful = re.search(r' - |\d|transition|formerly|legal status|in name|^the |regime', name) or len(name.split()) > 7 or ', ' in text
    return [] if doubtful else [name]


def _adjective(text: str, field: str) -> list[str]:
    names = text.split(' or ')
    return names if all(re.fullmatch(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}", name) and name != 'NA' for name in names) else []


def _anthem(text: str, field: str) -> list[str]:
    match = re.match(r'["“]([^"“”]+)["”](?: ?\(([^()]+)\))?$', text)
    if match is None or 'anthem' in text.lower() or len(match[1].split()) > 8:
        return []
    return [group.strip('.,“”') for group in match.groups() if group]


def _extreme_point(text: str, field: str) -> list[str]:
    match = re.match(r'([A-Z][^\d(;:,/]*?)(?: \([^)]*\))?,? -?\d[\d,.]*(?: m)?\b', text)
    if match is None or len(match[1].split()) > 5 or ' and ' in match[1]:
        return []
    return list(dict.fromkeys((re.split(r' (?:on|in|at|near) ', match[1])[0], match[1])))


def _currency(text: str, field: str) -> list[str]:
    match = re.match(r"((?:new )?[^\W\d_][\w'/ -]*?) \(\w{2,3}\) per US dollar", text)
    if match is None or len(match[1].split()) > 6 or ' or ' in match[1]:
        return []
    names = [match[1]] + (match[1].split('/') if '/' in match[1] else [])
    return names + [_singular(name) for name in names if name.endswith('s')]


def _singular(name: str) -> str:
    first, _, last = name.rpartition(' ')
    return f'{first} {_SINGULAR.get(last, last[:-1])}'.strip()


def _first_partner(text: str, field: str) -> list[str]:
    shares = re.findall(r"([A-Z][^%,]*?) (\d+(?:\.\d+)?)%", text)
    if not shares or not text.startswith(shares[0][0]) or any(float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    return [shares[0][0], *_COUNTRY_ALIASES.get(shares[0][0], ())]


def _official_language(text: str, field: str) -> list[str]:
    match = re.match(r'([A-Z][a-z]+(?: [A-Z][a-z]+)?) (?:[\d.]+% )?\(official[^)]*\)', text)
    return [match[1]] if match and text.count('official') == 1 else []


def _legislature(text: str, field: str) -> list[str]:
    match = re.fullmatch(r"([A-Z][\w' ]+?)(?: \(([^()]+)\))?", text)
    if match is None or ' or ' in text:
        return []
    own_name = match[2] if match[2] and ' - ' not in match[2] and ',' not in match[2] else None
    return [name for name in (re.sub(r'^The ', '', match[1]), own_name) if name]


def _symbols(text: str, field: str) -> list[str]:
    text = re.sub(r';? ?national colors:.*', '', text)
    names = [re.sub(r'^an? ', '', name.strip()) for name in re.split(r'[,;]', re.sub(r' ?\([^()]*\)', '', text))]
    plain = all(re.fullmatch(r"[^\W\d_][\w' -]*", name) and len(name.split()) <= 4 for name in names)
    # "six, five-pointed, white stars" is one symbol torn into three.
    torn = any(re.fullmatch(r'\w+-pointed|white|six|ten|crown surmounted by .*', name) for name in names)
    return names if plain and not torn and len(names) <= 3 else []


def _largest_religion(text: str, field: str) -> list[str]:
    while '(' in text and (shorter := re.sub(r' ?\([^()]*\)', '', text)) != text:
        text = shorter
    shares = re.findall(r"([A-Za-z][A-Za-z' -]*?) (?:<|~)?(\d+(?:\.\d+)?)(?:-\d+)?%", text)
    if not shares or not text.startswith(shares[0][0]) or any(float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    return [] if re.match(r'none|other|no religion|unspecified|nominally', shares[0][0]) else [shares[0][0]]


def _first_of_ranking(ranking: str) -> Callable[[str, str], list[str]]:
    """A reader of the first item, where the field says that its items are ranked so."""
    def read(text: str, field: str) -> list[str]:
        name = re.split(r', |;| \(', text)[0].strip()
        return [name] if ranking in field and ', ' in text and len(name.split()) <= 4 else []

    return read


FACTS = (
    Fact('capital', ('What is the capital of {country}?', 'Which city is the capital of {country}?'),
         (('Government', 'Capital', 'name'),), _capital),
    Fact('chief of state', ('Who is the chief of state of {country}?', 'Who is {possessive} chief of state?'),
         (('Government', 'Executive branch', 'chief of state'),), _person, office=True),
    Fact('head of government', ('Who is the head of government of {country}?', 'Who heads the government of {country}?'),
         (('Government', 'Executive branch', 'head of government'),), _person, office=True),
    Fact('US chief of mission', ('Who is the US chief of mission in {country}?', 'Who leads the US diplomatic mission in {country}?'),
         (('Government', 'Diplomatic representation from the US', 'chief of mission'),), _person, office=True),
    Fact('chief of mission in the US', ('Who is {possessive} chief of mission in the United States?',
                                        'Who leads the diplomatic mission of {country} in the US?'),
         (('Government', 'Diplomatic representation in the US', 'chief of mission'),), _person, office=True),
    Fact('government type', ('What type of government does {country} have?', 'What is the form of government of {country}?'),
         (('Government', 'Government type'),), _government_type),
    Fact('adjective', ('What is the adjective for the nationality of {country}?', 'What adjective describes the nationality of {country}?'),
         (('People and Society', 'Nationality', 'adjective'),), _adjective),
    Fact('internet code', ('What is the internet country code of {country}?', 'What is {possessive} internet country code?'),
         (('Communications', 'Internet country code'),), _pattern(r'(\.[a-z]{2})', whole=True)),
    Fact('anthem', ('What is the title of the national anthem of {country}?', 'What is {possessive} national anthem called?'),
         (('Government', 'National anthem(s)', 'title'), ('Government', 'National anthem', 'name')), _anthem),
    Fact('highest point', ('What is the highest point in {country}?', 'What is {possessive} highest point?'),
         (('Geography', 'Elevation', 'highest point'), ('Geography', 'Elevation extremes', 'highest point')), _extreme_point),
    Fact('lowest point', ('What is the lowest point in {country}?', 'What is {possessive} lowest point?'),
         (('Geography', 'Elevation', 'lowest point'), ('Geography', 'Elevation extremes', 'lowest point')), _extreme_point),
    Fact('independence', ('On what date did {country} become independent?', 'When did {country} gain independence?'),
         (('Government', 'Independence'),), _pattern(r'(\d{1,2} [A-Z][a-z]+ \d{4})(?: \((?:declared )?from [^()]*\))?', whole=True)),
    Fact('national holiday', ('On what day of the year is the national holiday of {country}?', 'When is {possessive} national holiday?'),
         (('Government', 'National holiday'),), _pattern(r'[^;]*?, (\d{1,2} [A-Z][a-z]+)(?: \(\d{4}\))?', whole=True)),
    Fact('currency', ('What is the currency of {country}?', 'Which currency is used in {country}?'),
         (('Economy', 'Exchange rates', 'Currency'), ('Economy', 'Exchange rates')), _currency),
    Fact('export partner', ('Which country is the largest export partner of {country}?',
                            'Which country buys the most of {possessive} exports?'),
         (('Economy', 'Exports - partners'),), _first_partner),
    Fact('import partner', ('Which country is the largest import partner of {country}?',
                            'Which country supplies the most of {possessive} imports?'),
         (('Economy', 'Imports - partners'),), _first_partner),
    Fact('top export', ('What is the most valuable export commodity of {country}?', 'Which commodity is {possessive} top export by value?'),
         (('Economy', 'Exports - commodities'),), _first_of_ranking('top five export commodities based on value')),
    Fact('top farm product', ('What is the top agricultural product of {country} by tonnage?',
                              'Which agricultural product does {country} produce most of by weight?'),
         (('Economy', 'Agricultural products'),), _first_of_ranking('top ten agricultural products based on tonnage')),
    Fact('language', ('What is the official language of {country}?', 'Which language is official in {country}?'),
         (('People and Society', 'Languages', 'Languages'), ('People and Society', 'Languages')), _official_language),
    Fact('religion', ('What is the largest religion in {country}?', 'Which religious group is the largest in {country}?'),
         (('People and Society', 'Religions'),), _largest_religion),
    Fact('coastline', ('How long is the coastline of {country}?', 'What is the length of {possessive} coastline?'),
         (('Geography', 'Coastline'),), _pattern(r'([1-9][\d,.]* km)\b')),
    Fact('area', ('What is the total area of {country}?', 'How large is the total area of {country}?'),
         (('Geography', 'Area', 'total'),), _pattern(r'(([1-9][\d,.]*) sq km)\b')),
    Fact('median age', ('What is the median age in {country}?', 'What is the median age of the population of {country}?'),
         (('People and Society', 'Median age', 'total'),), _pattern(r'(([\d.]+) years)\b')),
    Fact('legislature', ('What is the name of the legislature of {country}?', 'What is {possessive} legislature called?'),
         (('Government', 'Legislative branch', 'legislature name'),), _legislature),
    Fact('national symbol', ('What is a national symbol of {country}?', 'Name a national symbol of {country}.'),
         (('Government', 'National symbol(s)'),), _symbols),
)
