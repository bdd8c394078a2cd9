"""Adds, replaces and deletes an index's passages. A client must name the version it replaces."""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

from atlas_jax.answering import api
from atlas_jax.apps.serving import holdings, problems
from atlas_jax.corpus.passages import Passage


def as_json(passage: Passage) -> dict[str, Any]:
    """Returns a passage as a JSON object."""
    return dataclasses.asdict(passage)


def get(index: api.Index, docid: str) -> Passage:
    """Returns a passage. Raises ProblemError: the index lacks it (404)."""
    passage = holdings.find(index, docid)
    if passage is None:
        raise problems.ProblemError(404,
                                    f'no passage "{docid[:200]}" in this index; check the docid')
    return passage


def add(index: api.Index, atlas: api.Atlas, rows: Sequence[dict[str, Any]]) -> list[Passage]:
    """Adds passages, all of them or none. A passage without docid gets a random one.

    Raises ProblemError: a docid occurs twice (422) or exists already (409); UserError.
    """
    passages = [_passage(row, row.get('docid') or f'added-{secrets.token_hex(6)}') for row in rows]
    # All are checked before the first is stored.
    for number, passage in enumerate(passages):
        if any(other.docid == passage.docid for other in passages[:number]):
            raise problems.ProblemError(422, f'docid "{passage.docid[:200]}" occurs twice; give '
                                             'each passage its own')
        if holdings.find(index, passage.docid) is not None:
            raise problems.ProblemError(
                409, f'passage "{passage.docid[:200]}" is there already; replace it with '
                'PUT /passages/DOCID, or give another docid')
    index.replace(passages, atlas, show_progress=False)
    return passages


def put(index: api.Index, atlas: api.Atlas, docid: str, row: dict[str, Any],
        if_match: str | None) -> tuple[Passage, bool]:
    """Replaces a passage, or adds it. Returns the passage, and whether it is new.

    Raises ProblemError: the client does not name the version it replaces (428), or that version is
    no longer current (412), or the docids differ (409); UserError.
    """
    if row.get('docid') not in (None, docid):
        raise problems.ProblemError(409, f'the passage has docid "{row["docid"][:200]}", the path '
                                         f'"{docid[:200]}"; leave the docid out')
    # The computing thread finds and replaces in one call, so the second of two editors sees the
    # first one's version.
    before = holdings.find(index, docid)
    if before is not None and if_match is None:
        raise problems.ProblemError(
            428, f'passage "{docid[:200]}" is there already: send its ETag as If-Match '
            '(GET /passages/DOCID has it), or * to replace whatever is there')
    _check(before, docid, if_match)
    passage = _passage(row, docid)
    index.replace([passage], atlas, show_progress=False)
    return passage, before is None


def delete(index: api.Index, docid: str, if_match: str | None) -> None:
    """Deletes a passage.

    Raises ProblemError: the index lacks it (404), or the named version is no longer current (412);
    UserError.
    """
    _check(get(index, docid), docid, if_match)
    index.delete([docid])


def _check(before: Passage | None, docid: str, if_match: str | None) -> None:
    # A star matches any version that exists.
    if if_match is None or if_match.strip() == '*' and before is not None:
        return
    # All our tags are strong, so a client's weak tag never matches.
    tags = [tag.strip() for tag in if_match.split(',')]
    if before is None or holdings.etag(before) not in tags:
        happened = 'is not there any more' if before is None else 'was changed meanwhile'
        raise problems.ProblemError(
            412, f'passage "{docid[:200]}" {happened}; look at it again (GET /passages/DOCID) and '
            'decide again',
            headers={} if before is None else {'ETag': holdings.etag(before)})


def _passage(row: dict[str, Any], docid: str) -> Passage:
    return Passage(docid,
                   row.get('title', '').strip(),
                   row.get('section', '').strip(), row['text'].strip())
