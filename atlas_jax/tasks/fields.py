"""The fields of a row, checked: texts, lists of texts, passages."""

from collections.abc import Sequence
from typing import Any

from atlas_jax.corpus.passages import Passage
from atlas_jax.tasks.task import Problem


def text_problem(row: dict[str, Any], name: str, remedy: str) -> Problem | None:
    """What is wrong where `name` must be a text that is not blank."""
    value = row.get(name)
    if name not in row:
        return name, f'missing, found {", ".join(sorted(row)) or "no field"}', remedy
    if not isinstance(value, str) or not value.strip():
        return name, f'expected a text that is not blank, found {value!r}', remedy
    return None


def string_problem(row: dict[str, Any], name: str, remedy: str) -> Problem | None:
    """What is wrong where `name` must be a string, blank or not."""
    if name not in row:
        return name, f'missing, found {", ".join(sorted(row)) or "no field"}', remedy
    return None if isinstance(row[name], str) else (name, f'expected a string, found {row[name]!r}', remedy)


def id_problem(row: dict[str, Any], remedy: str) -> Problem | None:
    """What is wrong with the row's own id; it may be missing."""
    return None if isinstance(row.get('id', ''), str | int) else ('id', f'expected a string or a number, found {row["id"]!r}', remedy)


def own_docid(row: dict[str, Any]) -> str | None:
    """The docid of the passage that the row is; None where it has no id."""
    return str(row['id']) if 'id' in row else None


def optional_problem(row: dict[str, Any], texts: Sequence[str] = (), lists: Sequence[str] = ()) -> Problem | None:
    """What is wrong where a field may be missing: strings, lists of strings, and an example's own passages."""
    for name in texts:
        if name in row and not isinstance(row[name], str):
            return name, f'expected a string, found {row[name]!r}', 'write a string, or leave the field out'
    for name in lists:
        if not is_texts(row.get(name, [])):
            return name, f'expected a list of strings, found {row[name]!r}', 'write a list of strings, or leave the field out'
    return passages_problem(row)


def passages_problem(row: dict[str, Any]) -> Problem | None:
    """What is wrong with the row's own passages."""
    given, remedy = row.get('passages', []), 'each passage needs a "text", and may have "title", "section" and "id"'
    if not isinstance(given, list | tuple) or not all(isinstance(passage, dict) for passage in given):
        return 'passages', f'expected a list of objects, found {given!r}', remedy
    for number, passage in enumerate(given):
        if not isinstance(passage.get('text'), str):
            return 'passages', f'passage {number} has the text {passage.get("text")!r}', remedy
        for name in ('title', 'section'):
            if not isinstance(passage.get(name, ''), str):
                return 'passages', f'passage {number} has the {name} {passage[name]!r}', remedy
        if not isinstance(passage.get('id', ''), str | int):
            return 'passages', f'passage {number} has the id {passage["id"]!r}', remedy
    return None


def passages(row: dict[str, Any]) -> tuple[Passage, ...]:
    """The row's own passages; one without an id gets its number. A passage without words, as the original fills in, is none."""
    made = [Passage(str(value.get('id', number)), value.get('title', ''), value.get('section', ''), value['text'])
            for number, value in enumerate(row.get('passages', ()))]
    return tuple(passage for passage in made if passage.text.strip() or passage.title.strip())


def is_texts(value: Any) -> bool:
    """Whether it is a list of strings."""
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
