"""The requests in docs/serve.md are answered."""

import pathlib
import re
import shlex

import pytest

from atlas_jax.apps.serving.request_limits import Limits
from tests.apps.serving.conftest import TOKEN, FakeIndex

PAGE = (pathlib.Path(__file__).parents[3] / 'docs' / 'serve.md').read_text(encoding='utf-8')
REQUESTS = [line for block in re.findall(r'```sh\n(.*?)```', PAGE, re.DOTALL) for line in block.splitlines()]


def sent(client, line):
    """Sends the request of a curl command."""
    parts = shlex.split(line.replace('$TOKEN', TOKEN))[1:]
    options = {name: [parts[place + 1] for place, part in enumerate(parts) if part == name] for name in ('-H', '-d', '-X')}
    url = next(part for part in parts if part.startswith('http://localhost:8000/'))
    content = options['-d'][0] if options['-d'] else None
    method = (options['-X'] or ['POST' if content else 'GET'])[0]
    return client.request(method, url.replace(':8000', ''), content=content, headers=dict(each.split(': ', 1) for each in options['-H']))


def test_requests_of_the_page(client, service):
    service.holdings.indexes['project'] = FakeIndex(['orchard.md/bees', 'other'])
    statuses = [sent(client, line).status_code for line in REQUESTS]
    assert statuses == [200, 200, 200, 200, 201, 200, 204] and len(REQUESTS) == 7


@pytest.mark.parametrize('value', [f'at most {Limits.questions}', f'at most {Limits.n_context}.', f'at most {Limits.top_k}.',
                                   f'{Limits.waiting} questions wait', f'wait {Limits.seconds:.0f} s',
                                   f'at most {Limits.drain_seconds:.0f} s',
                                   f'within {Limits.body_seconds:.0f} s', f'{Limits.passage_characters:,} characters'])
def test_limits_of_the_page(value):
    assert value in PAGE and Limits.body_bytes == 2**20
