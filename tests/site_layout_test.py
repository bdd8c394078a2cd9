"""The built site in a real browser: at both widths no page scrolls sideways, and nothing on it is cut."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tests.testing import browser as browsers

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTHS = (1280, 400)
# Elements that end outside the window, that hide a part of their content or scroll it, and tables and pictures wider than the text.
FAULTS = """() => {
  const faults = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push('the page scrolls');
  for (const element of document.querySelectorAll('article *, .md-header *, .md-sidebar *, .md-footer *')) {
    const box = element.getBoundingClientRect(), sidebar = element.closest('.md-sidebar'), style = getComputedStyle(element);
    const away = element.closest('.md-search') || sidebar && sidebar.getBoundingClientRect().right <= 0;  // until it is opened
    if (away || !element.checkVisibility() || box.width < 2) continue;
    const cut = style.overflowX !== 'visible' && style.display !== 'inline' && element.scrollWidth > element.clientWidth;
    const end = element.matches('table, img') ? element.closest('article').getBoundingClientRect().right : width;
    if (cut || box.right > end + 1 || box.left < -1) faults.push(`${element.tagName}: ${element.textContent.trim().slice(0, 60)}`);
  }
  return faults;
}"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    if importlib.util.find_spec('mkdocs') is None:
        browsers.missing('mkdocs is not installed: pip install ".[docs]"')
    folder = tmp_path_factory.mktemp('site')
    subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--quiet', '--strict', '-f', ROOT / '.ci' / 'mkdocs.yml', '-d', folder],
                   check=True, env=os.environ | {'NO_MKDOCS_2_WARNING': '1'})
    return folder


@pytest.fixture(scope='module')
def page():
    with browsers.launched() as browser:
        yield browser.new_page(reduced_motion='reduce')


def faults(page, width):
    page.set_viewport_size({'width': width, 'height': 800})
    return page.evaluate(FAULTS)


def test_nothing_scrolls_sideways_or_is_cut(page, site):
    pages = sorted(site.glob('*.html'))
    found = {}
    for path in pages:
        page.goto(path.as_uri())
        found |= {f'{path.name} at {width}': faults(page, width) for width in WIDTHS}
    assert len(pages) > 30 and len(found) == len(pages) * len(WIDTHS)
    assert {place: lines for place, lines in found.items() if lines} == {}


@pytest.mark.parametrize(('content', 'fault'), [
    ('<pre style="overflow: auto">{}</pre>', 'PRE: wide'), ('<div style="overflow: hidden; white-space: nowrap">{}</div>', 'DIV: wide'),
    ('<p style="white-space: nowrap">{}</p>', 'the page scrolls'), ('<table><tr><td><pre>{}</pre></table>', 'TABLE: wide'),
    ('<p>{}</p>', None), ('<div class="md-search"><pre style="overflow: auto">{}</pre></div>', None)])
@pytest.mark.parametrize('width', WIDTHS)
def test_faults_are_found(page, width, content, fault):
    page.set_content(f'<article>{content.format("wide words " * 50)}</article>')
    found = faults(page, width)
    assert any(line.startswith(fault) for line in found) if fault else found == []
