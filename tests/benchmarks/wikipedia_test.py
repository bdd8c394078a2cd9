"""The benchmark of Wikipedia's way: its dump is read whole, its parts run, and its projection is the arithmetic it says."""

import importlib

import pytest

from atlas_jax.apps.datasets.corpora import wiki_dump

wikipedia = importlib.import_module('wikipedia')


@pytest.fixture(scope='module')
def dump(tmp_path_factory):
    """(folder, bytes of XML) of a dump of 110 articles."""
    folder = tmp_path_factory.mktemp('dump')
    return folder, wikipedia.write_dump(folder / 'wiki-multistream.xml.bz2', 110)


def test_its_articles_are_as_large_as_those_of_a_dump(dump):
    folder, size = dump
    pages = list(wiki_dump.pages(folder / 'wiki-multistream.xml.bz2', 0, None))
    assert len(pages) == 110 and 8_000 < size / 110 < 16_000 and all('{{Infobox' in page.text for page in pages)


def test_its_parts_run_and_the_projection_is_arithmetic(dump, capsys):
    folder, size = dump
    one, store = (wikipedia._part(part, str(folder), '1') for part in ('convert', 'store'))
    assert one['rows'] == store['rows'] > 1000 and min(one['seconds'], store['cpu_seconds']) > 0 and one['peak_bytes'] > 10**7
    figures = wikipedia.figures_of(110, size, one, one | {'seconds': one['seconds'] / 2}, store)
    assert figures['all_processors']['articles_per_second'] == pytest.approx(2 * 110 / one['seconds'])
    projection = figures['projection_of_december_2018']
    assert 'not run' in projection['said']
    megabytes = projection['core_hours'] * 3600 * figures['one_worker']['xml_megabytes_per_core_second']
    assert megabytes == pytest.approx(projection['xml_bytes'] / 1e6)
    wikipedia.show(figures)
    assert 'December 2018, by arithmetic' in capsys.readouterr().out
