"""The OpenAPI document says what the server does: requests that are made from it, right and wrong ones, are answered as it says."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import load_all_checks

from atlas_jax.serving import app, openapi
from atlas_jax.serving.limits import Limits
from tests.serving.conftest import TOKEN


@pytest.fixture
def document(service):
    service.ready = True
    return schemathesis.openapi.from_asgi('/openapi.json', app.make(service))


schema = schemathesis.pytest.from_fixture('document')


@schema.parametrize()
@hypothesis.settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None)
def test_the_server_does_what_the_document_says(case):
    case.call_and_validate(headers={'Authorization': f'Bearer {TOKEN}', 'Host': 'localhost'})


def test_every_route_is_in_the_document(service):
    paths = {route.path.replace(':path', ''): route.methods - {'HEAD'} for route in app.make(service).routes}
    documented = {path: {method.upper() for method in methods if method != 'parameters'}
                  for path, methods in openapi.document(Limits())['paths'].items()}
    # The page is for people.
    assert {path: methods for path, methods in paths.items() if path not in ('/', '/static/{name}')} == documented
    load_all_checks()
