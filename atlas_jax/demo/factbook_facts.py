"""Which facts of the Factbook become questions."""

import dataclasses
from collections.abc import Callable, Iterable

from atlas_jax.demo import factbook_figures as figures
from atlas_jax.demo import factbook_names as names


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


FACTS = (
    Fact('capital', ('What is the capital of {country}?', 'Which city is the capital of {country}?'),
         (('Government', 'Capital', 'name'),), names.capital),
    Fact('chief of state', ('Who is the chief of state of {country}?', 'Who is {possessive} chief of state?'),
         (('Government', 'Executive branch', 'chief of state'),), names.person, office=True),
    Fact('head of government', ('Who is the head of government of {country}?', 'Who heads the government of {country}?'),
         (('Government', 'Executive branch', 'head of government'),), names.person, office=True),
    Fact('US chief of mission', ('Who is the US chief of mission in {country}?', 'Who leads the US diplomatic mission in {country}?'),
         (('Government', 'Diplomatic representation from the US', 'chief of mission'),), names.person, office=True),
    Fact('chief of mission in the US', ('Who is {possessive} chief of mission in the United States?',
                                        'Who leads the diplomatic mission of {country} in the US?'),
         (('Government', 'Diplomatic representation in the US', 'chief of mission'),), names.person, office=True),
    Fact('government type', ('What type of government does {country} have?', 'What is the form of government of {country}?'),
         (('Government', 'Government type'),), names.government_type),
    Fact('adjective', ('What is the adjective for the nationality of {country}?', 'What adjective describes the nationality of {country}?'),
         (('People and Society', 'Nationality', 'adjective'),), names.adjective),
    Fact('internet code', ('What is the internet country code of {country}?', 'What is {possessive} internet country code?'),
         (('Communications', 'Internet country code'),), figures.pattern(r'(\.[a-z]{2})', whole=True)),
    Fact('anthem', ('What is the title of the national anthem of {country}?', 'What is {possessive} national anthem called?'),
         (('Government', 'National anthem(s)', 'title'), ('Government', 'National anthem', 'name')), names.anthem),
    Fact('highest point', ('What is the highest point in {country}?', 'What is {possessive} highest point?'),
         (('Geography', 'Elevation', 'highest point'), ('Geography', 'Elevation extremes', 'highest point')), names.extreme_point),
    Fact('lowest point', ('What is the lowest point in {country}?', 'What is {possessive} lowest point?'),
         (('Geography', 'Elevation', 'lowest point'), ('Geography', 'Elevation extremes', 'lowest point')), names.extreme_point),
    Fact('independence', ('On what date did {country} become independent?', 'When did {country} gain independence?'),
         (('Government', 'Independence'),), figures.pattern(r'(\d{1,2} [A-Z][a-z]+ \d{4})(?: \((?:declared )?from [^()]*\))?', whole=True)),
    Fact('national holiday', ('On what day of the year is the national holiday of {country}?', 'When is {possessive} national holiday?'),
         (('Government', 'National holiday'),), figures.pattern(r'[^;]*?, (\d{1,2} [A-Z][a-z]+)(?: \(\d{4}\))?', whole=True)),
    Fact('currency', ('What is the currency of {country}?', 'Which currency is used in {country}?'),
         (('Economy', 'Exchange rates', 'Currency'), ('Economy', 'Exchange rates')), figures.currency),
    Fact('export partner', ('Which country is the largest export partner of {country}?',
                            'Which country buys the most of {possessive} exports?'),
         (('Economy', 'Exports - partners'),), figures.first_partner),
    Fact('import partner', ('Which country is the largest import partner of {country}?',
                            'Which country supplies the most of {possessive} imports?'),
         (('Economy', 'Imports - partners'),), figures.first_partner),
    Fact('top export', ('What is the most valuable export commodity of {country}?', 'Which commodity is {possessive} top export by value?'),
         (('Economy', 'Exports - commodities'),), figures.first_of_ranking('top five export commodities based on value')),
    Fact('top farm product', ('What is the top agricultural product of {country} by tonnage?',
                              'Which agricultural product does {country} produce most of by weight?'),
         (('Economy', 'Agricultural products'),), figures.first_of_ranking('top ten agricultural products based on tonnage')),
    Fact('language', ('What is the official language of {country}?', 'Which language is official in {country}?'),
         (('People and Society', 'Languages', 'Languages'), ('People and Society', 'Languages')), figures.official_language),
    Fact('religion', ('What is the largest religion in {country}?', 'Which religious group is the largest in {country}?'),
         (('People and Society', 'Religions'),), figures.largest_religion),
    Fact('coastline', ('How long is the coastline of {country}?', 'What is the length of {possessive} coastline?'),
         (('Geography', 'Coastline'),), figures.pattern(r'([1-9][\d,.]* km)\b')),
    Fact('area', ('What is the total area of {country}?', 'How large is the total area of {country}?'),
         (('Geography', 'Area', 'total'),), figures.pattern(r'(([1-9][\d,.]*) sq km)\b')),
    Fact('median age', ('What is the median age in {country}?', 'What is the median age of the population of {country}?'),
         (('People and Society', 'Median age', 'total'),), figures.pattern(r'(([\d.]+) years)\b')),
    Fact('legislature', ('What is the name of the legislature of {country}?', 'What is {possessive} legislature called?'),
         (('Government', 'Legislative branch', 'legislature name'),), names.legislature),
    Fact('national symbol', ('What is a national symbol of {country}?', 'Name a national symbol of {country}.'),
         (('Government', 'National symbol(s)'),), names.symbols),
)
