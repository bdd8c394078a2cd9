"""The bodies of requests: JSON Schemas, and a check of values against them.

One table serves both the OpenAPI document and the check.
"""

import re
from typing import Any

from atlas_jax.apps.serving import problems
from atlas_jax.apps.serving.request_limits import Limits

Schema = dict[str, Any]
BOOLEAN: Schema = {'type': 'boolean'}
# A character that is no space. It excludes rare characters on which JavaScript and Python disagree.
SOME_TEXT = '[^\\s\\u0000-\\u001f\\u0085]'
_KINDS: dict[str, tuple[type, ...]] = {
    'string': (str, ), 'integer': (int, ), 'boolean': (bool, ), 'array': (list, ),
    'object': (dict, )}


def string(most: int, least: int = 0, pattern: str | None = None) -> Schema:
    """Returns the schema of a text of `least` to `most` characters."""
    schema = {'type': 'string', 'minLength': least, 'maxLength': most}
    return schema if pattern is None else {**schema, 'pattern': pattern}


def question(limits: Limits) -> Schema:
    """Returns the schema of one question."""
    return string(limits.question_characters, 1, SOME_TEXT)


DOCID = string(500, 1, '^[^\\u0000-\\u001f\\u007f]+$')


def bodies(limits: Limits) -> dict[str, Schema]:
    """Returns the schema of each body by its name."""
    several, name = _array(question(limits), limits.questions, 1), string(200, 1)
    passage = _object(
        {'docid': DOCID, 'title': string(1000), 'section': string(1000),
         'text': string(limits.passage_characters, 1, SOME_TEXT)}, 'text')
    options: dict[str, Schema] = {
        'n_context': _integer(limits.n_context), 'without': _array(string(500), limits.n_context),
        'explain': BOOLEAN, 'closed_book': BOOLEAN, 'stream': BOOLEAN, 'index': name,
        'model': name}
    # A stream answers one question.
    unstreamed = {'questions': several, **options, 'stream': {**BOOLEAN, 'enum': [False]}}
    streamed = {'questions': {**several, 'maxItems': 1}, **options,
                'stream': {**BOOLEAN, 'enum': [True]}}
    queries = {'queries': several, 'topk': _integer(limits.top_k), 'return_scores': BOOLEAN,
               'index': name, 'model': name}
    return {
        'Questions': {
            'oneOf': [_object({'question': question(limits), **options}, 'question'),
                      _object(unstreamed, 'questions'),
                      _object(streamed, 'questions', 'stream')]},
        'Queries': _object(queries, 'queries'),
        'Passage': passage,
        'Passages': {
            'oneOf': [passage,
                      _object({'passages': _array(passage, limits.passages, 1)}, 'passages')]}}


def _integer(most: int) -> Schema:
    return {'type': 'integer', 'minimum': 1, 'maximum': most}


def _array(items: Schema, most: int, least: int = 0) -> Schema:
    return {'type': 'array', 'items': items, 'minItems': least, 'maxItems': most}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {'type': 'object', 'properties': properties, 'required': list(required),
            'additionalProperties': False}


def check(value: Any, schema: Schema, where: str = '') -> None:
    """Compares a value with a schema.

    Raises ProblemError (422): names the field, its value and the expectation.
    """
    if 'oneOf' in schema:
        schema = _alternative(value, schema['oneOf'], where)
    kind = schema['type']
    # JSON tells true from 1, which Python does not, and counts 3.0 as an integer.
    is_whole = kind == 'integer' and isinstance(value, float) and value.is_integer()
    is_kind = isinstance(value, _KINDS[kind]) or is_whole
    if not is_kind or isinstance(value, bool) and kind != 'boolean':
        article = 'an' if kind[0] in 'aeio' else 'a'
        raise _problem(where, f'expected {article} {kind}, found {_kind_of(value)}')
    if 'enum' in schema and value not in schema['enum']:
        raise _problem(where, 'a stream is of one question')
    if kind == 'string':
        _check_text(value, schema, where)
    elif kind == 'integer' and not schema['minimum'] <= value <= schema['maximum']:
        raise _problem(where, f'expected {schema["minimum"]} to {schema["maximum"]}, found '
                              f'{str(value)[:20]}')
    elif kind == 'array':
        least, most = schema['minItems'], schema['maxItems']
        if not least <= len(value) <= most:
            raise _problem(where, f'{len(value):,} items, expected {least} to {most}; send fewer '
                                  'in one request' if value else 'empty; give at least one')
        for number, item in enumerate(value):
            check(item, schema['items'], f'{where}[{number}]')
    elif kind == 'object':
        _check_fields(value, schema, where)


def _check_fields(value: dict[str, Any], schema: Schema, where: str) -> None:
    if missing := [name for name in schema['required'] if name not in value]:
        raise _problem(where, f'no field "{missing[0]}"')
    # A misspelt option would otherwise be ignored silently.
    if unknown := [name for name in value if name not in schema['properties']]:
        raise _problem(where, f'unknown field {unknown[0][:80]!r}; known are '
                              f'{", ".join(schema["properties"])}')
    for name, item in value.items():
        check(item, schema['properties'][name], f'{where}.{name}' if where else name)


def _check_text(value: str, schema: Schema, where: str) -> None:
    if len(value) > schema['maxLength']:
        raise _problem(where,
                       f'{len(value):,} characters, at most {schema["maxLength"]:,} are read')
    # JSON can express surrogates that UTF-8 cannot.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _problem(where, 'half of a surrogate pair, which is no character') from error
    pattern = schema.get('pattern', '').replace('$', '\\Z')
    if len(value) < schema['minLength'] or not re.search(pattern, value):
        raise _problem(where, 'control characters' if value.strip() else 'empty; type some text')


def _alternative(value: Any, alternatives: list[Schema], where: str) -> Schema:
    """Returns the alternative whose required fields a value has.

    Raises ProblemError: it has the fields of none.
    """
    if not isinstance(value, dict):
        raise _problem(where, f'expected an object, found {_kind_of(value)}')
    fitting = [each for each in alternatives if all(name in value for name in each['required'])]
    if not fitting:
        names = dict.fromkeys(each['required'][0] for each in alternatives)
        raise _problem(where, f'give {" or ".join(names)}')

    def allowed(each: Schema) -> bool:
        # A missing field has the value of the first alternative.
        return all(
            value.get(name, field['enum'][0]) in field['enum']
            for name, field in each['properties'].items() if 'enum' in field)

    return next((each for each in fitting if allowed(each)), fitting[0])


def _problem(where: str, what: str) -> problems.ProblemError:
    return problems.ProblemError(422, f'field "{where}": {what}' if where else f'the body: {what}')


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    return next((name for name, kinds in _KINDS.items() if isinstance(value, kinds)), 'a number')
