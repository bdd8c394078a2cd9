import pytest

from atlas_jax import errors
from atlas_jax.apps.serving import problems


@pytest.mark.parametrize(('error', 'status', 'detail'), [
    (errors.ConfigError('a\n b'), 422, 'a b'), (errors.IndexFolderError('i: locked'), 409, 'i: locked'),
    (errors.DiskFullError('full'), 507, 'full'), (problems.ProblemError(404, 'none'), 404, 'none'),
    (KeyError('/secret/path'), 500, 'a fault of the server; its log has the traceback'),
])
def test_errors_have_the_words_of_the_command_line(error, status, detail):
    problem = problems.as_problem(error)
    assert problem.body() == {'type': 'about:blank', 'title': problem.body()['title'], 'status': status, 'detail': detail}


def test_a_response():
    response = problems.ProblemError(429, 'full', retry_after=7, headers={'X': 'y'}).response()
    assert (response.status_code, response.media_type) == (429, 'application/problem+json')
    assert response.headers['retry-after'] == '7' and response.headers['x'] == 'y' and b'Too Many Requests' in response.body
