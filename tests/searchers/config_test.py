"""The options of search."""

import pytest

from atlas_jax import errors
from atlas_jax.searchers import config


@pytest.mark.parametrize('wrong', [{'searcher': 'exakt'}, {'metric': 'l2'}, {'overfetch': 0}, {'lexical_weight': 1.5}, {'recall_target': 0},
                                   {'dense_searcher': 'bm25'}, {'rerank_candidates': -1}, {'tokens': 'disk'}, {'overlap': True}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(errors.ConfigError, match=f'SearchConfig.{next(iter(wrong))} is'):
        config.SearchConfig(**wrong)


def test_a_name_stands_for_its_options():
    assert config.as_search_config('int8') == config.SearchConfig(searcher='int8')
    assert config.as_search_config(None) == config.SearchConfig()
    given = config.SearchConfig('hybrid', dense_searcher='int8')
    assert config.SearchConfig('bm25', overlap=True) and config.SearchConfig(tokens='host', overlap=True)
    assert config.as_search_config(given) is given and given.on_host and given.scans_int8
    assert not config.as_search_config('bm25').scans_int8 and not config.as_search_config('approx').on_host
    with pytest.raises(errors.ConfigError, match='choose one of exact, approx, int8, codes, scann, bm25, hybrid'):
        config.as_search_config('faiss')
