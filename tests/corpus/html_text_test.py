import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax.corpus import html_text


def test_a_page():
    title, sections = html_text.read("""<!doctype html><html><head><title>Radium &ndash; Lexicon</title>
        <style>p { color: red }</style><script>document.write("<p>no</p>")</script></head>
        <body><nav>Home</nav><h1>Radium</h1><p>A <b>met</b>al.<br>Glows.</p><p>Rare.</p>
        <h2>Uses</h2><ul><li>Paint<li>Medicine</ul><table><tr><td>a<td>b</table><noscript>no</noscript></body>""")
    assert title == 'Radium – Lexicon'
    assert sections == [('', 'Home\n\nA metal. Glows.\n\nRare.'), ('Uses', 'Paint\n\nMedicine\n\na b')]


def test_first_heading_is_the_title_where_there_is_none():
    assert html_text.read('<h2>Radium</h2>glows') == ('Radium', [('', 'glows')])
    assert html_text.read('glows') == ('', [('', 'glows')])
    assert html_text.read('') == ('', [('', '')])


def test_first_heading_that_is_not_the_title_is_a_section():
    assert html_text.read('<title>Lexicon</title><h1>Radium</h1>glows') == ('Lexicon', [('', ''), ('Radium', 'glows')])


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
    assert html_text.read(page) == expected


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.lists(strategies.one_of(
    strategies.sampled_from(['<p>', '</p>', '<h1>', '</h1>', '<title>', '</title>', '<div', '>', '<!--', '-->', '<script>', '</script>',
                             '<![CDATA[', '&amp', '&#', '<br/>', '"', '<?', '<!', '</']), strategies.text(max_size=5)), max_size=20))
def test_any_page_is_read(parts):
    title, sections = html_text.read(''.join(parts))
    assert title == ' '.join(title.split()) and sections[0][0] == '' and all(head for head, _ in sections[1:])


@hypothesis.given(strategies.lists(strategies.text('abc', min_size=1), min_size=1, max_size=9))
def test_words_of_paragraphs_are_kept(words):
    _, ((_, text),) = html_text.read(''.join(f'<p>{word}</p><div>{word}<b>{word}</b></div>' for word in words))
    assert text.split() == [part for word in words for part in (word, word + word)]
