"""Office holders as the Factbook writes them: "Ambassador Laurent BILI (since 19 April 2023)", the surname in capitals."""

import dataclasses
import itertools
import re

TITLE_WORDS = frozenset(
    'President Prime Minister King Queen Emperor Sultan Amir Emir Prince Crown Grand Duke Pope Chancellor Premier Taoiseach Acting Interim '
    'Transition Transitional Caretaker Vice Deputy Governor General Governor-General Chief Executive Administrator Ambassador Consul '
    "Charge Chargé d'Affaires High Commissioner Dr. Col. Gen. Sr. Lt. Maj. Brig. Adm. Capt. Cdr. Rear Admiral Sir Dame Sheikh Shaykh "
    'Supreme Leader CNSP GNU Marshal Field Captain Colonel Gen Mr. Mrs. Ms.'.split())
_PARTICLES = frozenset('al bin bint ibn ben de da do dos das du del della di van der den von zu e y i la le el ul ur ould'.split())
_PREFIXED = re.compile(r"(?:al|el|ad|an|ar|as|ash|at|d)[-']\w")
_WORD = re.compile(r"""(?:[^\W\d_]|["'`])[\w.'"`-]*$""")
# What may follow the name: when the office was taken, another holder, or nothing.
_WHO = re.compile(r'(?P<who>[^(;,]+?)\s*(?:$|;|\((?:since|for the period|\d)|,\s*(?:represented|former))')


@dataclasses.dataclass(frozen=True)
class Person:
    """`title` "President", `name` "Emmanuel MACRON" (as the text has it), `surname` "MACRON" (the part in capitals)."""

    title: str
    name: str
    surname: str

    @property
    def answers(self) -> tuple[str, ...]:
        """What counts as naming this person; the name as the text has it comes first."""
        return tuple(dict.fromkeys((self.name, self.surname, f'{self.title} {self.name}'.strip())))


def parse(text: str) -> Person | None:
    """The one person who holds the office that `text` describes; None where it is vacant, shared, or not plainly a title and a name."""
    text = re.sub(r',\s*(Jr|Sr)\b\.?', r' \1.', text)
    if re.match(r'[\w-]+ \(vacant\)', text):
        text = re.sub(r'^[\w-]+ \(vacant\)[;,]?\s*', '', text)
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
    if not title or not capitals or len(words) > 7 or not all(_WORD.match(word) and word not in TITLE_WORDS for word in words):
        return None
    if not all(word[0].isupper() or word in _PARTICLES or _PREFIXED.match(word) or _has_capitals(word) for word in words):
        return None
    surname = words[capitals[0]:capitals[-1] + 1]
    while len(surname) > 1 and surname[-1] in ('Jr.', 'Sr.'):
        surname.pop()
    return Person(title, ' '.join(words), ' '.join(surname))


def _has_capitals(word: str) -> bool:
    """Whether the word is a surname as the Factbook writes one: two capitals in a row ("McDOWELL", "al-MANFI", "NELIUPŠIENĖ")."""
    return any(first.isupper() and second.isupper() for first, second in itertools.pairwise(word))
