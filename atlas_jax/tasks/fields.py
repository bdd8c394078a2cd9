"""Checks of a row's fields: texts, lists of texts, passages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage, ScoredPassage

_MOST_SCORE = 1e30  # a float32 softmax over larger scores overflows


class FieldProblem(NamedTuple):
    """A wrong field of a row: its name, the mistake, and the remedy."""

    field: str
    what: str
    remedy: str


def text_problem(row: dict[str, Any], name: str, remedy: str) -> FieldProblem | None:
    """Checks that `name` is a text that is not blank."""
    value = row.get(name)
    if name not in row:  # a missing field and null are different mistakes
        return _missing(row, name, remedy)
    if not isinstance(value, str) or not value.strip():
        return FieldProblem(name, f'expected a text that is not blank, found {value!r}', remedy)
    return None


def string_problem(row: dict[str, Any], name: str, remedy: str) -> FieldProblem | None:
    """Checks that `name` is a string, blank or not."""
    if name not in row:
        return _missing(row, name, remedy)
    return None if isinstance(row[name], str) else FieldProblem(
        name, f'expected a string, found {row[name]!r}', remedy)


def id_problem(row: dict[str, Any], remedy: str) -> FieldProblem | None:
    """Checks the row's id, which is optional."""
    if isinstance(row.get('id', ''), str | int):
        return None
    return FieldProblem('id', f'expected a string or a number, found {row["id"]!r}', remedy)


def own_docid(row: dict[str, Any]) -> str | None:
    """Returns the row's id as docid, or None. The original's files have numbers as ids."""
    return str(row['id']) if 'id' in row else None


def optional_problem(row: dict[str, Any], texts: Sequence[str] = (),
                     lists: Sequence[str] = ()) -> FieldProblem | None:
    """Checks optional fields: strings, lists of strings, and the row's passages."""
    for name in texts:
        if name in row and not isinstance(row[name], str):
            return FieldProblem(name, f'expected a string, found {row[name]!r}',
                                'write a string, or leave the field out')
    # A plain string would pass as a sequence of strings, its letters.
    for name in lists:
        if not is_texts(row.get(name, [])):
            return FieldProblem(name, f'expected a list of strings, found {row[name]!r}',
                                'write a list of strings, or leave the field out')
    return passages_problem(row)


def passages_problem(row: dict[str, Any]) -> FieldProblem | None:
    """Checks the row's passages, which are optional."""
    given = row.get('passages', [])
    remedy = 'each passage needs a "text", and may have "title", "section" and "id"'
    if not isinstance(given, list | tuple) or not all(isinstance(each, dict) for each in given):
        return FieldProblem('passages', f'expected a list of objects, found {given!r}', remedy)
    # The message names the passage: rows have up to a hundred.
    for number, passage in enumerate(map(documents.in_our_fields, given)):
        if not isinstance(passage.get('text'), str):
            return FieldProblem('passages',
                                f'passage {number} has the text {passage.get("text")!r}', remedy)
        for name in ('title', 'section'):
            if not isinstance(passage.get(name, ''), str):
                return FieldProblem('passages',
                                    f'passage {number} has the {name} {passage[name]!r}', remedy)
        if not isinstance(passage.get('id', ''), str | int):
            return FieldProblem('passages', f'passage {number} has the id {passage["id"]!r}',
                                remedy)
        score = passage.get('gold_score', 0)
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not abs(score) < _MOST_SCORE:
            return FieldProblem('passages', f'passage {number} has the gold_score {score!r}',
                                'write a number, or leave it out')
    return None


def passages(row: dict[str, Any]) -> tuple[Passage, ...]:
    """Returns the row's passages; a passage without an id gets its number."""
    given = [_passage(value, number) for number, value in
             enumerate(map(documents.in_our_fields, row.get('passages', ())))]
    # The original's files are padded with empty passages.
    return tuple(passage for passage in given if passage.text.strip() or passage.title.strip())


def _passage(value: dict[str, Any], number: int) -> Passage:
    parts = (str(value.get('id', number)), value.get('title', ''), value.get('section', ''),
             value['text'])
    # A run's record holds the repr of its passages, which only scored passages may change.
    return (ScoredPassage(*parts, float(value['gold_score'])) if 'gold_score' in value
            else Passage(*parts))


def answers(given: Sequence[str]) -> list[str]:
    """Returns the answers stripped, without blank ones."""
    # A leading blank changes the target's tokens, and a blank answer equals an empty prediction.
    return [answer.strip() for answer in given if answer.strip()]


def is_texts(value: object) -> bool:
    """Returns whether the value is a list of strings."""
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _missing(row: dict[str, Any], name: str, remedy: str) -> FieldProblem:
    # The fields found show at once that a file is for another task.
    return FieldProblem(name, f'missing, found {", ".join(sorted(row)) or "no field"}', remedy)
