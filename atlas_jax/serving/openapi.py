"""The OpenAPI document: every route, what it takes and what it gives."""

from typing import Any

import atlas_jax
from atlas_jax.serving import problems, schemas
from atlas_jax.serving.limits import Limits

Json = dict[str, Any]
_TEXT: Json = {'type': 'string'}
_NUMBER: Json = {'type': 'number'}


def document(limits: Limits) -> Json:
    """Returns the document as a JSON object."""
    return {
        'openapi': '3.1.0', 'info': {'title': 'atlas-jax serve', 'version': atlas_jax.__version__},
        'paths': {
            '/answer': {'post': _post('Answer questions.', 'Questions', 'Answers', 200, 404, 409, stream=True, timed=True)},
            '/retrieve': {'post': _post('Find passages; nothing is read.', 'Queries', 'Found', 200, 404, 409, timed=True)},
            '/passages': {'post': {**_post('Add passages.', 'Passages', 'Added', 201, 401, 404, 409, timed=True), **_PROTECTED,
                                   'parameters': [_INDEX, _MODEL, _TIMEOUT]}},
            '/passages/{docid}': _passage_paths(),
            '/map': {'get': _get('The question among the passages, in a plane.', 'Map', [_question(limits), _INDEX, _MODEL, _TIMEOUT],
                                 (404, 409))},
            '/models': {'get': _get('Models and indexes by name.', 'Models')},
            '/health': {'get': _get('Whether the process works.', 'Status', statuses=(503,))},
            '/ready': {'get': _get('Whether requests are answered at once.', 'Status', statuses=(503,))},
            '/metrics': {'get': {'summary': 'Prometheus\'s figures.', 'responses': {
                '200': {'description': 'figures', 'content': {'text/plain': {'schema': _TEXT}}}, **_problems()}}},
            '/openapi.json': {'get': _get('This document.', 'Document')},
        },
        'components': {'schemas': {**schemas.bodies(limits), **_results()},
                       'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}},
    }


def _results() -> dict[str, Json]:
    passage = _given({'docid': _TEXT, 'title': _TEXT, 'section': _TEXT, 'text': _TEXT})
    read = {**passage['properties'], 'score': _NUMBER, 'attention': _NUMBER, 'carried': {'type': ['number', 'null']},
            'words': {'type': 'array', 'items': {'type': 'array'}}}
    answer = _given({'question': _TEXT, 'text': _TEXT, 'confidence': {'type': ['number', 'null']}, 'closed_book': _TEXT,
                     'passages': _list(_given(read, 'carried', 'words'))}, 'closed_book')
    document = _given({'id': _TEXT, 'contents': _TEXT})
    found = {'anyOf': [document, _given({'document': document, 'score': _NUMBER})]}
    point = _given({'x': _NUMBER, 'y': _NUMBER, 'docid': {'type': ['string', 'null']}, 'title': _TEXT,
                    'rank': {'type': ['integer', 'null']}})
    return {
        'Stored': passage, 'Answers': _given({'answers': _list(answer), 'seconds': _NUMBER}),
        'Found': _given({'result': _list(_list(found))}),
        'Added': {'anyOf': [passage, _given({'passages': _list(_given({**passage['properties'], 'etag': _TEXT}))})]},
        'Map': _given({'points': _list(point)}), 'Models': {'type': 'object'}, 'Status': _given({'status': _TEXT}),
        'Document': {'type': 'object'},
        'Problem': _given({'type': _TEXT, 'title': _TEXT, 'status': {'type': 'integer'}, 'detail': _TEXT}),
    }


def _passage_paths() -> Json:
    known = {'name': 'docid', 'in': 'path', 'required': True, 'schema': schemas.DOCID}
    version = {'name': 'If-Match', 'in': 'header', 'schema': {'type': 'string', 'maxLength': 200}}
    put = _post('Replace a passage, or add it.', 'Passage', 'Stored', 200, 401, 404, 409, 412, 428)
    # 201 where it was not there.
    put['responses']['201'] = put['responses']['200']
    return {
        'parameters': [known, _INDEX, _MODEL, _TIMEOUT],
        'get': _get('A passage; its ETag is its version.', 'Stored', statuses=(404, 409)),
        'put': {**put, **_PROTECTED, 'parameters': [version]},
        'delete': {'summary': 'Delete a passage.', **_PROTECTED, 'parameters': [version],
                   'responses': {'204': {'description': 'deleted'}, **_problems(401, 404, 409, 412)}},
    }


def _post(summary: str, body: str, result: str, status: int, *statuses: int, stream: bool = False, timed: bool = False) -> Json:
    # One route, two kinds of response: `stream` decides.
    content: Json = {'application/json': {'schema': _reference(result)}}
    if stream:
        content['text/event-stream'] = {}
    return {'summary': summary, **({'parameters': [_TIMEOUT]} if timed else {}),
            'requestBody': {'required': True, 'content': {'application/json': {'schema': _reference(body)}}},
            'responses': {str(status): {'description': 'done', 'content': content}, **_problems(400, 408, 413, 415, *statuses)}}


def _get(summary: str, result: str, parameters: list[Json] | None = None, statuses: tuple[int, ...] = ()) -> Json:
    return {'summary': summary, **({'parameters': parameters} if parameters else {}),
            'responses': {'200': {'description': 'done', 'content': {'application/json': {'schema': _reference(result)}}},
                          **_problems(*statuses)}}


def _problems(*statuses: int) -> Json:
    # Those that any route may give, and the route's own.
    problem = {'description': 'a problem', 'content': {problems.MEDIA_TYPE: {'schema': _reference('Problem')}}}
    return {str(status): problem for status in (403, 421, 422, 429, 503, 507, *statuses)}


def _given(properties: Json, *optional: str) -> Json:
    return {'type': 'object', 'properties': properties, 'required': [name for name in properties if name not in optional]}


def _list(items: Json) -> Json:
    return {'type': 'array', 'items': items}


def _reference(name: str) -> Json:
    return {'$ref': f'#/components/schemas/{name}'}


def _question(limits: Limits) -> Json:
    return {'name': 'question', 'in': 'query', 'required': True,
            'schema': {'type': 'string', 'minLength': 1, 'maxLength': limits.question_characters, 'pattern': schemas.SOME_TEXT}}


_PROTECTED: Json = {'security': [{'token': []}]}
_INDEX: Json = {'name': 'index', 'in': 'query', 'schema': _TEXT}
_MODEL: Json = {'name': 'model', 'in': 'query', 'schema': _TEXT}
_TIMEOUT: Json = {'name': 'Request-Timeout', 'in': 'header', 'schema': {'type': 'number', 'minimum': 1},
                  'description': 'seconds within which the answer is wanted'}
