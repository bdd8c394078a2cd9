"""PDF and Word files made by hand, with the parts that a test names and no others."""

import pathlib
from collections.abc import Sequence

_FONT = b'<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>'


def pdf(objects: Sequence[bytes], trailer: bytes = b'') -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalog."""
    text, places = b'%PDF-1.4\n', []
    for number, body in enumerate(objects, start=1):
        places.append(len(text))
        text += b'%d 0 obj\n%s\nendobj\n' % (number, body)
    start = len(text)
    text += b'xref\n0 %d\n0000000000 65535 f \n' % (len(objects) + 1) + b''.join(b'%010d 00000 n \n' % place for place in places)
    return text + b'trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n' % (len(objects) + 1, trailer, start)


def stream(content: bytes, dictionary: bytes = b'') -> bytes:
    """An object with content."""
    return b'<< /Length %d %s >>\nstream\n%s\nendstream' % (len(content), dictionary, content)


def write_pdf(path: pathlib.Path, pages: Sequence[str]) -> None:
    """A PDF with a page for each text, whose lines stand below one another; a page of '' is a picture."""
    kids = b' '.join(b'%d 0 R' % (4 + 2 * number) for number in range(len(pages)))
    objects = [b'<< /Type /Catalog /Pages 2 0 R >>', b'<< /Type /Pages /Kids [%s] /Count %d >>' % (kids, len(pages)), _FONT]
    for number, text in enumerate(pages):
        shown = b' '.join(b'(%s) Tj 0 -14 Td' % line.encode() for line in text.splitlines())
        content = b'BT /F1 12 Tf 72 720 Td %s ET' % shown if text else b'0 0 100 100 re f'
        objects += [b'<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>'
                    % (5 + 2 * number), stream(content)]
    path.write_bytes(pdf(objects))


def write_docx(path: pathlib.Path, paragraphs: Sequence[tuple[str, str]], table: Sequence[Sequence[str]] = ()) -> None:
    """A Word file of (style, text), and a table at its end."""
    import docx
    document = docx.Document()
    document.core_properties.title = ''
    for style, text in paragraphs:
        document.add_paragraph(text, style=style)
    if table:
        made = document.add_table(len(table), len(table[0]))
        for row, texts in zip(made.rows, table, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
    document.save(str(path))
