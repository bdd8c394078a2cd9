"""Pages are well formed, escaped and self-contained; tables and answers show their data; all of it fits a phone."""

import html.parser
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from atlas_jax.apps.demo import demo_report
from atlas_jax.apps.project import project_report
from atlas_jax.apps.project.project_folder import Project, ProjectSettings
from atlas_jax.evaluation import comparison_page, figures, overview, run_page
from atlas_jax.evaluation.evaluate import Evaluation
from atlas_jax.report import html as report_html
from tests.testing import browser as browsers
from tests.testing import records

_VOID = {'meta', 'br', 'link', 'img', 'hr', 'input'}


class _Checker(html.parser.HTMLParser):
    """Keeps a stack of open elements and fails on one that is closed out of turn."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ''

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _page(parts, tmp_path, title=''):
    report_html.write_page(tmp_path / 'report.html', title, *parts)
    content = (tmp_path / 'report.html').read_text(encoding='utf-8')
    checker = _Checker()
    checker.feed(content)
    checker.close()
    assert not checker.open
    return content, checker


def _full_page(tmp_path):
    passage = ('France: <Government>', 'text & more', 0.7, 0.62)
    parts = [report_html.section(
        'A & B', report_html.paragraph('<script>alert(1)</script>'),
        report_html.table(['setting', 'exact match', 'n'], [['<i>', 0.25, 1234], ['b', math.nan, True]]),
        report_html.line_chart('loss "x" <y>', 'step', 'loss', {'reader & co': (range(5), [3, 2, math.nan, 1, 1]), 'b': ([0], [2.5])}),
        report_html.bar_chart('exact match', 'share', {'closed <book>': 0.1, 'none': math.inf, 'low': -0.2}, {'closed <book>': 0.03}),
        report_html.answer_card('Who <is> it?', ['Emmanuel MACRON'], {'f1 <1>': ('Emmanuel Macron', [passage])}),
        report_html.answer_card('And now?', 'nobody', {'': ('', [])}))]
    return _page(parts, tmp_path, 'Atlas <demo> & more')


def test_page_is_well_formed_escaped_and_self_contained(tmp_path):
    content, checker = _full_page(tmp_path)
    assert 'script' not in checker.seen and '<script>alert(1)</script>' in checker.text
    assert not re.search(r'(?:src|href|url)\s*[=(]', content)
    assert set(re.findall(r'https?://[^"\s]+', content)) == {'http://www.w3.org/2000/svg'}
    assert 'prefers-color-scheme: dark' in content and content.startswith('<!DOCTYPE html>')


def test_charts_are_xml_with_title_and_description_and_only_finite_numbers(tmp_path):
    content, _ = _full_page(tmp_path)
    charts = re.findall(r'<svg.*?</svg>', content, re.DOTALL)
    assert len(charts) == 4  # each wide and narrow
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert [child.tag.split('}')[1] for child in root[:2]] == ['title', 'desc'] and all(child.text for child in root[:2])
        for element in root.iter():
            assert not re.search(r'nan|inf', ' '.join(element.attrib.get(name, '') for name in ('d', 'x', 'y', 'width', 'cx', 'cy')))


def test_answers_are_judged_as_the_metric_judges_them(tmp_path):
    content, checker = _full_page(tmp_path)
    assert content.count('✓ right') == 1 and content.count('✗ expected') == 1
    assert '(no answer)' in checker.text and 'nobody' in checker.text and 'f1 <1>' in checker.text and 'width:62%' in content
    assert content.count('class="note"') == 1


def test_numbers_in_tables(tmp_path):
    content, _ = _full_page(tmp_path)
    assert '<td class="number">0.250</td>' in content and '<td class="number">1,234</td>' in content and '<td>True</td>' in content


def test_empty_report_and_empty_charts(tmp_path):
    charts = [report_html.line_chart('t', 'x', 'y', {}), report_html.line_chart('t', 'x', 'y', {'a': ([1], [math.nan])}),
              report_html.bar_chart('t', 'x', {})]
    assert _page(charts, tmp_path)[0].count('no data') == 12


def test_headings_without_anything_under_them_are_left_out(tmp_path):
    parts = [report_html.section('empty'), report_html.section(
        'full', report_html.section('empty part', level=3), report_html.section('full part', report_html.paragraph('text'), level=3),
        report_html.section('empty at the end', level=3))]
    assert re.findall(r'<h[23]>.*?</h[23]>', _page(parts, tmp_path)[0]) == ['<h2>full</h2>', '<h3>full part</h3>']


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match='2 cells, the header 1'):
        report_html.table(['a'], [['b', 'c']])
    with pytest.raises(ValueError, match='"a" has 2 x values and 1 y values'):
        report_html.line_chart('t', 'x', 'y', {'a': ([1, 2], [1])})


def _pages(folder):
    """A page of each kind, by name."""
    before, after = (records.results(scores * 8, confident=True) for scores in ([0, 1, 0, 0, 1], [1, 1, 0, 1, 1]))
    overview.write(folder, {'nq-before.jsonl': before}, overview.figures_of_files({'nq-before.jsonl': before}))
    names = ('results/natural-questions-before.jsonl', 'results/natural-questions-trained.jsonl')
    comparison_page.write(folder / 'comparison.html', names, before, after, figures.compared(before, after))
    (folder / 'run.html').write_text(run_page.page('few-shot', records.history(60), run_page.EvaluationPoint.from_rows(after), 3 << 30))
    (folder / 'results').mkdir()
    for name, rows in (('test', after), ('closed_book', records.results([0, 1] * 20, ranked=False, read=False))):
        (folder / 'results' / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    measured = {name: {'recall_at_1': .5, 'recall_at_5': .9, 'mrr': .8} for name in ('exact', 'bm25')}
    project = Project(folder, ProjectSettings(('documents/of-the-orchard.md',), 'q'), figures={
        'searcher': 'bm25', 'searchers': measured, 'seconds': {'passages and index': 3.5, 'training': 200.}})
    project_report.write(project).rename(folder / 'project.html')
    asked, answered = Evaluation(tuple(before)), Evaluation(tuple(after))
    findings = demo_report.Findings(asked, asked, answered, answered, (0.,) * 40, (1.,) * 40, [], [None] * 40, {
        'closed book': records.history(20, evaluates=False, joint=False), 'joint': records.history(20, evaluates=False)}, 3, '2014',
        {'models and texts': 12., 'joint training': 100.})
    demo_report.write(folder / 'demo.html', findings, findings.figures())
    return {path.stem: path for path in folder.glob('*.html')}


def test_every_page_fits_a_phone_and_can_be_read_by_everyone(tmp_path):
    pages = _pages(tmp_path)
    assert set(pages) == {'demo', 'run', 'evaluation', 'comparison', 'project'}
    with browsers.launched() as browser:
        for width, scheme in ((390, 'dark'), (1280, 'light')):
            page = browser.new_page(viewport={'width': width, 'height': 850}, color_scheme=scheme)
            requests = []
            page.on('request', lambda request, requests=requests: requests.append(request.url))
            for name, path in sorted(pages.items()):
                page.goto(path.as_uri())
                assert page.evaluate('document.documentElement.scrollWidth') <= width, name
                shown = page.locator('figure svg:visible')
                assert shown.count() == page.locator('figure').count() > 0, name
                # Scaled down, letters of 12 units would be too small to read.
                assert min(shown.evaluate_all('all => all.map(each => each.clientWidth / each.viewBox.baseVal.width)')) > .8, name
                assert browsers.violations(page) == [], name
                browsers.screenshot(page, f'report-{name}-{width}-{scheme}', tmp_path)
            assert len(requests) == len(pages)
            page.close()
