"""Markdown and HTML as title, sections and plain text."""

import textwrap
import time

import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax.corpus import markup


def test_headings_of_both_kinds():
    title, sections = markup.read_markdown(textwrap.dedent("""\
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
    title, sections = markup.read_markdown('# T\n```sh\n# not a heading\n~~~\n[a](b) **c**\n```\n---\n~~~\nx\n```\n# no\n~~~~\nafter')
    assert title == 'T'
    assert sections == [('', '# not a heading\n~~~\n[a](b) **c**\n---\nx\n```\n# no\nafter')]


def test_rules_and_lists_make_no_headings():
    _, sections = markup.read_markdown('- item\n---\ntwo\nlines\n---\n| a |\n---\nend')
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
    assert markup.read_markdown(line) == ('', [('', plain)])


def test_front_matter():
    assert markup.read_markdown('---\ntitle: "My page"\ntags: [a]\n---\n# My page\nText\n# Other\nMore') == (
        'My page', [('', 'Text'), ('Other', 'More')])
    assert markup.read_markdown('---\nA paragraph.\n\n---\nMore') == ('', [('', '---\nA paragraph.\n\n---\nMore')])


WORDS = strategies.text('abcXYZ', min_size=1, max_size=5)
LINES = strategies.one_of(
    strategies.just('') if line is None else WORDS.map(line.format)
    for line in ['{}', None, '# {}', '### {} ###', '- {}', '**{}**', '[{}](u)', '{}\n===', '> {}', '<!-- -->{}'])


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.lists(LINES, max_size=20))
def test_no_word_is_lost(lines):
    text = '\n'.join(lines)
    title, sections = markup.read_markdown(text)
    found = ' '.join([title, *(f'{head}\n{body}' for head, body in sections)])
    keep = ''.maketrans(dict.fromkeys('#*-<!>[]()=', ' '))
    wanted = sorted(text.replace('(u)', '').translate(keep).split())
    assert sorted(found.translate(keep).split()) == wanted


@pytest.mark.parametrize('text', ['[' * 50_000, '**a ' * 30_000, '`' * 50_000, '# ' * 50_000, '[a](' + '(' * 50_000, '<!--' * 30_000,
                                  '---\n' * 20_000, '#' + ' ' * 50_000 + 'x'])
def test_hostile_text_takes_no_time(text):
    start = time.perf_counter()
    markup.read_markdown(text)
    assert time.perf_counter() - start < 3


def test_an_html_page():
    title, sections = markup.read_html("""<!doctype html><html><head><title>Radium &ndash; Lexicon</title>
        <style>p { color: red }</style><script>document.write("<p>no</p>")</script></head>
        <body><nav>Home</nav><h1>Radium</h1><p>A <b>met</b>al.<br>Glows.</p><p>Rare.</p>
        <h2>Uses</h2><ul><li>Paint<li>Medicine</ul><table><tr><td>a<td>b</table><noscript>no</noscript></body>""")
    assert title == 'Radium – Lexicon'
    assert sections == [('', 'A metal. Glows.\n\nRare.'), ('Uses', 'Paint\n\nMedicine\n\na b')]


def test_first_heading_is_the_title_where_there_is_none():
    assert markup.read_html('<h2>Radium</h2>glows') == ('Radium', [('', 'glows')])
    assert markup.read_html('glows') == ('', [('', 'glows')])
    assert markup.read_html('') == ('', [('', '')])


def test_first_heading_that_is_not_the_title_is_a_section():
    assert markup.read_html('<title>Lexicon</title><h1>Radium</h1>glows') == ('Lexicon', [('', ''), ('Radium', 'glows')])


AROUND = """<!doctype html><html><head><title>Radium | Lexicon</title><script>var a = "<p>no</p>"</script><style>p {}</style></head><body>
    <header><a href="/">Lexicon</a><nav><ul><li>Home<li>Chemistry</ul></nav></header>
    <div role="navigation"><div><p>Metals</p></div>Gases</div>
    <main><article><header><h1>Radium</h1><p>by M. Curie, 5 min read</p></header><p>A metal <svg><text>icon</text></svg>that glows.</p>
    <aside><h2>Related</h2><p>Polonium</p></aside><h2>Uses</h2><p>Paint.</p><footer>Share this</footer></article></main>
    <aside>Advertisement</aside><footer><h2>About</h2><p>Imprint</p></footer></body></html>"""


def test_what_surrounds_the_text_of_a_page_is_no_text():
    assert markup.read_html(AROUND) == ('Radium | Lexicon', [('', 'A metal that glows.'), ('Uses', 'Paint.')])


@pytest.mark.parametrize('page, expected', [
    ('<div><nav>Home</div><p>text', [('', 'text')]),  # the div that encloses it ends an open <nav>
    ('<nav>Home<div>a</div><main>text</main>', [('', 'text')]),
    ('<nav><div>a</div>b</nav>text', [('', 'text')]),
    ('<footer>a<nav>b</nav>c</footer>text', [('', 'text')]),
    ('<nav><h2>Menu<p>text</nav><p>more', [('', 'more')]),
    ('<header><h1>Radium</header>glows', [('', 'glows')]),
    ('<header><nav><h2>Menu</h2></nav></header>glows', [('', 'glows')]),
    ('<div role="complementary"><div>a</div>b</div>text', [('', 'text')]),
    ('<div role="main">text</div>', [('', 'text')]),
    ('<aside>only', [('', '')]),
])
def test_where_what_surrounds_the_text_ends(page, expected):
    title, sections = markup.read_html(page)
    assert sections == expected and title in ('', 'Radium')


@pytest.mark.parametrize('page, expected', [
    ('<h1><div>Radium</div></h1><p>glows', ('Radium', [('', 'glows')])),
    ('<title>T<body><p>text', ('T', [('', 'text')])),
    ('<p>a</script>b</p><script>c', ('', [('', 'ab')])),
    ('<svg><title>icon</title></svg><p>text', ('', [('', 'text')])),
    ('<template><p>no<template></template></template>yes', ('', [('', 'yes')])),
    ('<noscript/>text', ('', [('', 'text')])),
    ('a &lt;b&gt; &#x41; &nosuch; & c', ('', [('', 'a <b> A &nosuch; & c')])),
    ('<h1></h1><p>text', ('', [('', 'text')])),
])
def test_odd_pages(page, expected):
    assert markup.read_html(page) == expected


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.lists(strategies.one_of(
    strategies.sampled_from(['<p>', '</p>', '<h1>', '<nav>', '</nav>', '<header>', '</header>', '<main>', '</div>', '</h1>', '<title>',
                             '</title>', '<div', '>', '<!--', '-->', '<script>', '</script>',
                             '<![CDATA[', '&amp', '&#', '<br/>', '"', '<?', '<!', '</']), strategies.text(max_size=5)), max_size=20))
def test_any_page_is_read(parts):
    title, sections = markup.read_html(''.join(parts))
    assert title == ' '.join(title.split()) and sections[0][0] == '' and all(head for head, _ in sections[1:])


@hypothesis.given(strategies.lists(strategies.text('abc', min_size=1), min_size=1, max_size=9))
def test_words_of_paragraphs_are_kept(words):
    _, ((_, text),) = markup.read_html(''.join(f'<p>{word}</p><div>{word}<b>{word}</b></div>' for word in words))
    assert text.split() == [part for word in words for part in (word, word + word)]


@pytest.mark.parametrize('repeated', [
    '<!--', '<!-- >', '<![CDATA[', '<![CDATA[ >', '<?x ', '</', '</a ', '<a "', '<a \n', '<a', '<svg>', '&', '&#x', '<script>', '<!',
    '</svg>', '<svg><math>', '<title>', '<!doctype ['])
@pytest.mark.parametrize('end', ['', '>', '</math>' * 30_000])
def test_a_hostile_page_takes_linear_time(repeated, end):
    start = time.process_time()
    assert markup.read_html('<p>words</p>' + repeated * 30_000 + end)[1][0][1].startswith('words')
    assert time.process_time() - start < 10  # in quadratic time minutes


@pytest.mark.parametrize(('page', 'text'), [
    ('<p>a &#' + '9' * 10_000 + '; b</p>', 'a \ufffd b'), ('<p>a &#x41; &#66; b</p>', 'a A B b'), ('<p>x < y', 'x < y'),
    ('x <a href=', 'x <a href='),
    ('a<!-- c -->b', 'ab'), ('<p>a</p><![CDATA[ c ]]><p>b', 'a\n\nb'), ('<p>a<![if IE]>b<![endif]></p>', 'ab'), ('a <!-- b', 'a b')])
def test_awkward_pages(page, text):
    assert markup.read_html(page) == ('', [('', text)])
