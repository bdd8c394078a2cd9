"""Hooks of mkdocs: what lies outside docs/ becomes a page, links lead to pages of the site, lists are indented as Python's Markdown wants.

The files stay as they are read on GitHub; only the site's copy is changed.
"""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

# Files and folders of the repository, and their pages.
PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md', 'notebook.ipynb': 'notebook.md',
         'gin_configs': 'gin-files.md'}
_LINK = re.compile(r'(?<=\]\()(?!https?:|#)([^)#\s]+)')
_FILE_NAME = re.compile(r'\[((?:docs/)?[\w-]+\.(?:md|ipynb))\]\((?=([\w-]+\.md))')
_ITEM = re.compile(r'^( *)((?:[-*]|\d+\.) +)(.*)$')
_HEADER = re.compile(r'<th\b[^>]*>(.*?)</th>', re.DOTALL)
_CODE = re.compile(r'<code>.*?</code>', re.DOTALL)
_CELL = re.compile(r'<t([dh])\b.*?</t\1>', re.DOTALL)
_OPTION = re.compile(r'(?<![^\s>(])(--[\w.]+)')
_SIGN = re.compile(r'(?<=[A-Za-z)][_./=,|])(?=[\w(])(?![^<]*>)')
_FENCE = re.compile(r'^ *```')


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages made of files outside docs/, and the notebook's."""
    from mkdocs.structure.files import File

    docs = pathlib.Path(config.docs_dir)
    root = docs.parent
    made = {PAGES[name]: (root / name).read_text(encoding='utf-8') for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')}
    made['notebook.md'] = notebook_page((docs / 'notebook.ipynb').read_text(encoding='utf-8'))
    made['gin-files.md'] = gin_page(root / 'gin_configs')
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    # Its page stands for it.
    files.remove(files.get_file_from_path('notebook.ipynb'))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Returns a page's text for the site."""
    return indented(unescaped(named(linked(markdown), titles_of(config.nav))))


def on_page_content(html: str, **_: Any) -> str:
    """Returns a page's HTML for the site."""
    return breakable(labelled(html))


def breakable(html: str) -> str:
    """Marks where lines may break: not inside the name of an option, and in tables between the words of a name."""
    whole = _CODE.sub(lambda code: _OPTION.sub(r'<span class="option">\1</span>', code[0]), html)
    return _CELL.sub(lambda cell: _SIGN.sub('<wbr>', cell[0]), whole)


def labelled(html: str) -> str:
    """Says how many columns a table has, and which header a cell has: docs/site.css fits tables to the screen, wide ones as cards."""
    def table(match: re.Match[str]) -> str:
        headers = [re.sub(r'<[^>]+>', '', header).strip().replace('"', '&quot;') for header in _HEADER.findall(match[0])]
        columns = 'few' if len(headers) < 4 else 'several' if len(headers) < 7 else 'many'

        def row(found: re.Match[str]) -> str:
            labels = iter(headers)
            return re.sub(r'<td\b', lambda _: f'<td data-label="{next(labels)}"', found[0])

        return re.sub(r'<tr>.*?</tr>', row, match[0].replace('<table>', f'<table data-columns="{columns}">'), flags=re.DOTALL)

    return re.sub(r'<table>.*?</table>', table, html, flags=re.DOTALL)


def titles_of(nav: Any) -> dict[str, str]:
    """Returns the titles of a navigation's pages, by file."""
    if isinstance(nav, list):
        return {file: title for entry in nav for file, title in titles_of(entry).items()}
    (title, below), = nav.items()
    return {below: title} if isinstance(below, str) else titles_of(below)


def named(markdown: str, titles: dict[str, str]) -> str:
    """Calls the page of a link by its title where the repository has the name of its file."""
    def title(match: re.Match[str]) -> str:
        return f'[{titles.get(match[2], match[1])}]('

    return _FILE_NAME.sub(title, markdown)


def linked(markdown: str) -> str:
    """Leads links between files of the repository to pages of the site."""
    def page(match: re.Match[str]) -> str:
        target = match[1].removeprefix('../').removeprefix('docs/')
        return PAGES.get(target) or PAGES.get(target.split('/')[0]) or target

    return _LINK.sub(page, markdown)


def unescaped(markdown: str) -> str:
    """Takes the backslash from "\\|" in code inside tables: GitHub needs it, Python's Markdown would show it."""
    def plain(row: re.Match[str]) -> str:
        return re.sub(r'`[^`]+`', lambda code: code[0].replace('\\|', '|'), row[0])

    return re.sub(r'^ *\|.*$', plain, markdown, flags=re.MULTILINE)


def indented(markdown: str) -> str:
    """Indents what belongs to an entry of a list by 4 spaces a level, and puts an empty line before each list.

    GitHub takes the column of an entry's text for its indentation; Python's Markdown takes 4 spaces alone.
    """
    lines: list[str] = []
    columns: list[int] = []  # of the text of each entry that is open
    fenced = False
    for line in markdown.split('\n'):
        indent = len(line) - len(line.lstrip(' '))
        item = None if fenced else _ITEM.match(line)
        if line.strip() and not fenced:
            # What begins left of an entry's text ends it, but for a paragraph that goes on.
            while columns and indent < columns[-1] and (item or not lines[-1].strip()):
                columns.pop()
        if item:
            if not columns and lines and lines[-1].strip() and not _ITEM.match(lines[-1]) and not lines[-1].startswith(' '):
                lines.append('')
            lines.append(f'{"    " * len(columns)}{item[2].strip()} {item[3]}')
            columns.append(indent + len(item[2]))
        else:
            inside = columns[-1] if columns else 0
            lines.append(f'{"    " * len(columns)}{line[min(indent, inside):]}' if line.strip() else '')
        if _FENCE.match(line):
            fenced = not fenced
    return '\n'.join(lines)


def notebook_page(notebook: str) -> str:
    """Returns a notebook as Markdown: its text, its code, and what the code printed if it was run before."""
    parts = []
    for cell in json.loads(notebook)['cells']:
        text = ''.join(cell['source']).strip()
        if cell['cell_type'] == 'markdown':
            parts.append(text)
            continue
        parts.append(f'```python\n{text}\n```')
        printed = ''.join(_printed(cell['outputs'])).strip()
        if printed:
            parts.append(f'```text\n{printed}\n```')
    return '\n\n'.join(parts) + '\n'


def _printed(outputs: Iterable[dict[str, Any]]) -> Iterable[str]:
    for output in outputs:
        # Progress bars and warnings go to stderr.
        if output['output_type'] == 'stream' and output['name'] == 'stdout':
            yield ''.join(output['text'])
        elif 'data' in output:
            yield ''.join(output['data'].get('text/plain', ''))


def gin_page(folder: pathlib.Path) -> str:
    """Returns one page with every gin file that is shipped."""
    parts = ['# Gin files\n\nThe files of `gin_configs/`, installed with the package: `models/` has sizes, `runs/` what is done. The '
             'header of each says what must be set. [gin.md](gin.md) has every option that they can set.']
    for kind in ('models', 'runs'):
        parts.append(f'## {kind}')
        for path in sorted((folder / kind).glob('*.gin')):
            parts.append(f'### {kind}/{path.name}\n\n```python\n{path.read_text(encoding="utf-8").strip()}\n```')
    return '\n\n'.join(parts) + '\n'
