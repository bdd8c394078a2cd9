"""Near-duplicates: equal to an exact count and to datasketch's MinHash; equal texts, and thresholds."""

import random
import sys

import datasketch
import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import duplicates

WORDS = 'radium was found by curie in paris before the war and after it many people wrote books about the glowing metal'.split()


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts, some of which are copies of earlier ones with one or two words changed."""
    generator, found = random.Random(seed), []
    while len(found) < count:
        words = generator.choices(WORDS, k=generator.randint(8, 40))
        if found and generator.random() < .4:
            words = generator.choice(found).split()
            for _ in range(generator.randint(0, 2)):
                words[generator.randrange(len(words))] = generator.choice(WORDS)
        found.append(' '.join(words))
    return found


def expected(given, threshold) -> set[tuple[int, int]]:
    """Returns all pairs by an exact count, with only the first of equal texts."""
    runs = [duplicates.runs_of(text) for text in given]
    return {(one, other) for one in range(len(given)) for other in range(one)
            if given.index(given[other]) == other and duplicates.similarity(runs[one], runs[other]) >= threshold}


def found_in(given, threshold) -> set[tuple[int, int]]:
    collection = duplicates.NearDuplicates(threshold)
    added = collection.add(given[:7]) + collection.add(given[7:])  # in batches of different sizes
    return {(one, other) for one, near in enumerate(added) for other in near}


@pytest.mark.parametrize('threshold', [.5, .8, .95])
def test_nearly_all_pairs_are_found_and_no_others(threshold):
    given = texts(150)
    found, exact = found_in(given, threshold), expected(given, threshold)
    assert len(exact) > 20 and found <= exact and len(found) >= .97 * len(exact)


def test_datasketch_finds_the_same():
    """Returns the pairs of another implementation of MinHash on the same runs, confirmed by the exact count."""
    given = texts(150, seed=1)
    index, theirs = datasketch.MinHashLSH(params=(32, 8), num_perm=256), set()
    for number, text in enumerate(given):
        sketch, runs = datasketch.MinHash(256), duplicates.runs_of(text)
        sketch.update_batch([run.encode() for run in runs])
        theirs |= {(number, other) for other in index.query(sketch)
                   if duplicates.similarity(runs, duplicates.runs_of(given[other])) >= .8}
        if given.index(text) == number:
            index.insert(number, sketch)
    ours = found_in(given, .8)
    assert len(ours) > 20 and len(ours ^ theirs) <= .03 * len(ours)


def test_only_the_first_of_a_chain_stays():
    """b is near a, c is near b but not near a: if b is removed, c may stay."""
    chain = [f'the {metal} metal that was found by madame curie and her husband in {city} before the first war'
             for metal, city in (('glowing', 'paris'), ('glowing', 'prague'), ('golden', 'prague'))]
    assert [sorted(near) for near in duplicates.NearDuplicates(.8).add(chain)] == [[], [0], [1]]
    assert [sorted(near) for near in duplicates.NearDuplicates(.8).add(chain, first_only=True)] == [[], [0], []]


def test_similarities_and_equal_texts():
    collection = duplicates.NearDuplicates(.8)
    assert collection.add(['Who found radium?', 'What is a glowing metal?']) == [{}, {}]
    assert collection.add(['who found  RADIUM', 'Who found radium!', '']) == [{0: 1.0}, {0: 1.0}, {}]
    [near] = collection.add(['Who found radium in it?'])
    assert near == {}, 'the share of common runs is 13 of 19'
    assert collection.add(['', 'abc', 'abd', 'abc']) == [{4: 1.0}, {}, {}, {7: 1.0}], 'a short text is one run'


def test_runs_and_their_similarity():
    assert duplicates.runs_of('abcdefg') == {'abcde', 'bcdef', 'cdefg'} and duplicates.runs_of('abc') == {'abc'}
    assert duplicates.similarity(frozenset('abc'), frozenset('bcd')) == .5


def test_bands_miss_one_pair_of_a_hundred_at_most():
    assert [duplicates.bands(threshold) for threshold in (.3, .5, .8, .9, 1.0)] == [128, 128, 32, 32, 4]


@pytest.mark.parametrize('threshold', [.2, 1.1, -1.0, float('nan')])
def test_thresholds_that_mean_nothing(threshold):
    with pytest.raises(errors.ConfigError, match='must be between 0.3 and 1'):
        duplicates.NearDuplicates(threshold)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rensa', None)
    with pytest.raises(errors.ConfigError, match=r'pip install "atlas-jax\[data\]", or give --near 0'):
        duplicates.NearDuplicates(.8)
