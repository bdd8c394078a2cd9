"""Dumps of a small Wikipedia as the publisher writes them: one XML file, plain, as one bzip2 stream, or as a multistream dump."""

import bz2
import pathlib
from collections.abc import Sequence
from xml.sax import saxutils

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces>
      <namespace key="-2" case="first-letter">Media</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = '</mediawiki>\n'


def page(number: int, title: str, text: str, namespace: int = 0, redirect: str = '', model: str = 'wikitext') -> str:
    """Returns a page element."""
    to = f'    <redirect title="{redirect}" />\n' if redirect else ''
    return f"""  <page>
    <title>{saxutils.escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>
{to}    <revision>
      <id>{900 + number}</id>
      <contributor><username>A</username><id>5</id></contributor>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" xml:space="preserve">{saxutils.escape(text)}</text>
    </revision>
  </page>
"""


def write(path: pathlib.Path, pages: Sequence[str], pages_a_stream: int = 2) -> pathlib.Path:
    """Writes a dump in the form that its name tells: .xml, .xml.bz2, or -multistream.xml.bz2 with its index beside it."""
    whole = HEAD + ''.join(pages) + TAIL
    if path.suffix == '.xml':
        path.write_text(whole, encoding='utf-8')
    elif 'multistream' not in path.name:
        path.write_bytes(bz2.compress(whole.encode()))
    else:
        streams = [''.join(pages[start:start + pages_a_stream]) for start in range(0, len(pages), pages_a_stream)]
        path.write_bytes(b''.join(bz2.compress(stream.encode()) for stream in [HEAD, *streams, TAIL]))
        index = path.with_name(path.name.replace('.xml.bz2', '-index.txt.bz2'))
        index.write_bytes(bz2.compress(b'616:1:Radium\n'))
    return path
