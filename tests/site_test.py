"""The documentation site: pages of files outside docs/, links, lists, the notebook, and the check of a built site. .ci/run builds it."""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / '.ci' / f'{name}.py')
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


site = module('site')


@pytest.mark.parametrize(('written', 'shown'), [
    ('[a](docs/tasks.md)', '[a](tasks.md)'),
    ('[a](tasks.md#qa)', '[a](tasks.md#qa)'),
    ('[a](../README.md#more) and [b](CONTRIBUTING.md)', '[a](index.md#more) and [b](contributing.md)'),
    ('[a](../gin_configs/runs) [b](gin_configs)', '[a](gin-files.md) [b](gin-files.md)'),
    ('[a](https://docs/tasks.md) [b](#docs/x)', '[a](https://docs/tasks.md) [b](#docs/x)'),
    ('[a](docs/notebook.ipynb)', '[a](notebook.md)')])
def test_links_lead_to_pages_of_the_site(written, shown):
    assert site.linked(written) == shown


@pytest.mark.parametrize(('written', 'shown'), [
    ('Text:\n- a\n  goes on\n- b', 'Text:\n\n- a\n  goes on\n- b'),
    ('- a\n  - b\n    - c\n  - d\n- e', '- a\n    - b\n        - c\n    - d\n- e'),
    ('1. a\n\n   ```bash\n   run\n     it\n   ```\n\n   more\n2. b', '1. a\n\n    ```bash\n    run\n      it\n    ```\n\n    more\n2. b'),
    ('- a\n\nText\n\n    code', '- a\n\nText\n\n    code'),
    ('```\n- no list\n  - none\n```', '```\n- no list\n  - none\n```')])
def test_lists_are_indented_by_four(written, shown):
    found = site.indented(written)
    # A line that goes on without an empty one before it belongs to its paragraph, however it is indented.
    assert re.sub(r'^ +goes', '  goes', found, flags=re.MULTILINE) == shown


def test_pages_are_called_by_their_titles():
    titles = site.titles_of([{'Quickstart': 'index.md'}, {'Use it': [{'Tasks': 'tasks.md'}, {'More': [{'Changes': 'changelog.md'}]}]}])
    assert titles == {'index.md': 'Quickstart', 'tasks.md': 'Tasks', 'changelog.md': 'Changes'}
    written = '[docs/tasks.md](tasks.md#qa), [the tasks](tasks.md), [other.md](other.md)'
    assert site.named(written, titles) == '[Tasks](tasks.md#qa), [the tasks](tasks.md), [other.md](other.md)'


def test_code_in_tables_has_plain_bars():
    assert site.unescaped('| `int \\| None` | a \\| b |\n`x \\| y`') == '| `int | None` | a \\| b |\n`x \\| y`'


def test_cells_have_the_header_of_their_column_and_tables_say_how_wide_they_are():
    head, row = '<tr><th>a "b"</th><th style="text-align: right;"><code>c</code></th></tr>', '<tr><td>1</td><td style="">2</td></tr>'
    shown = site.labelled(f'<p><td></p><table>{head}{row}{row}</table>')
    labelled = '<tr><td data-label="a &quot;b&quot;">1</td><td data-label="c" style="">2</td></tr>'
    assert shown == f'<p><td></p><table data-columns="few">{head}{labelled * 2}</table>'
    assert [re.search(r'data-columns="(\w+)"', site.labelled(f'<table>{"<th>x</th>" * count}</table>'))[1] for count in (3, 4, 6, 7)] == [
        'few', 'several', 'several', 'many']


@pytest.mark.parametrize(('written', 'shown'), [
    ('<code>a --gin.B=c x--y</code> --e', '<code>a <span class="option">--gin.B</span>=c x--y</code> --e'),
    ('<td data-label="a_b"><code>runs/few_shot.gin</code> 1.5</td> a_b',
     '<td data-label="a_b"><code>runs/<wbr>few_<wbr>shot.<wbr>gin</code> 1.5</td> a_b'),
    ('<th>a.b</th>', '<th>a.<wbr>b</th>')])
def test_lines_break_between_words(written, shown):
    assert site.breakable(written) == shown


def test_a_notebook_is_text_code_and_what_was_printed():
    outputs = [{'output_type': 'stream', 'name': 'stdout', 'text': ['42\n']}, {'output_type': 'stream', 'name': 'stderr', 'text': ['50 %']},
               {'output_type': 'execute_result', 'data': {'text/plain': ['7']}}]
    cells = [{'cell_type': 'markdown', 'source': ['# Title\n', 'text']},
             {'cell_type': 'code', 'source': ['print(42)\n', '7'], 'outputs': outputs},
             {'cell_type': 'code', 'source': ['pass'], 'outputs': []}]
    assert site.notebook_page(json.dumps({'cells': cells})) == (
        '# Title\ntext\n\n```python\nprint(42)\n7\n```\n\n```text\n42\n7\n```\n\n```python\npass\n```\n')


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads((ROOT / 'docs' / 'notebook.ipynb').read_text(encoding='utf-8'))['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 5 and not any(cell['outputs'] or cell['execution_count'] for cell in code)
    # What it shows is held: a notebook that answers otherwise fails in .ci/run.
    assert sum('assert ' in ''.join(cell['source']) for cell in code) >= 3


def test_every_page_has_its_place():
    nav = (ROOT / '.ci' / 'mkdocs.yml').read_text(encoding='utf-8').split('\nnav:')[1]
    listed = re.findall(r'^ +- [^#\n]*?: (\S+\.md)$|^  - [^#\n]*?: (\S+\.md)$', nav, re.MULTILINE)
    names = [first or second for first, second in listed]
    pages = {page.name for page in (ROOT / 'docs').glob('*.md')} | set(site.PAGES.values())
    assert len(names) == len(set(names)) and set(names) == pages


def test_the_page_of_gin_files_has_all_of_them():
    page = site.gin_page(ROOT / 'gin_configs')
    assert all(f'### {path.parent.name}/{path.name}\n' in page for path in (ROOT / 'gin_configs').glob('*/*.gin'))


def built(folder: pathlib.Path, body: str) -> pathlib.Path:
    entries = [{'text': f'Rolling refresh {number}'} for number in range(301)]
    (folder / 'search').mkdir(parents=True)
    (folder / 'search' / 'search_index.js').write_text(f'var __index = {json.dumps({"docs": entries})}')
    (folder / 'iframe-worker.js').write_text('')
    (folder / 'a.html').write_text(f'<script src="iframe-worker.js"></script>{body}')
    return folder


def test_a_whole_site_passes(tmp_path):
    assert module('site_check').check(built(tmp_path, '<a href="https://arxiv.org">a</a>')) == '1 pages, 301 entries of search'


@pytest.mark.parametrize('body', ['<script src="https://unpkg.com/x"></script>', '<img alt="" src="//x.org/y.png">',
                                  '<link rel="stylesheet" href="https://fonts.googleapis.com/css?family=Roboto">'])
def test_what_a_page_would_fetch_is_found(tmp_path, body):
    with pytest.raises(AssertionError, match='a.html fetches'):
        module('site_check').check(built(tmp_path, body))
