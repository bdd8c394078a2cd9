"""A headless browser for tests of pages: Debian's chromium, driven by playwright."""

import contextlib
import os
import pathlib
import shutil

import pytest

# Two of axe-core's four impacts; the others are advice.
_FAILING = ('serious', 'critical')


@contextlib.contextmanager
def launched():
    """A browser. Skips where it is not installed, fails instead with ATLAS_JAX_REQUIRE_PACKAGES=1."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        missing('chromium is not installed: apt-get install chromium')
    try:
        from playwright import sync_api
    except ImportError:
        missing('playwright is not installed: pip install ".[test]"')
    with sync_api.sync_playwright() as playwright:
        # Its own sandbox cannot be set up by root; what it opens is ours. A container's /dev/shm is often too small for it.
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        yield browser
        browser.close()


def missing(reason):
    """Skips a test whose program is not installed; fails it with ATLAS_JAX_REQUIRE_PACKAGES=1."""
    if os.environ.get('ATLAS_JAX_REQUIRE_PACKAGES') == '1':
        pytest.fail(reason)
    pytest.skip(reason)


def violations(page):
    """Returns the violations that axe-core calls serious or critical: the rule, and the first element that breaks it."""
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page).response['violations']
    return [f'{each["id"]}: {each["nodes"][0]["html"][:200]}' for each in found if each['impact'] in _FAILING]


def screenshot(page, name, folder):
    """Writes a picture of the whole page to $ATLAS_JAX_SCREENSHOTS, or to a folder of the test."""
    folder = pathlib.Path(os.environ.get('ATLAS_JAX_SCREENSHOTS') or folder)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f'{name}.png', full_page=True)
    return folder / f'{name}.png'
