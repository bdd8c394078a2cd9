"""The OpenAPI document: every route, its parameters, body and responses."""

from typing import Any

import atlas_jax
from atlas_jax.apps.serving import problems, schemas
from atlas_jax.apps.serving.request_limits import Limits

Json = dict[str, Any]
_TEXT: Json = {'type': 'string'}
_NUMBER: Json = {'type': 'number'}
_TEXT_OR_NULL: Json = {'type': ['string', 'null']}
_NUMBER_OR_NULL: Json = {'type': ['number', 'null']}
_PROTECTED: Json = {'security': [{'token': []}]}
_INDEX: Json = {'name': 'index', 'in': 'query', 'schema': _TEXT}
_MODEL: Json = {'name': 'model', 'in': 'query', 'schema': _TEXT}
_TIMEOUT: Json = {
    'name': 'Request-Timeout', 'in': 'header', 'schema': {'type': 'number', 'minimum': 1},
    'description': 'seconds within which the answer is wanted'}


def document(limits: Limits) -> Json:
    """Returns the document as a JSON object."""
    answer = _post('Answer questions.', 'Questions', 'Answers', 200, 404, 409)
    # One route has two kinds of response; `stream` chooses.
    answer['responses']['200']['content']['text/event-stream'] = {}
    retrieve = _post('Find passages; nothing is read.', 'Queries', 'Found', 200, 404, 409)
    add = _post('Add passages.', 'Passages', 'Added', 201, 401, 404, 409)
    question = {
        'name': 'question', 'in': 'query', 'required': True, 'schema': schemas.question(limits)}
    figures = {'200': {'description': 'figures', 'content': {'text/plain': {'schema': _TEXT}}}}
    return {
        'openapi': '3.1.0',
        'info': {'title': 'atlas-jax serve', 'version': atlas_jax.__version__},
        'paths': {
            '/answer': {'post': {**answer, 'parameters': [_TIMEOUT]}},
            '/retrieve': {'post': {**retrieve, 'parameters': [_TIMEOUT]}},
            '/passages': {
                'post': {**add, **_PROTECTED, 'parameters': [_INDEX, _MODEL, _TIMEOUT]}},
            '/passages/{docid}': _passage_paths(),
            '/map': {
                'get': _get('The question among the passages, in a plane.', 'Map', 404, 409,
                            parameters=[question, _INDEX, _MODEL, _TIMEOUT])},
            '/models': {'get': _get('Models and indexes by name.', 'Models')},
            '/health': {'get': _get('Whether the process works.', 'Status', 503)},
            '/ready': {'get': _get('Whether requests are answered at once.', 'Status', 503)},
            '/metrics': {
                'get': {'summary': "Prometheus's figures.",
                        'responses': {**figures, **_problems()}}},
            '/openapi.json': {'get': _get('This document.', 'Document')}},
        'components': {
            'schemas': {**schemas.bodies(limits), **_results()},
            'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}}}


def _results() -> dict[str, Json]:
    fields = {'docid': _TEXT, 'title': _TEXT, 'section': _TEXT, 'text': _TEXT}
    passage = _object(fields)
    read = _object(
        {**fields, 'score': _NUMBER, 'attention': _NUMBER, 'carried': _NUMBER_OR_NULL,
         'words': _list({'type': 'array'})}, 'carried', 'words')
    answer = _object(
        {'question': _TEXT, 'text': _TEXT, 'confidence': _NUMBER_OR_NULL, 'closed_book': _TEXT,
         'passages': _list(read)}, 'closed_book')
    found = _object({'id': _TEXT, 'contents': _TEXT})
    scored = _object({'document': found, 'score': _NUMBER})
    point = _object({'x': _NUMBER, 'y': _NUMBER, 'docid': _TEXT_OR_NULL, 'title': _TEXT,
                     'rank': {'type': ['integer', 'null']}})
    added = _object({'passages': _list(_object({**fields, 'etag': _TEXT}))})
    return {
        'Stored': passage,
        'Answers': _object({'answers': _list(answer), 'seconds': _NUMBER}),
        'Found': _object({'result': _list(_list({'anyOf': [found, scored]}))}),
        'Added': {'anyOf': [passage, added]},
        'Map': _object({'points': _list(point)}),
        'Models': {'type': 'object'},
        'Status': _object({'status': _TEXT}),
        'Document': {'type': 'object'},
        'Problem': _object({
            'type': _TEXT, 'title': _TEXT, 'status': {'type': 'integer'}, 'detail': _TEXT})}


def _passage_paths() -> Json:
    docid = {'name': 'docid', 'in': 'path', 'required': True, 'schema': schemas.DOCID}
    version = {'name': 'If-Match', 'in': 'header', 'schema': schemas.string(200)}
    changed = {**_PROTECTED, 'parameters': [version]}
    put = _post('Replace a passage, or add it.', 'Passage', 'Stored', 200, 401, 404, 409, 412, 428)
    # 201 if the passage is new.
    put['responses']['201'] = put['responses']['200']
    deleted = {'204': {'description': 'deleted'}, **_problems(401, 404, 409, 412)}
    return {
        'parameters': [docid, _INDEX, _MODEL, _TIMEOUT],
        'get': _get('A passage; its ETag is its version.', 'Stored', 404, 409),
        'put': {**put, **changed},
        'delete': {'summary': 'Delete a passage.', **changed, 'responses': deleted}}


def _post(summary: str, body: str, result: str, status: int, *statuses: int) -> Json:
    return {
        'summary': summary,
        'requestBody': {'required': True, 'content': _content(body)},
        'responses': {str(status): {'description': 'done', 'content': _content(result)},
                      **_problems(400, 408, 413, 415, *statuses)}}


def _get(summary: str, result: str, *statuses: int, parameters: list[Json] | None = None) -> Json:
    return {
        'summary': summary, 'parameters': parameters or [],
        'responses': {'200': {'description': 'done', 'content': _content(result)},
                      **_problems(*statuses)}}


def _problems(*statuses: int) -> Json:
    problem = {'description': 'a problem', 'content': _content('Problem', problems.MEDIA_TYPE)}
    # Any route may give the first six.
    return {str(status): problem for status in (403, 421, 422, 429, 503, 507, *statuses)}


def _content(schema: str, media_type: str = 'application/json') -> Json:
    return {media_type: {'schema': {'$ref': f'#/components/schemas/{schema}'}}}


def _object(properties: Json, *optional: str) -> Json:
    return {'type': 'object', 'properties': properties,
            'required': [name for name in properties if name not in optional]}


def _list(items: Json) -> Json:
    return {'type': 'array', 'items': items}
