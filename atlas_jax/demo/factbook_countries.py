"""Countries as the Factbook names them, in questions and in docids."""

import re
import unicodedata
from typing import Any

from atlas_jax.demo import factbook_text

_FULL_NAMES = {
    'The Dominican': 'Dominican Republic', 'Holy See (Vatican City)': 'Vatican City', 'Congo (Brazzaville)': 'Republic of the Congo',
    'DRC': 'Democratic Republic of the Congo', 'Congo (Kinshasa)': 'Democratic Republic of the Congo',
    'Cocos (Keeling) Islands': 'Cocos (Keeling) Islands'}
_WITH_ARTICLE = re.compile(r'(Bahamas|Gambia|Netherlands|Philippines|Maldives|Comoros|Seychelles|Congo|Isle of Man|'
                           r'.* (Islands|Republic|Emirates|States|Kingdom|Union)|(Federated|Democratic|Republic).*)$')


def country_name(profile: Any) -> str | None:
    """The country's short name, or the long one where it has none; None for what is no country."""
    for part in ('conventional short form', 'conventional long form'):
        name = text_at(profile, ('Government', 'Country name', part))
        name = _FULL_NAMES.get(name, re.split(r' ?[(;]', name)[0])
        if name and name != 'none' and ',' not in name:
            return name
    return None


def text_at(profile: Any, place: tuple[str, ...]) -> str:
    """The clean text at `place`, keys compared without outer blanks; empty where there is none."""
    for key in place:
        if not isinstance(profile, dict):
            return ''
        profile = next((value for name, value in profile.items() if name.strip() == key), None)
    if isinstance(profile, dict):
        profile = profile.get('text')
    return factbook_text.clean(profile) if isinstance(profile, str) else ''


def with_article(country: str) -> str:
    """The name as it stands within a sentence: "the Bahamas", "France"."""
    if country.startswith('The '):
        return 'the ' + country.removeprefix('The ')
    return f'the {country}' if _WITH_ARTICLE.match(country) else country


def possessive(country: str) -> str:
    """The possessive within a sentence: "the Bahamas'", "France's"."""
    return with_article(country) + ("'" if country.endswith('s') else "'s")


def slug(name: str) -> str:
    """The name in lower-case ASCII letters, digits and hyphens, for docids."""
    ascii_name = unicodedata.normalize('NFKD', name).encode('ascii', 'ignore').decode().lower()
    return re.sub(r'[^a-z0-9]+', '-', ascii_name).strip('-')
