"""The OpenAPI document is right: the server answers valid and invalid requests made from it as it states."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from atlas_jax.apps.serving import app, openapi
from atlas_jax.apps.serving.request_limits import Limits
from tests.apps.serving.conftest import TOKEN

OPERATIONS = [(method.upper(), path) for path, methods in openapi.document(Limits())['paths'].items() for method in methods
              if method != 'parameters']


@pytest.mark.parametrize('mode', GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(('method', 'path'), OPERATIONS)
def test_the_server_does_what_the_document_says(service, method, path, mode):
    service.ready = True
    schema = schemathesis.openapi.from_asgi('/openapi.json', app.make(service, ['testserver']))
    operation, cases = schema[path][method], []

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=4, derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    def check(case):
        response = case.call(headers={'Authorization': f'Bearer {TOKEN}'})
        # These depend on earlier requests and on the length of a body.
        excluded = [positive_data_acceptance, negative_data_rejection] if response.status_code in (412, 413, 428) else []
        case.validate_response(response, excluded_checks=excluded)
        cases.append(response)

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        # Nothing can be wrong about a request without parameters and body.
        assert mode is GenerationMode.NEGATIVE
        return
    assert cases


def test_every_route_is_in_the_document(service):
    paths = {route.path.replace(':path', ''): route.methods - {'HEAD'} for route in app.make(service).routes}
    documented = {path: {method.upper() for method in methods if method != 'parameters'}
                  for path, methods in openapi.document(Limits())['paths'].items()}
    # The page is for people.
    assert {path: methods for path, methods in paths.items() if path not in ('/', '/static/{name}')} == documented
