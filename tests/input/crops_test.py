"""Crops: spans of their passage, of lengths within bounds, changed as asked, and the same for the same seed and position."""

import dataclasses

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.input import crops, pipeline
from atlas_jax.input.passage_tokens import PassageTokens
from tests.testing import word_tokenizers

TOKENIZER = word_tokenizers.bert()
PLAIN = crops.CropConfig(0.2, 0.6, chunk_tokens=40, augmentation='none')
ORDINARY = np.arange(100, 200)


def _passages(*lengths):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return PassageTokens(np.arange(starts[-1]).astype(np.uint16), starts, lambda number: f'file:{number + 1}')


def _crops(config=PLAIN, lengths=(30, 50, 41), limit=64):
    return crops.Crops(_passages(*lengths), config, TOKENIZER, ((2, 9), (3,)), ((2,), (3,)), limit)


def test_crops_are_independent_spans_within_bounds():
    generator, tokens = np.random.default_rng(0), np.arange(50)
    found = [crops.crop(tokens, PLAIN, generator) for _ in range(300)]
    for part in found:
        np.testing.assert_array_equal(part, np.arange(part[0], part[-1] + 1))
    lengths = {len(part) for part in found}
    assert min(lengths) == 10 and max(lengths) == 30
    assert {part[0] for part in found} >= {0, 1, 20} and max(part[-1] for part in found) == 49


@pytest.mark.parametrize('name', crops.AUGMENTATIONS[1:])
def test_augmentations_change_about_as_many_tokens_as_asked(name):
    config = dataclasses.replace(PLAIN, augmentation=name, augmentation_probability=0.3)
    tokens = np.arange(1000, 2000)
    found = crops.augment(tokens, config, np.random.default_rng(1), ORDINARY, mask_id=7)
    if name == 'delete':
        assert 650 < len(found) < 750 and np.all(np.diff(found) > 0)
        return
    changed = found != tokens
    assert len(found) == 1000 and 250 < changed.sum() < 350
    if name == 'shuffle':
        assert sorted(found) == tokens.tolist()
    else:
        assert np.all(found[changed] == 7) if name == 'mask' else np.all(np.isin(found[changed], ORDINARY))


def test_a_crop_never_loses_its_last_token():
    config = dataclasses.replace(PLAIN, augmentation='delete', augmentation_probability=0.99)
    assert all(len(crops.augment(np.arange(3), config, np.random.default_rng(seed), ORDINARY, None)) >= 1 for seed in range(50))


def test_rows_hold_two_crops_of_one_piece_with_what_stands_around():
    made = _crops()
    assert made.widths == (24 + 3, 24 + 2) and len(made) == 3
    for seed in range(50):
        row = made.draw(1, np.random.default_rng(seed))
        query = row.query_tokens[:row.query_lengths]
        passage = row.passage_tokens[0, :row.passage_lengths[0]]
        assert query[:2].tolist() == [2, 9] and query[-1] == 3 and passage[0] == 2 and passage[-1] == 3
        inside = [*query[2:-1], *passage[1:-1]]
        assert 30 <= min(inside) and max(inside) < 80 and max(inside) - min(inside) < 40
        assert not row.query_tokens[row.query_lengths:].any() and row.identities.tolist() == row.positives.tolist()
    queries, passages = made.sampled_lengths()
    assert queries.max() <= 27 and passages.max() <= 26 and len(queries) == 24


def test_a_passage_that_a_corpus_has_twice_has_one_identity():
    passages = PassageTokens(np.tile(np.arange(30), 3).astype(np.uint16), np.array([0, 30, 60, 89]), str)
    made = crops.Crops(passages, PLAIN, TOKENIZER, ((2, 9), (3,)), ((2,), (3,)), 64)
    first, second, other = (int(made.draw(number, np.random.default_rng(number)).identities[0]) for number in range(3))
    assert first == second != other and min(first, other) >= 0  # -1 would be an empty slot


def test_batches_depend_on_seed_and_position_alone():
    config = dataclasses.replace(PLAIN, augmentation='replace')
    batches = pipeline.contrastive_batches(_crops(config), 2, seed=5)
    first = [next(batches) for _ in range(3)]
    position = batches.get_state()
    after = [next(batches) for _ in range(4)]
    again = pipeline.contrastive_batches(_crops(config), 2, seed=5, ahead=2)
    again.set_state(position)
    for expected, found in zip(after, [next(again) for _ in range(4)], strict=True):
        np.testing.assert_array_equal(expected.query_tokens, found.query_tokens)
        np.testing.assert_array_equal(expected.passage_tokens, found.passage_tokens)
    # A process that makes one row of each batch makes the same one.
    part = next(pipeline.contrastive_batches(_crops(config), 2, seed=5, rows=[1]))
    np.testing.assert_array_equal(part.query_tokens[0], first[0].query_tokens[1])
    same = [batch for batch in first if batch.example_ids.tolist() == after[0].example_ids.tolist()]
    assert not any(np.array_equal(batch.query_tokens, after[0].query_tokens) for batch in same)  # every epoch has other crops


def test_what_cannot_be_cropped_is_refused():
    with pytest.raises(errors.InputFileError, match='file:2: 1 passages have fewer than the 2 tokens'):
        _crops(lengths=(30, 1, 5))
    with pytest.raises(errors.ConfigError, match='with the ids around it 27; the retriever takes 20'):
        _crops(limit=20)
    bare = word_tokenizers.bert()
    bare.mask_id = None
    with pytest.raises(errors.ConfigError, match=r'no \[MASK\]'):
        crops.Crops(_passages(30), dataclasses.replace(PLAIN, augmentation='mask'), bare, ((), ()), ((), ()), 64)


@pytest.mark.parametrize(('options', 'message'), [({'ratio_min': 0.0}, 'ratio_min is 0'), ({'ratio_max': 1.5}, 'ratio_max 1.5'),
                                                  ({'augmentation': 'swap'}, 'choose one of none, delete'),
                                                  ({'augmentation_probability': 1.0}, 'below 1'), ({'min_crop_tokens': 0}, '1 to chunk')])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(errors.ConfigError, match=message):
        crops.CropConfig(**options)
