"""Reads answers from Factbook fields: office holders, names and figures. FACTS lists the facts that
become questions.

A reader takes the text at the fact's place and the text of the whole field. It returns the accepted
answers; training uses the first. It never guesses: a text that is vacant, disputed, ambiguous or
hard to read gives no answers.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable

# Words before a name that do not belong to it. They are listed, because texts do not mark titles.
TITLE_WORDS = frozenset(
    'President Prime Minister King Queen Emperor Sultan Amir Emir Prince Crown Grand Duke Pope '
    'Chancellor Premier Taoiseach Acting Interim Transition Transitional Caretaker Vice Deputy '
    'Governor General Governor-General Chief Executive Administrator Ambassador Consul '
    "Charge Chargé d'Affaires High Commissioner Dr. Col. Gen. Sr. Lt. Maj. Brig. Adm. Capt. Cdr. "
    'Rear Admiral Sir Dame Sheikh Shaykh Supreme Leader CNSP GNU Marshal Field Captain Colonel Gen '
    'Mr. Mrs. Ms.'.split())
# Lower-case words within names.
_PARTICLES = frozenset('al bin bint ibn ben de da do dos das du del della di van der den von zu e '
                       'y i la le el ul ur ould'.split())
_PREFIXED = re.compile(r"(?:al|el|ad|an|ar|as|ash|at|d)[-']\w")
_WORD = re.compile(r"""(?:[^\W\d_]|["'`])[\w.'"`-]*$""")
# A name ends at the date of taking office, at another holder, or at the end of the text.
_WHO = re.compile(r'(?P<who>[^(;,]+?)\s*'
                  r'(?:$|;|\((?:since|for the period|\d)|,\s*(?:represented|former))')


@dataclasses.dataclass(frozen=True)
class Person:
    """An office holder: title "President", name "Emmanuel MACRON" (as in the text), surname
    "MACRON" (the part in capitals).
    """

    title: str
    name: str
    surname: str

    @property
    def answers(self) -> tuple[str, ...]:
        """The accepted answers for this person; the name, as in the text, comes first."""
        return tuple(dict.fromkeys((self.name, self.surname, f'{self.title} {self.name}'.strip())))


def parse_person(text: str) -> Person | None:
    """Returns the person who holds the office that `text` describes; None if it is vacant, shared,
    or not clearly a title and a name.
    """
    # Any other comma ends the name.
    text = re.sub(r',\s*(Jr|Sr)\b\.?', r' \1.', text)
    # The deputy follows a vacant post.
    if re.match(r'[\w-]+ \(vacant\)', text):
        text = re.sub(r'^[\w-]+ \(vacant\)[;,]?\s*', '', text)
    # Two people share the post.
    elif re.match(r'Ambassador.*Charg', text):
        return None
    match = _WHO.match(text)
    if match is None:
        return None
    words = match['who'].split()
    first = next((i for i, word in enumerate(words) if not _is_title(words, i)), len(words))
    return _person(' '.join(words[:first]), words[first:])


def _is_title(words: list[str], i: int) -> bool:
    if words[i] == 'and':
        return i + 1 < len(words) and words[i + 1] in TITLE_WORDS
    return words[i] in TITLE_WORDS


def _person(title: str, words: list[str]) -> Person | None:
    capitals = [i for i, word in enumerate(words) if _has_capitals(word)]
    # Without a title and a surname in capitals, the text is a sentence.
    if not title or not capitals or len(words) > 7 or not all(
            _WORD.match(word) and word not in TITLE_WORDS for word in words):
        return None
    if not all(
            word[0].isupper() or word in _PARTICLES or _PREFIXED.match(word) or _has_capitals(word)
            for word in words):
        return None
    surname = words[capitals[0]:capitals[-1] + 1]
    # Texts repeat the surname without its suffix.
    while len(surname) > 1 and surname[-1] in ('Jr.', 'Sr.'):
        surname.pop()
    return Person(title, ' '.join(words), ' '.join(surname))


def _has_capitals(word: str) -> bool:
    """Returns whether a word has two capitals in a row, as the Factbook's surnames have
    ("McDOWELL", "al-MANFI", "NELIUPŠIENĖ").
    """
    return any(first.isupper() and second.isupper() for first, second in itertools.pairwise(word))


_NAME = re.compile(r"[^\W\d_a-z][\w.'’-]*(?: [\w.'’-]+){0,4}$")


def person(text: str, field: str) -> tuple[str, ...]:
    """Returns the holder of the office: name, surname, and title with name."""
    holder = parse_person(text)
    return holder.answers if holder else ()


def capital(text: str, field: str) -> list[str]:
    """Returns the capital if there is exactly one."""
    name = re.split(r'[;(]', text)[0].strip()
    # A second capital, or a seat of government, makes the answer ambiguous.
    several = re.search(r'\bcapital\b|seat of', text.removeprefix(name)) or ' in ' in name
    return [name] if not several and (_NAME.match(name) or name == 'Washington, D.C.') else []


def government_type(text: str, field: str) -> list[str]:
    """Returns the form of government if it is one phrase."""
    name = re.split(r'[;(,]', text)[0].strip()
    # Explanations, dates and disputes are not forms of government.
    unclear = re.search(r' - |\d|transition|formerly|legal status|in name|^the |regime', name)
    return [] if unclear or len(name.split()) > 7 or ', ' in text else [name]


def adjective(text: str, field: str) -> list[str]:
    """Returns the adjective of nationality, with its variants after "or"."""
    names = text.split(' or ')
    # NA means that it has no adjective.
    plain = all(re.fullmatch(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}", name) and name != 'NA'
                for name in names)
    return names if plain else []


def anthem(text: str, field: str) -> list[str]:
    """Returns the anthem's title and its translation; nothing if it is only called the national
    anthem.
    """
    match = re.match(r'["“]([^"“”]+)["”](?: ?\(([^()]+)\))?$', text)
    if match is None or 'anthem' in text.lower() or len(match[1].split()) > 8:
        return []
    return [group.strip('.,“”') for group in match.groups() if group]


def extreme_point(text: str, field: str) -> list[str]:
    """Returns a highest or lowest point, without and with its place."""
    # A name before a height, perhaps with a remark in brackets: "Mont Blanc 4,810 m".
    match = re.match(r'([A-Z][^\d(;:,/]*?)(?: \([^)]*\))?,? -?\d[\d,.]*(?: m)?\b', text)
    if match is None or len(match[1].split()) > 5 or ' and ' in match[1]:
        return []
    return list(dict.fromkeys((re.split(r' (?:on|in|at|near) ', match[1])[0], match[1])))


def legislature(text: str, field: str) -> list[str]:
    """Returns the legislature's English name, and its name in its own language."""
    match = re.fullmatch(r"([A-Z][\w' ]+?)(?: \(([^()]+)\))?", text)
    if match is None or ' or ' in text:
        return []
    own_name = match[2] if match[2] and ' - ' not in match[2] and ',' not in match[2] else None
    return [name for name in (re.sub(r'^The ', '', match[1]), own_name) if name]


def symbols(text: str, field: str) -> list[str]:
    """Returns up to three national symbols, each of which is a right answer."""
    text = re.sub(r';? ?national colors:.*', '', text)
    names = [
        re.sub(r'^an? ', '', name.strip())
        for name in re.split(r'[,;]', re.sub(r' ?\([^()]*\)', '', text))]
    plain = all(
        re.fullmatch(r"[^\W\d_][\w' -]*", name) and len(name.split()) <= 4 for name in names)
    # "six, five-pointed, white stars" is one symbol, which the commas split in three.
    torn = any(
        re.fullmatch(r'\w+-pointed|white|six|ten|crown surmounted by .*', name) for name in names)
    return names if plain and not torn and len(names) <= 3 else []


# Lists of trading partners abbreviate names; a reader may know the country by another name.
_COUNTRY_ALIASES = {
    'USA': ('US', 'United States'), 'US': ('USA', 'United States'), 'United States': ('USA', 'US'),
    'UK': ('United Kingdom', ), 'UAE': ('United Arab Emirates', ), 'S. Korea': ('South Korea', ),
    'NZ': ('New Zealand', ), 'DRC': ('Democratic Republic of the Congo', )}
# Plurals that do not just add an s.
_SINGULAR = {'colones': 'colon', 'quetzales': 'quetzal', 'meticais': 'metical'}


def pattern(expression: str, *, whole: bool = False) -> Callable[[str, str], list[str]]:
    """Returns a reader that takes the groups of a match at the start of the text; with `whole`, of
    the whole text.
    """
    compiled = re.compile(expression)

    def read(text: str, field: str) -> list[str]:
        match = compiled.fullmatch(text) if whole else compiled.match(text)
        return [group for group in match.groups() if group] if match else []

    return read


def first_of_ranking(ranking: str) -> Callable[[str, str], list[str]]:
    """Returns a reader that takes the first item if the field states this ranking."""
    def read(text: str, field: str) -> list[str]:
        name = re.split(r', |;| \(', text)[0].strip()
        # Only some lists of products are ranked; a note in the field says so.
        return [name] if ranking in field and ', ' in text and len(name.split()) <= 4 else []

    return read


def currency(text: str, field: str) -> list[str]:
    """Returns the currency as written in the text, and in the singular."""
    match = re.match(r"((?:new )?[^\W\d_][\w'/ -]*?) \(\w{2,3}\) per US dollar", text)
    if match is None or len(match[1].split()) > 6 or ' or ' in match[1]:
        return []
    # Two names for one currency are both right answers.
    names = [match[1]] + (match[1].split('/') if '/' in match[1] else [])
    return names + [_singular(name) for name in names if name.endswith('s')]


def _singular(name: str) -> str:
    first, _, last = name.rpartition(' ')
    return f'{first} {_SINGULAR.get(last, last[:-1])}'.strip()


def first_partner(text: str, field: str) -> list[str]:
    """Returns the first trading partner and its other names, if its share is the largest."""
    # "Germany 16%, France 12%, ...": a tie for first place has no single right answer.
    shares = re.findall(r'([A-Z][^%,]*?) (\d+(?:\.\d+)?)%', text)
    if not shares or not text.startswith(shares[0][0]) or any(
            float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    return [shares[0][0], *_COUNTRY_ALIASES.get(shares[0][0], ())]


def official_language(text: str, field: str) -> list[str]:
    """Returns the official language if there is exactly one."""
    # More than one official language has more than one right answer.
    match = re.match(r'([A-Z][a-z]+(?: [A-Z][a-z]+)?) (?:[\d.]+% )?\(official[^)]*\)', text)
    return [match[1]] if match and text.count('official') == 1 else []


def largest_religion(text: str, field: str) -> list[str]:
    """Returns the first religious group if its share is the largest."""
    # Removes subgroups, which are in brackets, perhaps nested.
    while '(' in text and (shorter := re.sub(r' ?\([^()]*\)', '', text)) != text:
        text = shorter
    shares = re.findall(r"([A-Za-z][A-Za-z' -]*?) (?:<|~)?(\d+(?:\.\d+)?)(?:-\d+)?%", text)
    if not shares or not text.startswith(shares[0][0]) or any(
            float(share) >= float(shares[0][1]) for _, share in shares[1:]):
        return []
    is_none = re.match(r'none|other|no religion|unspecified|nominally', shares[0][0])
    return [] if is_none else [shares[0][0]]


@dataclasses.dataclass(frozen=True)
class Fact:
    """A kind of fact, which becomes a question about each country.

    name       such as "capital"
    questions  templates with {country} ("the Bahamas") or {possessive} ("the Bahamas'")
    places     (section, field) or (section, field, part); the first one that an edition has is read
    read       takes the text of the place and the text of the whole field; returns the accepted
               answers
    office     True if the answer is a person who holds an office
    """

    name: str
    questions: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    read: Callable[[str, str], Iterable[str]]
    office: bool = False


# Each fact has two templates; a hash of country and fact chooses one.
FACTS = (
    Fact('capital',
         ('What is the capital of {country}?', 'Which city is the capital of {country}?'),
         (('Government', 'Capital', 'name'), ), capital),
    Fact('chief of state',
         ('Who is the chief of state of {country}?', 'Who is {possessive} chief of state?'),
         (('Government', 'Executive branch', 'chief of state'), ), person, office=True),
    Fact('head of government',
         ('Who is the head of government of {country}?', 'Who heads the government of {country}?'),
         (('Government', 'Executive branch', 'head of government'), ), person, office=True),
    Fact('US chief of mission', ('Who is the US chief of mission in {country}?',
                                 'Who leads the US diplomatic mission in {country}?'),
         (('Government', 'Diplomatic representation from the US', 'chief of mission'), ), person,
         office=True),
    Fact('chief of mission in the US',
         ('Who is {possessive} chief of mission in the United States?',
          'Who leads the diplomatic mission of {country} in the US?'),
         (('Government', 'Diplomatic representation in the US', 'chief of mission'), ), person,
         office=True),
    Fact('government type', ('What type of government does {country} have?',
                             'What is the form of government of {country}?'),
         (('Government', 'Government type'), ), government_type),
    Fact('adjective', ('What is the adjective for the nationality of {country}?',
                       'What adjective describes the nationality of {country}?'),
         (('People and Society', 'Nationality', 'adjective'), ), adjective),
    # Matches the whole text, because a second code or a remark makes the answer ambiguous.
    Fact('internet code', ('What is the internet country code of {country}?',
                           'What is {possessive} internet country code?'),
         (('Communications', 'Internet country code'), ), pattern(r'(\.[a-z]{2})', whole=True)),
    Fact('anthem', ('What is the title of the national anthem of {country}?',
                    'What is {possessive} national anthem called?'),
         (('Government', 'National anthem(s)', 'title'), ('Government', 'National anthem', 'name')),
         anthem),
    Fact('highest point',
         ('What is the highest point in {country}?', 'What is {possessive} highest point?'),
         (('Geography', 'Elevation', 'highest point'),
          ('Geography', 'Elevation extremes', 'highest point')), extreme_point),
    Fact('lowest point',
         ('What is the lowest point in {country}?', 'What is {possessive} lowest point?'),
         (('Geography', 'Elevation', 'lowest point'),
          ('Geography', 'Elevation extremes', 'lowest point')), extreme_point),
    Fact('independence',
         ('On what date did {country} become independent?',
          'When did {country} gain independence?'),
         (('Government', 'Independence'), ),
         pattern(r'(\d{1,2} [A-Z][a-z]+ \d{4})(?: \((?:declared )?from [^()]*\))?', whole=True)),
    Fact('national holiday', ('On what day of the year is the national holiday of {country}?',
                              'When is {possessive} national holiday?'),
         (('Government', 'National holiday'), ),
         pattern(r'[^;]*?, (\d{1,2} [A-Z][a-z]+)(?: \(\d{4}\))?', whole=True)),
    Fact('currency', ('What is the currency of {country}?', 'Which currency is used in {country}?'),
         (('Economy', 'Exchange rates', 'Currency'), ('Economy', 'Exchange rates')), currency),
    Fact('export partner', ('Which country is the largest export partner of {country}?',
                            'Which country buys the most of {possessive} exports?'),
         (('Economy', 'Exports - partners'), ), first_partner),
    Fact('import partner', ('Which country is the largest import partner of {country}?',
                            'Which country supplies the most of {possessive} imports?'),
         (('Economy', 'Imports - partners'), ), first_partner),
    Fact('top export', ('What is the most valuable export commodity of {country}?',
                        'Which commodity is {possessive} top export by value?'),
         (('Economy', 'Exports - commodities'), ),
         first_of_ranking('top five export commodities based on value')),
    Fact('top farm product',
         ('What is the top agricultural product of {country} by tonnage?',
          'Which agricultural product does {country} produce most of by weight?'),
         (('Economy', 'Agricultural products'), ),
         first_of_ranking('top ten agricultural products based on tonnage')),
    Fact('language', ('What is the official language of {country}?',
                      'Which language is official in {country}?'),
         (('People and Society', 'Languages', 'Languages'), ('People and Society', 'Languages')),
         official_language),
    Fact('religion', ('What is the largest religion in {country}?',
                      'Which religious group is the largest in {country}?'),
         (('People and Society', 'Religions'), ), largest_religion),
    # From 1 up: landlocked countries have "0 km (landlocked)", which is not a useful answer.
    Fact('coastline', ('How long is the coastline of {country}?',
                       'What is the length of {possessive} coastline?'),
         (('Geography', 'Coastline'), ), pattern(r'([1-9][\d,.]* km)\b')),
    # Two groups: training uses the figure with its unit; the bare figure is accepted, too.
    Fact('area',
         ('What is the total area of {country}?', 'How large is the total area of {country}?'),
         (('Geography', 'Area', 'total'), ), pattern(r'(([1-9][\d,.]*) sq km)\b')),
    Fact('median age', ('What is the median age in {country}?',
                        'What is the median age of the population of {country}?'),
         (('People and Society', 'Median age', 'total'), ), pattern(r'(([\d.]+) years)\b')),
    Fact('legislature', ('What is the name of the legislature of {country}?',
                         'What is {possessive} legislature called?'),
         (('Government', 'Legislative branch', 'legislature name'), ), legislature),
    Fact('national symbol',
         ('What is a national symbol of {country}?', 'Name a national symbol of {country}.'),
         (('Government', 'National symbol(s)'), ), symbols),
)
