"""The tables of a comparison."""

from atlas_jax.compare import report as compare_report
from atlas_jax.compare.differences import Difference

ROWS = [Difference('logits', 1e-5, 2e-6, 1e-5, 'batch 0 [0, 1, 2]'), Difference('generated', 3.0, 1.0, 0.0, 'batch 1 [0, 4]'),
        Difference('grads/reader/shared.weight', 1e-4, 1e-4, 5e-5, 'batch 0 [7, 1]')]
SIDE = {'step_seconds': 0.5, 'tokens_per_second': 1234.0, 'peak_bytes': 2**30, 'device': 'cpu', 'version': 'v 1', 'allocator': True}
FIGURES = {'agrees': False, 'against': 'torch', 'ours': SIDE, 'theirs': SIDE | {'step_seconds': 2.0, 'allocator': False},
           'ratio': {'step_seconds': 4.0, 'peak_bytes': 1.0}}


def test_tables_for_a_terminal():
    text = compare_report.as_text(ROWS, FIGURES, 'tuned', False)
    lines = text.splitlines()
    assert lines[1].startswith('logits') and ' ok ' in lines[1] and 'DIFFERS' in lines[2] and '3 tokens' in lines[2]
    assert 'THEY DIFFER' in text and '4.00 ×' in text and '1024 MiB' in text and 'allocator as it is' in text


def test_without_timing_there_is_one_table():
    figures = {'agrees': True, 'against': 'x.npz', 'ours': {'device': 'cpu'}}
    assert compare_report.as_text(ROWS[:1], figures, 'tuned', False).endswith('all agree')


def test_page_has_every_gradient(tmp_path):
    compare_report.write_page(tmp_path / 'page.html', ROWS, FIGURES, 'tuned', True)
    page = (tmp_path / 'page.html').read_text()
    assert 'grads/reader (1 parameters)' in page and 'grads/reader/shared.weight' in page and '<svg' in page and 'flush-denormal' in page
