"""The page in a real browser: what readers do with it, and accessibility."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from atlas_jax.apps import serving
from atlas_jax.apps.serving import projection
from tests.apps.serving.conftest import TOKEN
from tests.testing import browser as browsers
from tests.testing import orchard

FOLDER = pathlib.Path(serving.__file__).parent / 'page'
APPLES = 'Which apples grow behind the barn?'


@pytest.fixture(scope='module')
def browser():
    with browsers.launched() as launched:
        yield launched


@pytest.fixture(scope='module')
def server():
    with orchard.running() as running:
        yield running


@pytest.fixture
def make_page(browser, server, monkeypatch):
    """A function that opens the page. At the end, it has requested nothing from other servers and its policy has refused nothing."""
    monkeypatch.setattr(projection, 'query_embedding', lambda atlas, index, question: np.ones(3, np.float32))
    server.reset()
    contexts, requests, faults = [], [], []

    def make(width=1280, scheme='light'):
        contexts.append(browser.new_context(viewport={'width': width, 'height': 850}, color_scheme=scheme, reduced_motion='reduce'))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on('request', lambda request: requests.append(request.url))
        page.on('pageerror', lambda error: faults.append(str(error)))
        # chromium logs network errors, which the page shows anyway.
        page.on('console', lambda line: line.type == 'error' and 'Failed to load' not in line.text and faults.append(line.text))
        page.goto(server.address)
        page.wait_for_selector('#a-model', state='attached')
        return page

    yield make
    for context in contexts:
        context.close()
    assert not faults and all(url.startswith((server.address, f'blob:{server.address}')) for url in requests)


@pytest.fixture
def page(make_page):
    return make_page()


def ask(page, question=APPLES, pane='a'):
    page.fill('#question', question)
    page.keyboard.press('Enter')
    page.wait_for_selector(f'#{pane}-map')
    page.keyboard.press('Escape')  # leaves the question, so that keys are shortcuts


def says(page, selector, text):
    """Waits until an element has the text."""
    page.locator(selector, has_text=text).first.wait_for()


def answer_with(page, response):
    """Makes the network return these answers."""
    page.route('**/answer', lambda route: route.fulfill(**response))


def open_dialog(page, button):
    page.click(button)
    page.wait_for_selector('#passage-save:enabled')


def save(page, text=None, token=None):
    if text is not None:
        page.fill('#passage-text', text)
    if token is not None:
        page.fill('#token', token)
    page.click('#passage-save')


def test_an_example_is_asked_and_its_answer_comes_as_a_stream(page, server):
    assert page.locator('.example').all_text_contents() == [APPLES, 'Who harvests the honey?']
    server.reader.gate.clear()
    page.click('.example >> nth=0')
    says(page, '#a-answer', re.compile('^Bos$'))
    # Passages arrive before the answer, which can be stopped.
    assert page.locator('.passage').count() == 2 and page.locator('.measures').count() == 2 and page.is_visible('#stop')
    server.reader.gate.set()
    says(page, '#a-answer', re.compile('^Boskoop$'))
    page.wait_for_selector('#a-map')
    assert page.is_hidden('#stop') and page.input_value('#question') == APPLES
    assert 'Not calibrated' in page.inner_text('.confidence') and 'Golden Delicious' in page.inner_text('.card.plain')
    first = page.inner_text('#a-passage-1')
    assert all(part in first for part in ('Orchard handbook – Apples', 'Attention', '60 %', 'Leave-one-out', '+4.21', 'score 0.900'))
    assert '−0.87' in page.inner_text('#a-passage-2') and 'does not show what caused the answer' in page.locator('.legend').text_content()
    assert page.inner_text('#a-passage-1 .looked-3') == page.inner_text('#a-passage-1 .said') == 'Boskoop.'
    bars = [page.locator(f'#a-passage-1 .filling.{kind}') for kind in ('attention', 'carried')]
    assert [bar.evaluate('bar => bar.style.inlineSize') for bar in bars] == ['60%', '50%']
    assert page.text_content('#announce') == 'Answer: Boskoop; not calibrated; 2 passages.'


def test_an_answer_is_stopped(page, server):
    server.reader.gate.clear()
    page.fill('#question', APPLES)
    page.click('#ask-button')
    says(page, '#a-answer', 'Bos')
    page.keyboard.press('Escape')
    says(page, '#pane-a [role=alert]', 'Stopped.')
    server.reader.gate.set()
    page.click('#pane-a [role=alert] button')
    says(page, '#a-answer', 'Boskoop')


def test_a_passage_is_text_whatever_is_in_it(page):
    ask(page, 'To which village was the cider press sold?')
    assert orchard.HOSTILE in page.inner_text('#a-passage-1 .text') and page.title().startswith('Ask')
    assert page.locator('.passage img, .passage script').count() == 0


def test_a_passage_is_left_out_and_read_again(page):
    ask(page)
    page.uncheck('#a-passage-1-read')
    says(page, '.pending', '1 passage is switched off.')
    page.click('#a-again')
    says(page, '.compared', 'The answer changed.')
    assert page.locator('.compared tbody tr').all_inner_texts() == ['Before\tBoskoop\tas found', 'Now\tMartha Lind\twithout apples']
    # It keeps its place but has no figures, because this answer did not read it.
    assert 'Left out of this answer.' in page.inner_text('#a-passage-1')
    assert page.locator('#a-passage-1 .measures, #a-passage-1 mark').count() == 0
    assert 'Golden Delicious' in page.inner_text('.card.plain')
    page.check('#a-passage-1-read')
    says(page, '.pending', 'All passages are switched on.')
    page.click('#a-reset')
    page.wait_for_selector('.pending', state='detached')
    assert not page.is_checked('#a-passage-1-read')
    page.check('#a-passage-1-read')
    page.click('#a-again')
    says(page, '#a-answer', 'Boskoop')
    # All are left out: the reader answers without passages.
    page.uncheck('#a-passage-1-read')
    page.uncheck('#a-passage-2-read')
    page.click('#a-again')
    says(page, '#a-answer', 'Golden Delicious')


def test_an_edit_changes_the_answer_and_is_taken_back(page, server):
    ask(page)
    open_dialog(page, '#a-passage-1-edit')
    assert page.input_value('#passage-text') == orchard.APPLES.text and page.get_attribute('#passage-docid', 'readonly') is not None
    edited = 'The apple trees behind the barn are Elstar.'
    save(page, edited)
    says(page, '#passage-error', 'Enter the token')
    save(page, token='guess')
    says(page, '#passage-error', 'Wrong token: changes need the one')
    assert page.input_value('#passage-text') == edited  # nothing typed is lost
    save(page, token=TOKEN)
    says(page, '#a-answer', 'Elstar')
    assert page.locator('.compared tbody tr').all_inner_texts()[1] == 'Now\tElstar\tapples edited'
    assert 'Elstar' in page.inner_text('#a-passage-1 .text')
    # The token is entered once and forgotten with the tab.
    assert page.evaluate('[sessionStorage["atlas-jax.token"], Object.values(localStorage).join().includes("secret")]') == [TOKEN, False]
    page.click('#a-undo')
    says(page, '#a-answer', 'Boskoop')
    index = server.service.holdings.indexes['project']
    assert index[index.find('apples')] == orchard.APPLES
    open_dialog(page, '#a-passage-1-edit')
    assert page.is_hidden('#token-part')
    save(page, '  ')
    says(page, '#passage-error', 'The text is empty.')


def test_a_passage_that_another_one_edited_meanwhile(page, server):
    ask(page)
    open_dialog(page, '#a-passage-1-edit')
    server.service.holdings.indexes['project'].replace([dataclasses.replace(orchard.APPLES, text='Now they are Topaz.')], None, False)
    save(page, 'They are Elstar.', TOKEN)
    says(page, '#passage-error', 'Passage "apples" was changed meanwhile')
    assert page.input_value('#passage-text') == 'They are Elstar.'
    page.click('#passage-reload')
    page.wait_for_selector('#passage-reload', state='hidden')
    assert page.input_value('#passage-text') == 'Now they are Topaz.'
    assert page.inner_text('#passage-error') == ''
    page.keyboard.press('Escape')
    page.wait_for_selector('#passage-dialog', state='hidden')


def test_passages_are_added_and_deleted(page, server):
    ask(page, 'Who looks after the bees?')
    says(page, '#a-answer', 'Martha Lind')
    page.keyboard.press('a')
    page.fill('#passage-heading', 'News')
    # Its docid has a slash, which must not split the path.
    page.fill('#passage-docid', 'news/1 %')
    save(page, 'Who looks after the bees now is Ada Brook.', TOKEN)
    says(page, '#a-answer', 'Ada Brook')
    assert page.inner_text('#served') == '5 passages'
    page.click('#a-undo')
    says(page, '#a-answer', 'Martha Lind')
    open_dialog(page, '#a-passage-1-delete')
    assert 'is taken out of index project' in page.inner_text('#passage-note') and page.is_hidden('#passage-fields')
    save(page)
    says(page, '.compared', 'bees/hives deleted')
    assert page.inner_text('#a-answer') != 'Martha Lind' and server.service.holdings.indexes['project'].deleted[2]
    page.click('#a-undo')
    says(page, '#a-answer', 'Martha Lind')
    # An existing docid is named.
    page.keyboard.press('a')
    page.fill('#passage-docid', 'pears')
    save(page, 'Pears.')
    says(page, '#passage-error', 'Passage "pears" is there already')


def test_two_models_and_indexes_side_by_side(page):
    page.check('#compare')
    # The second model and index are preselected if there are several.
    assert [page.input_value(f'#b-{name}') for name in ('model', 'index')] == ['calibrated', 'archive']
    page.fill('#a-count', '1')
    ask(page, pane='b')
    says(page, '#agreement', 'The answers differ: “Boskoop” and “Gravenstein”.')
    assert [page.inner_text(f'#{pane}-answer') for pane in 'ab'] == ['Boskoop', 'Gravenstein']
    assert 'Confidence 83 %' in page.inner_text('#pane-b .confidence') and page.locator('#pane-a .passage').count() == 1
    boxes = [page.locator(f'#pane-{pane}').bounding_box() for pane in 'ab']
    assert boxes[0]['y'] == boxes[1]['y'] and boxes[0]['x'] + boxes[0]['width'] <= boxes[1]['x']
    page.click('#b-passage-1-read')
    page.click('#b-again')
    says(page, '#pane-b .compared', 'The answer changed.')
    assert page.locator('#pane-b tbody tr').all_inner_texts()[0] == 'Before\tGravenstein\t83 %\tas found'
    page.select_option('#b-index', 'project')
    page.click('#ask-button')
    says(page, '#agreement', 'Both give the same answer: “Boskoop”.')
    page.uncheck('#compare')
    assert page.is_hidden('#pane-b') and page.is_hidden('#agreement')


def test_the_map_says_in_words_what_it_shows(page):
    ask(page)
    page.keyboard.press('m')
    page.wait_for_selector('.map svg')
    assert page.locator('.map circle.found').count() == 4 and page.locator('.map path.question').count() == 1
    words = page.get_attribute('.map svg', 'aria-label')
    assert re.match(r'Map of the question, 4 passages found for it and 0 others\. Nearest .* is passage \d', words)
    assert page.locator('.map li').all_inner_texts()[0] == 'Orchard handbook: Apples (apples)'


def test_mistakes_in_the_words_of_the_server(page):
    page.click('#ask-button')
    says(page, '#form-error', 'Type a question first.')
    page.fill('#question', 'A refused question?')
    page.keyboard.press('Enter')
    says(page, '#pane-a [role=alert]', re.compile(r'^This question is refused\.'))
    assert page.inner_text('#form-error') == '' and page.input_value('#question') == 'A refused question?'
    busy = {'status': 429, 'content_type': 'application/problem+json', 'headers': {'Retry-After': '7'},
            'body': '{"detail": "256 questions wait already"}'}
    broken = {'status': 502, 'content_type': 'text/html', 'body': '<h1>Bad gateway</h1>'}
    cut = {'content_type': 'text/event-stream', 'body': 'event: token\ndata: {"text": "Bo"}\n\n'}
    for response, words in ((busy, '256 questions wait already. The server expects to be free in 7 s.'),
                            (broken, 'The server answered with status 502.'),
                            (cut, 'The connection ended before the answer was complete.')):
        answer_with(page, response)
        page.click('#pane-a [role=alert] button')
        says(page, '#pane-a [role=alert]', words)
        page.unroute('**/answer')


def test_the_server_goes_and_comes_back(page, server):
    ask(page)
    server.stop()
    page.fill('#question', 'Who harvests the honey?')
    page.keyboard.press('Enter')
    says(page, '#connection', 'The server cannot be reached.')
    says(page, '#pane-a [role=alert]', 'What you typed is kept')
    assert page.input_value('#question') == 'Who harvests the honey?'
    server.start()
    page.wait_for_selector('#connection .notice', state='detached')
    page.click('#pane-a [role=alert] button')
    says(page, '#a-answer', 'Martha Lind')
    # A reload also keeps it.
    page.fill('#question', 'Half a quest')
    page.reload()
    assert page.input_value('#question') == 'Half a quest'


def test_a_server_that_is_not_ready_yet_says_so(page, server):
    server.service.ready = False
    page.reload()
    says(page, '#connection', 'The server is getting ready')
    server.service.ready = True
    page.wait_for_selector('#connection .notice', state='detached')


def test_with_the_keyboard_alone(page):
    def focused():
        return page.evaluate('(on => [on.id || on.textContent.trim(), getComputedStyle(on).outlineStyle])(document.activeElement)')

    page.keyboard.press('Tab')
    assert focused() == ['Skip to the question', 'solid']
    page.keyboard.press('Enter')
    page.keyboard.type(APPLES)
    page.keyboard.press('Enter')
    page.wait_for_selector('#a-map')
    assert focused()[0] == 'question'
    seen = []
    while focused()[0] != 'export':
        page.keyboard.press('Tab')
        seen.append(focused())
        assert seen[-1][1] == 'solid' and len(seen) < 40, seen
    names = [name for name, _ in seen]
    assert {'ask-button', 'compare', 'Settings model project, index project, 2 passages', 'a-passage-1-read', 'a-passage-1-edit',
            'a-passage-2-delete', 'How to read this', 'Retrieval map'} <= set(names)
    # The switch keeps the focus when the list is drawn again, and `r` asks again.
    page.focus('#a-passage-1-read')
    page.keyboard.press('Space')
    assert focused()[0] == 'a-passage-1-read' and page.locator('.pending').is_visible()
    page.keyboard.press('r')
    says(page, '#a-answer', 'Martha Lind')
    page.keyboard.press('1')
    assert page.is_checked('#a-passage-1-read')
    page.keyboard.press('h')
    assert focused()[0] == 'history-title'
    page.keyboard.press('/')
    page.keyboard.type('?')
    assert page.input_value('#question').endswith('??')  # a key that is typed is no shortcut
    page.focus('#a-passage-1-edit')
    page.keyboard.press('Enter')
    page.wait_for_selector('#passage-save:enabled')
    page.keyboard.press('Escape')
    assert focused()[0] == 'a-passage-1-edit'
    page.keyboard.press('?')
    assert page.locator('#keys-list dt').all_inner_texts() == ['Enter', 'Tab', 'Space', 'Esc', '/', '1–9', *'racmhed?']
    page.uncheck('#keys-on')
    page.keyboard.press('Escape')
    page.keyboard.press('h')
    assert focused()[0] == 'a-passage-1-edit'  # where it was; `h` went nowhere


def test_history_and_export(page, tmp_path):
    assert page.is_disabled('#export')
    ask(page)
    page.uncheck('#a-passage-1-read')
    page.click('#a-again')
    says(page, '#a-answer', 'Martha Lind')
    page.reload()
    assert page.locator('.turn-answer').all_inner_texts() == ['Martha Lind', 'Boskoop']
    with page.expect_download() as download:
        page.click('#export')
    download.value.save_as(tmp_path / 'kept.jsonl')
    rows = [json.loads(line) for line in (tmp_path / 'kept.jsonl').read_text(encoding='utf-8').splitlines()]
    assert download.value.suggested_filename == 'atlas-jax-answers.jsonl' and [row['text'] for row in rows] == ['Boskoop', 'Martha Lind']
    assert rows[1]['without'] == ['apples'] and rows[0]['closed_book'] == 'Golden Delicious'
    assert rows[0]['passages'][0]['words'][0][0] == 'The'
    # An old answer is shown without a request, and can be asked again with its options.
    page.click('#turn-0')
    assert page.inner_text('#a-answer') == 'Martha Lind' and page.locator('.compared').count() == 0
    page.keyboard.press('r')
    says(page, '.compared', 'The answer is the same.')
    page.once('dialog', lambda dialog: dialog.accept())
    page.click('#clear-history')
    assert page.locator('.turn').count() == 0 and page.is_visible('#history-empty')
    page.evaluate('localStorage["atlas-jax.history"] = JSON.stringify([{"question": 3}, null])')
    page.reload()
    assert page.is_visible('#history-empty')


def test_light_and_dark(make_page):
    page = make_page(scheme='dark')

    def background():
        return page.evaluate('getComputedStyle(document.body).backgroundColor')

    dark = background()
    page.select_option('#theme', 'light')
    light = background()
    assert (light, dark) == ('rgb(251, 250, 248)', 'rgb(20, 24, 31)')
    page.reload()
    assert background() == light and page.input_value('#theme') == 'light'
    page.keyboard.press('d')
    assert background() == dark
    page.select_option('#theme', 'system')
    page.emulate_media(color_scheme='light')
    assert background() == light


@pytest.mark.parametrize(('width', 'scheme'), [(1280, 'light'), (390, 'dark')])
def test_accessible_at_every_width_in_light_and_dark(make_page, server, tmp_path, width, scheme):
    page = make_page(width, scheme)

    def look(state):
        name = f'page-{state}-{width}-{scheme}'
        assert page.evaluate('document.documentElement.scrollWidth') <= width, name
        assert browsers.screenshot(page, name, tmp_path).stat().st_size > 10_000
        assert browsers.violations(page) == [], name

    look('empty')
    server.reader.long = 'Elstar' * 60
    ask(page, 'W' * 300)
    page.uncheck('#a-passage-2-read')
    page.click('#a-again')
    page.wait_for_selector('.compared')
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    server.reader.long = ''
    ask(page)
    page.uncheck('#a-passage-2-read')
    page.click('#a-again')
    page.wait_for_selector('.compared')
    page.check('#a-passage-2-read')
    page.click('.legend summary')
    page.click('#a-map summary')
    page.wait_for_selector('.map svg')
    look('answer')
    open_dialog(page, '#a-passage-1-edit')
    save(page)
    says(page, '#passage-error', 'Enter the token')
    look('edit')
    page.keyboard.press('Escape')
    page.check('#compare')
    ask(page, pane='b')
    look('side-by-side')


def test_the_page_parses_no_html_and_asks_no_other_server(browser, server):
    sources = {path.name: path.read_text(encoding='utf-8') for path in FOLDER.iterdir()}
    assert len(sources) > 10
    for name, text in sources.items():
        assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|srcdoc', text), name
        # The only address is the name space of SVG.
        assert not re.findall(r'(?:https?:)?//[\w-]+\.[\w./-]+', text.replace('http://www.w3.org/2000/svg', '')), name
    assert not re.search(r'<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)', sources['index.html'])
    answer = browser.new_context().request.get(server.address)
    assert answer.headers['content-security-policy'].startswith("default-src 'self';")
