"""The bodies of requests: JSON Schemas, which the OpenAPI document shows, and their check. One table serves both."""

import re
from typing import Any

from atlas_jax.serving import problems
from atlas_jax.serving.limits import Limits

Schema = dict[str, Any]
# A character that neither JavaScript nor Python counts as a space; they differ in the rarer ones.
SOME_TEXT = '[^\\s\\u0000-\\u001f\\u0085]'
DOCID: Schema = {'type': 'string', 'minLength': 1, 'maxLength': 500, 'pattern': '^[^\\u0000-\\u001f\\u007f]+$'}
_KINDS: dict[str, tuple[type, ...]] = {'string': (str,), 'integer': (int,), 'boolean': (bool,), 'array': (list,), 'object': (dict,)}


def bodies(limits: Limits) -> dict[str, Schema]:
    """Returns the schema of each body by its name."""
    question: Schema = {'type': 'string', 'minLength': 1, 'maxLength': limits.question_characters, 'pattern': SOME_TEXT}
    name: Schema = {'type': 'string', 'minLength': 1, 'maxLength': 200}
    passage = _object({'docid': DOCID,
                       'title': {'type': 'string', 'maxLength': 1000}, 'section': {'type': 'string', 'maxLength': 1000},
                       'text': {'type': 'string', 'minLength': 1, 'maxLength': limits.passage_characters, 'pattern': SOME_TEXT}}, 'text')
    asked: Schema = {'n_context': {'type': 'integer', 'minimum': 1, 'maximum': limits.n_context},
             'without': {'type': 'array', 'items': {'type': 'string', 'maxLength': 500}, 'maxItems': limits.n_context},
             'explain': {'type': 'boolean'}, 'closed_book': {'type': 'boolean'}, 'stream': {'type': 'boolean'}, 'index': name,
             'model': name}
    several: Schema = {'type': 'array', 'items': question, 'minItems': 1, 'maxItems': limits.questions}
    return {
        'Questions': {'oneOf': [_object({'question': question, **asked}, 'question'),
                                _object({'questions': several, **asked, 'stream': {'type': 'boolean', 'enum': [False]}}, 'questions'),
                                # A stream is of one question.
                                _object({'questions': {**several, 'maxItems': 1}, **asked, 'stream': {'type': 'boolean', 'enum': [True]}},
                                        'questions', 'stream')]},
        'Queries': _object({'queries': several, 'topk': {'type': 'integer', 'minimum': 1, 'maximum': limits.top_k},
                            'return_scores': {'type': 'boolean'}, 'index': name, 'model': name}, 'queries'),
        'Passage': passage,
        'Passages': {'oneOf': [passage, _object({'passages': {'type': 'array', 'items': passage, 'minItems': 1,
                                                              'maxItems': limits.passages}}, 'passages')]},
    }


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {'type': 'object', 'properties': properties, 'required': list(required), 'additionalProperties': False}


def check(value: Any, schema: Schema, where: str = '') -> None:
    """Compares a value with a schema. Raises ProblemError (422): it names the field, what it is and what is expected."""
    if 'oneOf' in schema:
        schema = _meant(value, schema['oneOf'], where)
    kind = schema['type']
    # bool is an int to Python, not to JSON, and 3.0 is a whole number to JSON.
    whole = kind == 'integer' and isinstance(value, float) and value.is_integer()
    if not (isinstance(value, _KINDS[kind]) or whole) or isinstance(value, bool) and kind != 'boolean':
        raise _wrong(where, f'expected {_article(kind)}, found {_kind_of(value)}')
    if 'enum' in schema and value not in schema['enum']:
        raise _wrong(where, 'a stream is of one question')
    if kind == 'string':
        _check_text(value, schema, where)
    elif kind == 'integer' and not schema['minimum'] <= value <= schema['maximum']:
        raise _wrong(where, f'expected {schema["minimum"]} to {schema["maximum"]}, found {str(value)[:20]}')
    elif kind == 'array':
        if not schema.get('minItems', 0) <= len(value) <= schema['maxItems']:
            many = f'{len(value):,} items, expected {schema.get("minItems", 0)} to {schema["maxItems"]}; send fewer in one request'
            raise _wrong(where, many if value else 'empty; give at least one')
        for number, item in enumerate(value):
            check(item, schema['items'], f'{where}[{number}]')
    elif kind == 'object':
        _check_fields(value, schema, where)


def _check_fields(value: dict[str, Any], schema: Schema, where: str) -> None:
    if missing := [name for name in schema['required'] if name not in value]:
        raise _wrong(where, f'no field "{missing[0]}"')
    # A misspelt option would otherwise be ignored without a word.
    if unknown := [name for name in value if name not in schema['properties']]:
        raise _wrong(where, f'unknown field {unknown[0][:80]!r}; known are {", ".join(schema["properties"])}')
    for name, item in value.items():
        check(item, schema['properties'][name], f'{where}.{name}' if where else name)


def _check_text(value: str, schema: Schema, where: str) -> None:
    if len(value) > schema['maxLength']:
        raise _wrong(where, f'{len(value):,} characters, at most {schema["maxLength"]:,} are read')
    # JSON can write what no UTF-8 file can hold.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _wrong(where, 'half of a surrogate pair, which is no character') from error
    if len(value) < schema.get('minLength', 0) or 'pattern' in schema and not re.search(schema['pattern'].replace('$', '\\Z'), value):
        raise _wrong(where, 'control characters' if value.strip() else 'empty; type some text')


def _meant(value: Any, alternatives: list[Schema], where: str) -> Schema:
    """Returns the alternative that a value was meant to be, by the fields that it has. Raises ProblemError: none."""
    if not isinstance(value, dict):
        raise _wrong(where, f'expected an object, found {_kind_of(value)}')
    fitting = [each for each in alternatives if all(name in value for name in each['required'])]
    if not fitting:
        raise _wrong(where, f'give {" or ".join(dict.fromkeys(each["required"][0] for each in alternatives))}')

    def allowed(each: Schema) -> bool:
        # The default of a field that is left out is what the first alternative has.
        return all(value.get(name, field['enum'][0]) in field['enum'] for name, field in each['properties'].items() if 'enum' in field)

    return next((each for each in fitting if allowed(each)), fitting[0])


def _wrong(where: str, what: str) -> problems.ProblemError:
    return problems.ProblemError(422, f'field "{where}": {what}' if where else f'the body: {what}')


def _article(kind: str) -> str:
    return f'an {kind}' if kind[0] in 'aeio' else f'a {kind}'


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    return next((name for name, kinds in _KINDS.items() if isinstance(value, kinds)), 'a number')
