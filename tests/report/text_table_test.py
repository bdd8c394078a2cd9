from atlas_jax.report import text_table


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_ends():
    assert text_table.aligned([('a', 'bc', 'd'), ('long', '', '')]) == ['a     bc  d', 'long']
    assert text_table.aligned([]) == []
