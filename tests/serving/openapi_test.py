"""The OpenAPI document says what the server does: requests that are made from it, right and wrong ones, are answered as it says."""

import hypothesis
import pytest

from atlas_jax.serving import app, openapi
from atlas_jax.serving.limits import Limits
from tests.serving.conftest import TOKEN
from tests.testing import oracles

schemathesis = oracles.lazily('schemathesis')
checks = oracles.lazily('schemathesis.specs.openapi.checks')

OPERATIONS = [(method.upper(), path) for path, methods in openapi.document(Limits())['paths'].items() for method in methods
              if method != 'parameters']


@pytest.mark.parametrize('mode', ['POSITIVE', 'NEGATIVE'])
@pytest.mark.parametrize(('method', 'path'), OPERATIONS)
def test_the_server_does_what_the_document_says(service, method, path, mode):
    service.ready, mode = True, schemathesis.GenerationMode[mode]
    schema = schemathesis.openapi.from_asgi('/openapi.json', app.make(service, ['testserver']))
    operation, cases = schema[path][method], []

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=4, derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    def check(case):
        response = case.call(headers={'Authorization': f'Bearer {TOKEN}'})
        # These depend on what was sent before, and on how long a body is.
        excluded = [checks.positive_data_acceptance, checks.negative_data_rejection] if response.status_code in (412, 413, 428) else []
        case.validate_response(response, excluded_checks=excluded)
        cases.append(response)

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        # Nothing can be wrong about a request without parameters and body.
        assert mode is schemathesis.GenerationMode.NEGATIVE
        return
    assert cases


def test_every_route_is_in_the_document(service):
    paths = {route.path.replace(':path', ''): route.methods - {'HEAD'} for route in app.make(service).routes}
    documented = {path: {method.upper() for method in methods if method != 'parameters'}
                  for path, methods in openapi.document(Limits())['paths'].items()}
    # The page is for people.
    assert {path: methods for path, methods in paths.items() if path not in ('/', '/static/{name}')} == documented
