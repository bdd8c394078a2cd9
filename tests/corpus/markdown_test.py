import textwrap
import time

import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax.corpus import markdown


def test_headings_of_both_kinds():
    title, sections = markdown.read(textwrap.dedent("""\
        Radium
        ======

        A metal.

        ## Uses ##
        Paint.

        History
        -------
        Found by Curie.

        #hashtag stays
    """))
    assert title == 'Radium'
    assert sections == [('', 'A metal.'), ('Uses', 'Paint.'), ('History', 'Found by Curie.\n\n#hashtag stays')]


def test_code_makes_no_headings():
    title, sections = markdown.read('# T\n```sh\n# not a heading\n~~~\n[a](b) **c**\n```\n---\n~~~\nx\n```\n# no\n~~~~\nafter')
    assert title == 'T'
    assert sections == [('', '# not a heading\n~~~\n[a](b) **c**\n---\nx\n```\n# no\nafter')]


def test_rules_and_lists_make_no_headings():
    _, sections = markdown.read('- item\n---\ntwo\nlines\n---\n| a |\n---\nend')
    assert [head for head, _ in sections] == ['']


@pytest.mark.parametrize('line, plain', [
    ('See [the page](http://x.org/a_(b) "title") now', 'See the page now'),
    ('![A photo](a.png) [![badge](b.svg)](http://ci)', 'A photo badge'),
    ('**Strong** and __init__ and 2**3**4', 'Strong and __init__ and 234'),
    ('`a[0](b)` and `**kwargs`', '`a[0](b)` and `**kwargs`'),
    ('x <!-- hidden --> y', 'x  y'),
    ('- [x] done, a[1][2]', '- [x] done, a[1][2]'),
])
def test_marks_become_words(line, plain):
    assert markdown.read(line) == ('', [('', plain)])


def test_front_matter():
    assert markdown.read('---\ntitle: "My page"\ntags: [a]\n---\n# My page\nText\n# Other\nMore') == (
        'My page', [('', 'Text'), ('Other', 'More')])
    assert markdown.read('---\nA paragraph.\n\n---\nMore') == ('', [('', '---\nA paragraph.\n\n---\nMore')])


WORDS = strategies.text('abcXYZ', min_size=1, max_size=5)
LINES = strategies.one_of(
    strategies.just('') if line is None else WORDS.map(line.format)
    for line in ['{}', None, '# {}', '### {} ###', '- {}', '**{}**', '[{}](u)', '{}\n===', '> {}', '<!-- -->{}'])


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.lists(LINES, max_size=20))
def test_no_word_is_lost(lines):
    text = '\n'.join(lines)
    title, sections = markdown.read(text)
    found = ' '.join([title, *(f'{head}\n{body}' for head, body in sections)])
    keep = ''.maketrans(dict.fromkeys('#*-<!>[]()=', ' '))
    wanted = sorted(text.replace('(u)', '').translate(keep).split())
    assert sorted(found.translate(keep).split()) == wanted


@pytest.mark.parametrize('text', ['[' * 50_000, '**a ' * 30_000, '`' * 50_000, '# ' * 50_000, '[a](' + '(' * 50_000, '<!--' * 30_000,
                                  '---\n' * 20_000, '#' + ' ' * 50_000 + 'x'])
def test_hostile_text_takes_no_time(text):
    start = time.perf_counter()
    markdown.read(text)
    assert time.perf_counter() - start < 3
