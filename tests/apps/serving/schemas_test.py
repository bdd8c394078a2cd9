import pytest

from atlas_jax.apps.serving import problems, schemas
from atlas_jax.apps.serving.request_limits import Limits

BODIES = schemas.bodies(Limits(questions=3))


@pytest.mark.parametrize(('name', 'body'), [
    ('Questions', {'question': 'a', 'stream': True, 'n_context': 2, 'without': ['x']}), ('Questions', {'questions': ['a', 'b']}),
    ('Questions', {'questions': ['a'], 'stream': True}), ('Questions', {'questions': ['a'] * 3, 'stream': False}),
    ('Queries', {'queries': ['a'], 'topk': 3, 'return_scores': True}), ('Passages', {'text': 'x'}),
    ('Passages', {'passages': [{'docid': 'ü/1', 'text': 'x'}]}),
])
def test_what_is_taken(name, body):
    schemas.check(body, BODIES[name])


@pytest.mark.parametrize(('name', 'body', 'message'), [
    ('Questions', {}, 'the body: give question or questions'), ('Questions', 7, 'the body: expected an object, found integer'),
    ('Questions', {'question': 'a', 'questions': ['b']}, "unknown field 'questions'"),
    ('Questions', {'question': 'a', 'n_context': True}, 'field "n_context": expected an integer, found true'),
    ('Questions', {'question': 'a', 'n_context': 1.5}, 'expected an integer, found a number'),
    ('Questions', {'question': 'a', 'n_context': 21}, 'field "n_context": expected 1 to 20, found 21'),
    ('Questions', {'question': 'a', 'explain': None}, 'field "explain": expected a boolean, found null'),
    ('Questions', {'questions': []}, 'field "questions": empty; give at least one'),
    ('Questions', {'questions': ['a'] * 4}, '4 items, expected 1 to 3'),
    ('Questions', {'questions': ['a', 'b'], 'stream': True}, '2 items, expected 1 to 1'),
    ('Queries', {'queries': ['a', 3]}, r'field "queries\[1\]": expected a string, found integer'),
    ('Passages', {'passages': [{'docid': 'x'}]}, r'field "passages\[0\]": no field "text"'),
    ('Passage', {'docid': 'a\n', 'text': 'x'}, 'field "docid": control characters'),
    ('Passage', {'text': 'x' * 20_001}, '20,001 characters, at most 20,000 are read'),
    ('Passage', {'text': '\udfff'}, 'half of a surrogate pair'),
])
def test_what_is_refused_is_named(name, body, message):
    with pytest.raises(problems.ProblemError, match=message) as raised:
        schemas.check(body, BODIES[name])
    assert raised.value.status == 422
