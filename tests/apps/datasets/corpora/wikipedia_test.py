"""Wikipedia: passages of sections, lists and infoboxes from every kind of dump; only articles give passages."""

import json
import sys

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.datasets import convert_dataset, known_datasets
from atlas_jax.apps.datasets.corpora import wiki_dump
from atlas_jax.corpus import documents
from atlas_jax.io import jsonl
from tests.testing import wiki_dumps

SENTENCE = 'This is the sentence number {} of the article, which has twelve words. '
RADIUM = """{{Infobox element|name=Radium|symbol=Ra}}
"""  """'''Radium''' is a [[chemical element]].<ref>x</ref>
== Uses ==
It was used in:
* watches
* [[Toothpaste|toothpaste]]
Not any more.
== History ==
""" + ''.join(SENTENCE.format(number) for number in range(20)) + """
== Gallery ==
[[File:a.jpg]]
"""
PAGES = [
    wiki_dumps.page(7, 'Radium', RADIUM), wiki_dumps.page(8, '居里夫人', '居里夫人是[[物理學家]]。'),
    wiki_dumps.page(9, 'Talk:Radium', 'gone', namespace=1), wiki_dumps.page(10, 'Ra', '#REDIRECT [[Radium]]', redirect='Radium'),
    wiki_dumps.page(11, 'Old', '#redirect [[Radium]]'), wiki_dumps.page(12, 'Ra (disambiguation)', 'gone'),
    wiki_dumps.page(13, 'Ra', "'''Ra''' may be:\n* [[Radium]]\n{{disambig}}"), wiki_dumps.page(14, 'Data', '{}', model='json')]


def _run(tmp_path, form, **options):
    path = wiki_dumps.write(tmp_path / form, PAGES)
    convert_dataset.convert(known_datasets.SOURCES['wikipedia'], sorted(tmp_path.glob('wiki*')), tmp_path / 'out', options, workers=1)
    assert path.exists()
    return [row for file in sorted((tmp_path / 'out').glob('*.jsonl')) for _, row in jsonl.read(file)]


@pytest.mark.parametrize('form', ['wiki.xml', 'wiki-multistream.xml.bz2'])
def test_articles_become_passages(tmp_path, monkeypatch, form):
    monkeypatch.setattr(wiki_dump, '_PART_BYTES', 400)
    rows = _run(tmp_path, form)
    assert rows[0] == {'id': '7-infobox', 'title': 'Radium', 'section': 'Infobox', 'text': 'name: Radium; symbol: Ra'}
    assert rows[1] == {'id': '7-0', 'title': 'Radium', 'section': '', 'text': 'Radium is a chemical element.'}
    assert rows[2] == {'id': '7-1', 'title': 'Radium', 'section': 'Uses',
                       'text': 'It was used in: watches; toothpaste; Not any more.'}
    history = [row for row in rows if row['section'] == 'History']
    assert [row['id'] for row in history] == ['7-2#0', '7-2#1', '7-2#2'] and all(len(row['text'].split()) <= 100 for row in history)
    assert ' '.join(row['text'] for row in history) == ''.join(SENTENCE.format(number) for number in range(20)).strip()
    assert all(row['text'].endswith('words.') for row in history)
    assert rows[-1] == {'id': '8-0', 'title': '居里夫人', 'section': '', 'text': '居里夫人是物理學家。'} and len(rows) == 7


def test_length_and_outputs_are_options(tmp_path):
    rows = _run(tmp_path, 'wiki.xml', max_words=200, together=True)
    assert [row['id'] for row in rows] == ['7-0', '7-1', '7-2#0', '7-2#1', '7-infobox', '8-0']
    assert max(len(row['text'].split()) for row in rows) <= 200


def test_the_command_writes_a_folder_that_data_passages_reads(tmp_path, capsys):
    wiki_dumps.write(tmp_path / 'wiki.xml', PAGES)
    command = ['data', 'wikipedia', '--from', str(tmp_path / 'wiki.xml'), '--to', str(tmp_path / 'out'), '--workers', '1']
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f'{tmp_path / "out"}: 1 infobox, 6 passages\n'
    assert cli.main(command) == 0 and 'finished before' in capsys.readouterr().out
    assert len(list(documents.read_documents(tmp_path / 'out'))) == 7
    assert json.loads((tmp_path / 'out/manifest.json').read_text())['options'] == {'max_words': '100', 'together': 'false'}
    assert cli.main([*command, '--max_words', '50']) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'atlas-jax: {tmp_path / "out"}: made from other options; give another folder, or remove this one')


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mwparserfromhell', None)
    path = wiki_dumps.write(tmp_path / 'wiki.xml', PAGES)
    with pytest.raises(errors.ConfigError, match=r'install it with `pip install atlas-jax\[data\]`'):
        convert_dataset.convert(known_datasets.SOURCES['wikipedia'], [path], tmp_path / 'out')


def test_wrong_releases_are_told(tmp_path):
    source = known_datasets.SOURCES['wikipedia']
    stub = wiki_dumps.page(3, 'Stub', '').replace('<text bytes="0" xml:space="preserve"></text>', '<text id="7" bytes="99" />')
    path = wiki_dumps.write(tmp_path / 'stub.xml', [stub])
    with pytest.raises(errors.InputFileError, match='the page "Stub" has no text: these are stubs; give a dump of articles'):
        convert_dataset.convert(source, [path], tmp_path / 'out', workers=1)
    wiki_dumps.write(tmp_path / 'wiki-multistream.xml.bz2', PAGES)
    with pytest.raises(errors.InputFileError, match='no dump; give'):
        convert_dataset.convert(source, [tmp_path / 'wiki-multistream-index.txt.bz2'], tmp_path / 'out', workers=1)
    twice = wiki_dumps.write(tmp_path / 'twice.xml', [PAGES[0], PAGES[0]])
    with pytest.raises(errors.InputFileError, match='"7-infobox" is the id of two passages'):
        convert_dataset.convert(source, [twice], tmp_path / 'out', workers=1)
