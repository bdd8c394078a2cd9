"""Measures the conversion of a Wikipedia dump to passages and to a store, on a dump made of realistic markup.

    python benchmarks/wikipedia.py --json wikipedia.json

The dump is generated: articles with an infobox, links, templates, references, lists and a table, in the proportions of the English
Wikipedia (a third of the wikitext is references and templates), written as a multistream dump. Each part is its own process: the conversion
with one worker, then with one per processor, then the store, without token ids. The projection to the dump of December 2018 is arithmetic,
its bytes of XML divided by the measured rate; that dump was not run.
"""

import argparse
import bz2
import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any
from xml.sax import saxutils

import process_pairs

from atlas_jax.io import atomic
from atlas_jax.runtime import resources

ROOT = pathlib.Path(__file__).resolve().parents[1]
# enwiki-20181220-pages-articles: approximate bytes of XML. Some of it is pages other than articles, which cost less.
DUMP_BYTES = 70_000_000_000
_WORDS = ('the of and in to was is for as on with by that his from at it were he an are which this be had also not or has first their its'
          'one after new who they two her she been other when time during there into all may more school can years over only city some '
          'world would where up later most between university state south national war known united about then under film season').split()
_PAGES_A_STREAM = 100  # the size in published dumps


def main() -> None:
    """Measures all parts and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--articles', type=int, default=20_000, help='of the dump (default 20000)')
    parser.add_argument('--json', metavar='FILE', help='file to write the figures to')
    parser.add_argument('--part', nargs=3, metavar='X', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_part(*options.part)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        size = write_dump(work / 'wiki-multistream.xml.bz2', options.articles)
        one, all_cores = (_run('convert', work, workers) for workers in ('1', '0'))
        store = _run('store', work, '1')
    figures = figures_of(options.articles, size, one, all_cores, store)
    show(figures)
    if options.json:
        atomic.write_json(options.json, figures)


def figures_of(articles: int, size: int, one: dict[str, Any], all_cores: dict[str, Any], store: dict[str, Any]) -> dict[str, Any]:
    """Returns the speeds, and the projection, of a dump with this number of articles and bytes of XML."""
    figures: dict[str, Any] = {'machine': process_pairs.machine(), 'articles': articles, 'xml_bytes': size}
    for name, found in (('one_worker', one), ('all_processors', all_cores)):
        figures[name] = found | {'articles_per_second': articles / found['seconds'],
                                 'xml_megabytes_per_second': size / 1e6 / found['seconds'],
                                 'articles_per_core_second': articles / found['cpu_seconds'],
                                 'xml_megabytes_per_core_second': size / 1e6 / found['cpu_seconds']}
    figures['store'] = store | {'passages_per_second': store['rows'] / store['seconds'],
                                'passages_per_core_second': store['rows'] / store['cpu_seconds']}
    figures['projection_of_december_2018'] = {
        'said': 'arithmetic from the processor time of one worker; not run', 'xml_bytes': DUMP_BYTES,
        'core_hours': DUMP_BYTES / (size / one['cpu_seconds']) / 3600, 'passages_a_megabyte_here': one['rows'] / (size / 1e6)}
    return figures


def show(figures: dict[str, Any]) -> None:
    """Prints the figures."""
    for name in ('one_worker', 'all_processors'):
        found = figures[name]
        print(f'{name}: {found["articles_per_second"]:.0f} articles/s, {found["xml_megabytes_per_second"]:.2f} MB of XML/s; of processor '
              f'time {found["articles_per_core_second"]:.0f} and {found["xml_megabytes_per_core_second"]:.2f}; '
              f'{found["rows"]} passages, peak {found["peak_bytes"] / 1e6:.0f} MB a process')
    print(f'store: {figures["store"]["passages_per_second"]:.0f} passages/s, of processor time '
          f'{figures["store"]["passages_per_core_second"]:.0f}, peak {figures["store"]["peak_bytes"] / 1e6:.0f} MB')
    print(f'December 2018, by arithmetic: {figures["projection_of_december_2018"]["core_hours"]:.0f} core hours')


def article(number: int, draw: random.Random) -> str:
    """Returns the wikitext of an article: about twelve kilobytes, the mean of a dump."""
    def sentence() -> str:
        words = [draw.choice(_WORDS) for _ in range(draw.randint(9, 25))]
        words[2] = f'[[{words[2]} {words[3]}|{words[3]}]]'
        words[7] = f"''{words[7]}''"
        reference = (f'<ref name="r{draw.randrange(99)}">{{{{cite web|url=http://example.org/{number}|title={words[0]} {words[1]}'
                     f'|date=2018-01-0{draw.randint(1, 9)}|publisher=[[{words[4]}]]|accessdate=3 May 2018}}}}</ref>')
        return ' '.join(words).capitalize() + '.' + (reference if draw.random() < .4 else '')

    parts = [f'{{{{Infobox person\n| name = Article {number}\n| birth_date = {{{{birth date|19{draw.randint(10, 99)}|5|7}}}}\n'
             f'| known_for = {{{{plainlist|\n* [[{draw.choice(_WORDS)}]]\n* {draw.choice(_WORDS)}\n}}}}\n| image = a.jpg\n}}}}\n'
             f"'''Article {number}''' is {sentence()}\n"]
    for section in range(draw.randint(2, 9)):
        parts.append(f'== Section {section} of {draw.choice(_WORDS)} ==\n')
        parts += [' '.join(sentence() for _ in range(draw.randint(3, 8))) + '\n' for _ in range(draw.randint(1, 3))]
        if draw.random() < .3:
            parts += [f'* [[{draw.choice(_WORDS)} {entry}]], {sentence()}\n' for entry in range(6)]
        if draw.random() < .2:
            parts.append('{| class="wikitable"\n! a !! b\n' + '|-\n| x || {{y|1}}\n' * 9 + '|}\n')
    return ''.join([*parts, '== References ==\n{{reflist}}\n[[Category:People]]\n'])


def write_dump(path: pathlib.Path, articles: int) -> int:
    """Writes a multistream dump; returns the bytes of its XML."""
    draw, size = random.Random(0), 0
    with open(path, 'wb') as file:
        def put(text: str) -> None:
            nonlocal size
            size += len(text.encode())
            file.write(bz2.compress(text.encode()))

        put('<mediawiki>\n')
        for start in range(0, articles, _PAGES_A_STREAM):
            put(''.join(f'  <page>\n    <title>Article {number}</title>\n    <ns>0</ns>\n    <id>{number}</id>\n    <revision>\n'
                        f'      <text>{saxutils.escape(article(number, draw))}</text>\n    </revision>\n  </page>\n'
                        for number in range(start + 1, min(start + _PAGES_A_STREAM, articles) + 1)))
        put('</mediawiki>\n')
    return size


def _run(part: str, work: pathlib.Path, workers: str) -> dict[str, Any]:
    """Returns the figures of a part, run in its own process so that each has its own memory peak."""
    command = [sys.executable, __file__, '--part', part, work, workers]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def _part(part: str, work: str, workers: str) -> dict[str, Any]:
    folder = pathlib.Path(work)
    # Inside the function: a conversion worker imports this module again.
    if part == 'convert':
        from atlas_jax.apps.datasets import convert_dataset, known_datasets
        start = time.perf_counter()
        made = convert_dataset.convert(known_datasets.SOURCES['wikipedia'], [folder / 'wiki-multistream.xml.bz2'],
                                       folder / f'passages-{workers}', workers=int(workers) or None)
        figures: dict[str, Any] = {'rows': sum(made.rows.values())}
    else:
        from atlas_jax.corpus import documents, passages, store
        start = time.perf_counter()
        found = passages.split_passages(documents.read_documents(folder / 'passages-1'), None)
        figures = {'rows': len(store.PassageStore.from_passages(found, folder / 'store', progress=False))}
    seconds = time.perf_counter() - start
    # Processor time beside wall-clock time: other programs may run on the machine.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return figures | {'seconds': seconds, 'cpu_seconds': sum(each.ru_utime + each.ru_stime for each in used),
                      'peak_bytes': max(resources.peak_bytes(), used[1].ru_maxrss * 1024)}


if __name__ == '__main__':
    main()
