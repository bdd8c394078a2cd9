"""Wikitext to plain text: lists and infoboxes stay; templates, tables, references and files go; hostile pages are not slow."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.apps.datasets.corpora import wiki_text
from atlas_jax.apps.datasets.corpora.wiki_text import ITEM

DROPPED = ('file', 'image', 'category', 'datei')


def plain(text: str) -> str:
    """Returns the text of all sections, on one line."""
    return ' '.join(' '.join(text for _, text in wiki_text.read(text, DROPPED).sections).split())


@pytest.mark.parametrize('text, expected', [
    ("'''Bold''' and ''italic'' [[Radium|the metal]] of [[Poland]]s.", 'Bold and italic the metal of Polands.'),
    ('a [http://x.org a link] b [https://y.org] c http://z.org', 'a a link b c http://z.org'),
    ('Marie ({{IPAc-en|x}}; born 1867) was ({{lang|pl|Maria}}) here ( ).', 'Marie (born 1867) was (Maria) here.'),
    ('A{{cite|{{nested|{{deep}}}}|x}}B {{convert|5|km|mi|abbr=on}} {{nowrap|x y}}', 'AB 5 km x y'),
    ('A<ref>gone {{cite}}</ref>B<ref name="x" />C<ref name=y>gone</ref>D', 'ABCD'),
    ('A<ref>never closed\nB', 'A B'), ('A<ref>never closed <ref>gone</ref>B\nC', 'AB C'), ('A<ref>x\n\nB <ref>y</ref>C', 'A B C'),
    ('A\n{| class="wikitable"\n! x\n|-\n| y || {{z}}\n{|\n| nested\n|}\n|}\nB', 'A B'), ('A\n{| never closed\n| cell\n! head\nB', 'A B'),
    ('A<!-- gone -->B<!-- never closed', 'AB'), ('A {{never closed|x\n| y = z\nB', 'A B'), ('A [[never closed B', 'A never closed B'),
    ('A {{x [[y}} B]] C', 'A B C'), ('A }} B ]] |} C', 'A B C'),
    ('[[File:a.jpg|thumb|A [[nested]] caption]][[Datei:b.jpg]][[Kategorie:x]] [[:Category:Shown]] [[de:Radium]]A',
     'Kategorie:x Category:Shown A'),
    ('a&nbsp;b &amp;amp; &lt;tag&gt; &eacute;', 'a b &amp; <tag> é'),
    ('<math>x^2</math>A<br />B<gallery>\na.jpg|x\n\nb.jpg\n</gallery>C', 'A BC'),
    ('__NOTOC__ 居里夫人<nowiki>[[x]]</nowiki>', '居里夫人x'), ('A <table><tr><td>gone<table>x</table>y</td></tr></table>B', 'A B'),
    (f'A{ITEM}B', 'A B'), ('', ''), ('{{Only|templates}}', ''), ('x < y > z', 'x < y > z')])
def test_marks_become_plain_text(text, expected):
    assert plain(text) == expected


def test_sections_have_their_headings_and_link_lists_go():
    article = wiki_text.read('Lead.\n== Life ==\nA.\n=== [[Early]] {{x}}years ===\nB.\n==Work==\nC.\n== References ==\nx\n=== Web ===\ny\n'
                             '==See also==\n* [[z]]\n====Bad====\nD.', DROPPED)
    assert article.sections == [((), 'Lead.'), (('Life',), 'A.'), (('Life', 'Early years'), 'B.'), (('Work',), 'C.')]


def test_entries_of_lists_are_marked():
    [(_, text)] = wiki_text.read('Prizes:\n* [[Nobel]] prize\n** second\n# third\n*\n* [[File:x]]\nAfter.', DROPPED).sections
    assert text.split('\n\n') == ['Prizes:', f'{ITEM}Nobel prize', f'{ITEM}second', f'{ITEM}third', 'After.']


def test_infoboxes_are_lines_of_their_own():
    article = wiki_text.read("""{{Infobox scientist
| name = Marie """  """Curie
| image = x.jpg
| image_size = 200px
| birth_date = {{Birth date|1867|11|7|df=yes}}
| death_date = {{death date and age|1934|7|4|1867|11|7}}
| spouse = {{marriage|[[Pierre Curie]]|1895}}<br />none<ref>x</ref>
| known for = {{plainlist|
* [[Radium]]
* [[Polonium]]
}}
| awards = {{ubl|Davy Medal|[[Nobel Prize]] {{small|(1903)}}}}
| empty =
}}
She was.
{{taxobox|name=Panthera|genus=''Panthera''}}""", DROPPED)
    assert article.infoboxes == [
        ['name: Marie Curie', 'birth date: 1867-11-7', 'death date: 1934-7-4', 'spouse: Pierre Curie, none', 'known for: Radium, Polonium',
         'awards: Davy Medal, Nobel Prize (1903)'], ['name: Panthera', 'genus: Panthera']]
    assert article.sections == [((), 'She was.')]


@pytest.mark.parametrize('title, text, expected', [
    ('Mercury', 'x\n{{disambiguation}}', True), ('Mercury', '{{Disambig|geo}}', True), ('Mercury (disambiguation)', '', True),
    ('Curie', '{{surname}}', True), ('M', '{{place name disambiguation}}', True), ('A', '{{Begriffsklärung}}', True),
    ('Mercury', 'not {{disambiguation needed}}', False), ('Word-sense disambiguation', 'x', False)])
def test_disambiguation(title, text, expected):
    assert wiki_text.is_disambiguation(title, text) is expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(['{{', '}}', '[[', ']]', '{|', '|}', '|', '\n', '\n|', '<ref>', '</ref>', '<!--', '-->', '== a ==\n', '=',
                                 '*', 'x', ' ', "''", '<b', '>', '{', '}', '[', 'http://', 'Infobox', '&', ';', '<table>',
                                 '{{infobox|a=']), max_size=60))
def test_anything_is_read(parts):
    article = wiki_text.read(''.join(parts), DROPPED)
    for text in [text for _, text in article.sections] + [entry for entries in article.infoboxes for entry in entries]:
        assert '{{' not in text and ']]' not in text and '<ref>' not in text and text == text.strip()


@pytest.mark.parametrize('part', ['{{', '[[', '{|\n', '{{a|[[b|', '<b>', '<b ', '<ref>', '<ref>a\n\n', '{{{', '*', '[http://a ', '<!--',
                                  '{{a|', '[[{{]]', '<gallery><b>', '* \n', '(', '==', '{{a\nb|' * 19 + '}}' * 19])
def test_hostile_pages_take_linear_time(part):
    def seconds(size: int) -> float:
        text, start = part * (size // len(part)), time.process_time()
        wiki_text.read(text, DROPPED)
        return time.process_time() - start

    # mwparserfromhell alone takes ten seconds for 60 kB of <b>.
    assert seconds(60_000) < 1.5
