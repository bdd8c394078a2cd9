import asyncio
import dataclasses
import gc
import json
import threading
import time

import httpx2 as httpx
import pytest
from starlette.requests import ClientDisconnect

from atlas_jax.apps.serving import app, batching, event_stream
from atlas_jax.corpus.passages import Passage
from tests.apps.serving.conftest import TOKEN, FakeIndex

ALLOWED = {'Authorization': f'Bearer {TOKEN}'}


def events(text):
    """The events of a stream, as (name, value)."""
    return [(lines[0].removeprefix('event: '), json.loads(lines[1].removeprefix('data: ')))
            for lines in (part.split('\n') for part in text.strip().split('\n\n'))]


def test_answers_with_their_passages(client, service):
    answered = client.post('/answer', json={'questions': ['Why?', 'How?'], 'closed_book': True}).json()
    assert answered['seconds'] >= 0 and [answer['text'] for answer in answered['answers']] == ['Text of Why?', 'Text of How?']
    assert answered['answers'][0] == {
        'question': 'Why?', 'text': 'Text of Why?', 'confidence': None, 'closed_book': 'memory of Why?',
        'passages': [{'docid': docid, 'title': f'title {docid}', 'section': 'part', 'text': f'Text of {docid}.', 'score': .5,
                      'attention': .5} for docid in ('d0', 'd1')]}
    # Both in one batch, in a program with four slots.
    assert service.holdings.models['project'].batches == [(2, 4), (2, 4)]
    asked = {'question': 'Why?', 'n_context': 1.0, 'explain': True, 'index': 'second', 'model': 'other'}
    [one] = client.post('/answer', json=asked).json()['answers']
    assert [each['docid'] for each in one['passages']] == ['e0'] and one['passages'][0]['words'] == [['word', .5]]
    assert 'closed_book' not in one


def test_passages_are_left_out(client):
    def read(*without):
        [answer] = client.post('/answer', json={'question': 'Why?', 'without': without}).json()['answers']
        return answer['text'], [(each['docid'], each['title'], each['section']) for each in answer['passages']]

    # No other passages replace those left out, as in `atlas-jax ask`.
    assert read('d0', 'nowhere') == ('Text of Why?', [('d1', 'title d1', 'part')]) and read('d0', 'd1') == ('memory of Why?', [])


def test_a_stream_of_events(client):
    response = client.post('/answer', json={'questions': ['Why?'], 'stream': True})
    assert response.headers['content-type'].startswith('text/event-stream')
    names, values = zip(*events(response.text), strict=True)
    assert names == ('passages', 'token', 'token', 'answer') and [value['text'] for value in values[1:3]] == ['T', 'Text of Why?']
    assert [each['docid'] for each in values[0]] == ['d0', 'd1'] and 'attention' not in values[0][0]
    assert values[-1]['answers'] == client.post('/answer', json={'question': 'Why?'}).json()['answers']
    [(name, problem)] = events(client.post('/answer', json={'question': 'refused', 'stream': True}).text)
    assert name == 'error' and problem['detail'] == 'this question is refused' and problem['status'] == 422


def test_retrieval_in_the_shape_of_search_r1(client):
    body = {'queries': ['a', 'b'], 'topk': 1, 'return_scores': True}
    document = {'id': 'd0', 'contents': '"title d0: part"\nText of d0.'}
    assert client.post('/retrieve', json=body).json() == {'result': [[{'document': document, 'score': .5}]] * 2}
    assert client.post('/retrieve', json={'queries': ['a'], 'topk': 1}).json() == {'result': [[document]]}


def test_a_client_of_search_r1_reads_titles_and_texts(client, service):
    service.holdings.indexes['project'].passages[1] = Passage('d1', 'Bees', '', 'First line.\nSecond line.')
    # The request and response of search_r1/llm_agent/generation.py.
    payload = {'queries': ['who?', 'why?'], 'topk': 3, 'return_scores': True}
    results = client.post('/retrieve', json=payload).json()['result']
    read = []
    for result in results:
        for doc_item in result:
            content = doc_item['document']['contents']
            title = content.split('\n')[0]
            text = '\n'.join(content.split('\n')[1:])
            read.append((title, text))
    first = [('"title d0: part"', 'Text of d0.'), ('"Bees"', 'First line.\nSecond line.'), ('"title a/b c: part"', 'Text of a/b c.')]
    assert read == first * 2


def test_passages_are_changed_and_seen_in_the_next_answer(client):
    got = client.get('/passages/d0')
    assert got.json() == {'docid': 'd0', 'title': 'title d0', 'section': 'part', 'text': 'Text of d0.'}
    put = client.put('/passages/d0', json={'text': ' Other words. '}, headers={**ALLOWED, 'If-Match': got.headers['etag']})
    assert put.status_code == 200 and put.json()['text'] == 'Other words.' and put.headers['etag'] != got.headers['etag']
    # Two editors of one version: the second is refused.
    again = client.put('/passages/d0', json={'text': 'Mine.'}, headers={**ALLOWED, 'If-Match': got.headers['etag']})
    assert again.status_code == 412 and again.headers['etag'] == put.headers['etag'] and 'was changed meanwhile' in again.json()['detail']
    assert client.delete('/passages/a%2Fb%20c', headers=ALLOWED).status_code == 204
    added = client.post('/passages', json={'passages': [{'docid': 'new', 'text': 'News.'}, {'text': 'More.'}]}, headers=ALLOWED)
    assert added.status_code == 201 and added.json()['passages'][0]['docid'] == 'new' and added.json()['passages'][1]['etag']
    [answer] = client.post('/answer', json={'question': 'Why?', 'n_context': 9}).json()['answers']
    assert [each['text'] for each in answer['passages']] == ['Text of d1.', 'Other words.', 'News.', 'More.']
    assert client.post('/passages', json={'text': 'One.'}, headers=ALLOWED).headers['etag']
    assert client.put('/passages/x', json={'text': 'New.'}, headers=ALLOWED).status_code == 201


@pytest.mark.parametrize(('method', 'path', 'options', 'status', 'detail'), [
    ('POST', '/answer', {'json': {'question': ' '}}, 422, 'the question is empty; type one'),
    ('POST', '/answer', {'json': {'question': 'x' * 20_000}}, 422, 'the question has 20,000 characters'),
    ('POST', '/answer', {'json': {'questions': ['x'] * 10_000}}, 422, '10,000 items, expected 1 to 64'),
    ('POST', '/answer', {'json': {'questions': ['a', 'b'], 'stream': True}}, 422, 'field "questions": 2 items, expected 1 to 1'),
    ('POST', '/answer', {'json': {'question': 'a', 'model': 'x'}}, 404, 'no model "x" is served; there is project, other'),
    ('POST', '/answer', {'json': {'question': 'a', 'index': 'x'}}, 404, 'no index "x" is served; there is project, second'),
    ('POST', '/answer', {'json': {'question': 'refused'}}, 422, 'this question is refused'),
    ('POST', '/answer', {'json': {'question': 'broken'}}, 500, 'a fault of the server'),
    ('POST', '/answer', {'json': {'question': 'a'}, 'headers': {'Request-Timeout': 'soon'}}, 422, 'expected seconds, 1 or more'),
    ('POST', '/answer', {'json': {'question': 'a'}, 'headers': {'Request-Timeout': '0.5'}}, 422, 'found "0.5"'),
    ('POST', '/answer', {'content': b'{"question": "\\ud800"}', 'headers': {'Content-Type': 'application/json'}}, 422, 'surrogate'),
    ('POST', '/answer', {'json': [1]}, 422, 'the body: expected an object, found array'),
    ('POST', '/answer', {'content': b'{', 'headers': {'Content-Type': 'application/json'}}, 400, 'the body is no JSON'),
    ('GET', '/map', {}, 422, 'field "question": empty'),
    ('GET', '/passages/none', {}, 404, 'no passage "none" in this index; check the docid'),
    ('POST', '/passages', {'json': {'text': 'x'}}, 401, 'no token: changes need the one the server'),
    ('PUT', '/passages/d0', {'json': {'text': 'x'}, 'headers': {'Authorization': 'Bearer other'}}, 401, 'wrong token'),
    ('DELETE', '/passages/d0', {}, 401, 'no token'),
    ('DELETE', '/passages/none', {'headers': ALLOWED}, 404, 'no passage "none"'),
    ('PUT', '/passages/d0', {'json': {'text': 'x'}, 'headers': ALLOWED}, 428, 'send its ETag as If-Match'),
    ('PUT', '/passages/none', {'json': {'text': 'x'}, 'headers': {**ALLOWED, 'If-Match': '"x"'}}, 412, 'is not there any more'),
    ('PUT', '/passages/d0', {'json': {'docid': 'd1', 'text': 'x'}, 'headers': ALLOWED}, 409, 'leave the docid out'),
    ('PUT', '/passages/%0a', {'json': {'text': 'x'}, 'headers': ALLOWED}, 422, 'field "docid": empty'),
    ('PUT', f'/passages/{"x" * 501}', {'json': {'text': 'x'}, 'headers': ALLOWED}, 422, 'field "docid": 501 characters'),
    ('POST', '/passages', {'json': {'docid': 'd0', 'text': 'x'}, 'headers': ALLOWED}, 409, 'is there already'),
    ('POST', '/passages', {'json': {'passages': [{'docid': 'n', 'text': 'x'}] * 2}, 'headers': ALLOWED}, 422, 'occurs twice'),
    ('POST', '/passages', {'json': {'text': ' '}, 'headers': ALLOWED}, 422, 'field "text": empty'),
    ('GET', '/nowhere', {}, 404, 'there is no such path'),
    ('GET', '/static/..%2Fapp.py', {}, 404, 'there is no such'),
    ('PATCH', '/passages/d0', {}, 405, 'this path has no PATCH'),
])
def test_mistakes_are_problems_and_change_nothing(client, service, method, path, options, status, detail):
    before = list(service.holdings.indexes['project'].passages)
    response = client.request(method, path, **options)
    assert response.status_code == status and response.headers['content-type'] == 'application/problem+json'
    assert detail in response.json()['detail'] and '\n' not in response.json()['detail'] and response.json()['status'] == status
    assert service.holdings.indexes['project'].passages == before and not service.holdings.indexes['project'].deleted.any()
    assert client.get('/health').status_code == 200


def test_what_a_server_says_of_itself(client, service):
    assert client.get('/ready').status_code == 503 and client.get('/ready').headers['retry-after']
    service.warm_up()
    assert client.get('/ready').json() == {'status': 'ready'}
    silent = {(size, False, False, False) for size in (1, 4, 16)}
    # Comes after the compilation of the programs for the page and streams.
    assert client.get('/passages/d0').status_code == 200
    page, stream = {(1, False, True, True), (1, True, False, False)}, {(1, False, True, False)}
    assert service.holdings.models['project'].programs == silent | page | stream
    assert client.get('/models').json() == {
        'models': [{'name': name, 'n_context': 2, 'calibrated': False} for name in ('project', 'other')], 'examples': [],
        'indexes': [{'name': 'project', 'passages': 3}, {'name': 'second', 'passages': 1}], 'searcher': 'exact'}
    figures = client.get('/metrics').text
    assert 'atlas_jax_requests_total{path="/ready",status="200"} 1' in figures
    page = client.get('/')
    assert page.headers['content-type'].startswith('text/html') and page.text == client.get('/static/index.html').text
    service.batcher.stop()
    assert client.get('/health').status_code == 503
    stopped = client.post('/answer', json={'question': 'a'})
    assert stopped.status_code == 503 and stopped.headers['retry-after'] == '5'


def test_an_answer_may_outlive_the_server():
    loop = asyncio.new_event_loop()
    told = event_stream.StreamListener(loop, FakeIndex())
    told.text(0, 'a')
    loop.close()
    told.text(0, 'b')
    told.put(None)
    assert told.events.empty()  # the loop did not run


def test_late_answers_and_clients_that_are_gone(service):
    may, complaints = threading.Event(), []
    slow = batching.Alone(lambda: may.wait(5))

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        transport = httpx.ASGITransport(app.make(service))
        async with httpx.AsyncClient(transport=transport, base_url='http://localhost') as client:
            [first] = service.batcher.submit(slow, [None], 5)
            start = time.monotonic()
            service.limits = dataclasses.replace(service.limits, seconds=.05)
            late = await client.post('/answer', json={'question': 'a'}, headers={'Request-Timeout': '9'})
            assert late.status_code == 503 and late.headers['retry-after'] and time.monotonic() - start < 2
            stream = await client.post('/answer', json={'question': 'a', 'stream': True})
            assert events(stream.text)[-1][1]['status'] == 503

            async def gone():
                return {'type': 'http.disconnect'}

            with pytest.raises(ClientDisconnect):
                await service._computed(Gone(gone), service._answering({}), ['unheard'], 5)
            may.set()
            service.limits = dataclasses.replace(service.limits, seconds=20)
            await asyncio.wrap_future(first)
            assert (await client.post('/answer', json={'question': 'after'})).status_code == 200

    asyncio.run(run())
    gc.collect()
    # asyncio would log the exceptions of cancelled futures that nobody retrieves.
    assert not complaints
    # Items without a waiting client were not computed.
    assert service.holdings.models['project'].batches == [(1, 1)]


class Gone:
    """A request whose client has gone."""

    def __init__(self, receive):
        self.receive = receive
