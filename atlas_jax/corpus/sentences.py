"""Words and sentence borders of plain text, by rules."""

import re

# Chinese and Japanese write no spaces: each of their characters counts as a word.
_UNSPACED = '\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
_WORD = re.compile(f'[{_UNSPACED}][、。，：；！？」』）]*|[^\\s{_UNSPACED}]+')
_CLOSING = '"\'”’»)\\]}'
_END = re.compile(f'[.!?…][{_CLOSING}]*$')
_WIDE_END = re.compile('[。！？][」』）]*$')
_ABBREVIATION = re.compile(
    r'(?:^|[(\["\'“‘])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|Pres|St|Mt|Ft|Jr|Sr|Inc|Ltd|Co|Corp'
    r'|No|Nos|Vol|pp?|vs?|etc|cf|ca|approx|est|Fig|figs?|Eq|Sec|Ch|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$')


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, stop) of each word: what stands between white space; of Chinese and Japanese each character with its punctuation."""
    return [match.span() for match in _WORD.finditer(text)]


def sentence_ends(text: str, words: list[tuple[int, int]]) -> list[int]:
    """Where sentences end, as numbers of words from the start; the last is the number of words.

    A sentence ends before a blank line, and behind . ! ? … where the next word does not begin in lower case and the full stop does not
    belong to a known abbreviation or an initial.
    """
    ends = [number for number in range(1, len(words)) if _ends(text, words[number - 1], words[number])]
    return [*ends, len(words)] if words else []


def _ends(text: str, word: tuple[int, int], following: tuple[int, int]) -> bool:
    if text.count('\n', word[1], following[0]) > 1:
        return True
    written = text[slice(*word)]
    if _WIDE_END.search(written):
        return True
    if word[1] == following[0] or not _END.search(written) or text[following[0]].islower():
        return False
    numbers_a_line = written[:-1].isdigit() and text[max(0, word[0] - 8):word[0]].rstrip(' \t')[-1:] in ('', '\n')
    return not numbers_a_line and not _ABBREVIATION.search(written)
