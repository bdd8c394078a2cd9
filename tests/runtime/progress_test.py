"""Progress bars."""

from atlas_jax.runtime import progress


def test_what_was_done_before_counts_and_does_not_speed_up_the_rate():
    with progress.bar(29, 'Embedding', ' passages') as bar:
        progress.skip(bar, 0)
        bar.update(3)
        progress.skip(bar, 20)
        assert bar.n == 23 and bar.format_dict['initial'] == 20


def test_a_bar_that_is_not_shown_is_silent(capfd):
    with progress.bar(None, 'Embedding', ' passages', show=False) as bar:
        bar.update(3)
        progress.skip(bar, 20)
    assert bar.disable and capfd.readouterr().err == ''
