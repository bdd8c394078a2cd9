"""The options of search: the searcher, and what happens to its candidates."""

import dataclasses

from atlas_jax import errors
from atlas_jax.options import CheckedOptions, option

IN_GRAPH = ('exact', 'approx', 'int8', 'codes')
ON_HOST = ('scann', 'bm25', 'hybrid')
TOKENS = ('device', 'host')
METRICS = ('max_inner_product', 'cosine')
RESCORES = ('device', 'host')
FUSIONS = ('reciprocal_rank', 'weighted')


@dataclasses.dataclass(frozen=True)
class SearchConfig(CheckedOptions):
    """Options of search; docs/search.md says which to choose.

    Attributes:
      searcher: exact, approx, int8 and codes run inside the compiled step; scann, bm25 and hybrid
        on the host, between two compiled programs.
      metric: max_inner_product, or cosine, which normalises queries and passages for the search.
      overfetch: int8: candidates of the int8 scan that are scored again in float, as a multiple of
        the requested passages.
      scan_share: int8: the scan compares the principal components that hold this share of the
        embeddings' squared length, in steps of 128; 1 scans whole embeddings. An int8 index is
        always scanned whole.
      rescore: codes: the place where candidates are scored exactly. device: inside the step, with
        embeddings on the devices. host: between two programs, with embeddings read from the
        index's files, so that the devices hold the codes alone.
      rescore_candidates: codes: candidates of the scan that are scored exactly; more if more
        passages are requested.
      recall_target: approx: least share of the true passages to find, on average
        (jax.lax.approx_max_k).
      filtering_overretrieve_ratio: passages to fetch, as a multiple of the requested ones, if an
        example's own passages are filtered out.
      rerank_candidates: number of best passages that the current passage encoder embeds again and
        sorts; 0 turns re-ranking off. The original re-ranks 128.
      dense_searcher: hybrid: the searcher beside BM25.
      fusion: hybrid: the quantity that is added up. reciprocal_rank: 1 / (60 + rank) (Cormack et
        al. 2009). weighted: the scores, scaled to 0 to 1 over an example's candidates. None:
        reciprocal_rank, unless `lexical_weight` is None too and `index compare --fit` fitted both.
      lexical_weight: hybrid: BM25's share of the sum, 0 to 1; None: the fitted one, else 0.5.
      fusion_candidates: hybrid: passages fetched from each of the two searchers.
      tokens: place of the passages' token ids. device: all of them, beside the index. host: in the
        store; between the search and the step, the ids of the found passages are read.
      overlap: training: searches for the next batch and reads its passages' tokens while a step
        runs, with query embeddings that are one update old. A frozen retriever needs no option: its
        batches are prepared ahead and stay the same.

    Raises ConfigError for an unknown name or a number out of its range.
    """

    searcher: str = option('exact', choices=IN_GRAPH + ON_HOST)
    metric: str = option('max_inner_product', choices=METRICS)
    overfetch: int = option(8, least=1)
    scan_share: float = option(0.9, least=0, most=1)
    rescore: str = option('device', choices=RESCORES)
    rescore_candidates: int = option(300, least=1)
    recall_target: float = option(0.95, above=0, most=1)
    filtering_overretrieve_ratio: int = option(2, least=1)
    rerank_candidates: int = option(0, least=0)
    dense_searcher: str = option('exact', choices=(*IN_GRAPH, 'scann'))
    fusion: str | None = option(None, choices=FUSIONS)
    lexical_weight: float | None = option(None, least=0, most=1)
    fusion_candidates: int = option(100, least=1)
    tokens: str = option('device', choices=TOKENS)
    overlap: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.overlap and not self.on_host and self.tokens == 'device':
            raise errors.ConfigError('SearchConfig.overlap is True, but with searcher '
                                     f'"{self.searcher}" and tokens "device" the host has '
                                     'nothing to do between two steps; set tokens "host", or '
                                     'overlap False')

    @property
    def wants_fit(self) -> bool:
        """True if hybrid search uses the weights that were fitted for the index."""
        return self.searcher == 'hybrid' and self.fusion is None and self.lexical_weight is None

    @property
    def on_host(self) -> bool:
        """True if the search runs between two compiled programs, False if inside one."""
        return self.searcher in ON_HOST or self.searcher == 'codes' and self.rescore == 'host'

    @property
    def scans_int8(self) -> bool:
        """True if an int8 copy of the embeddings is scanned."""
        return 'int8' in self._dense

    @property
    def scans_codes(self) -> bool:
        """True if codes of the embeddings are scanned."""
        return 'codes' in self._dense

    @property
    def _dense(self) -> tuple[str, str]:
        return self.searcher, self.dense_searcher if self.searcher == 'hybrid' else ''


def as_search_config(search: 'SearchConfig | str | None') -> SearchConfig:
    """Returns a SearchConfig: `search` itself, one with the searcher of that name, or the default
    for None.

    Raises ConfigError for an unknown name.
    """
    if isinstance(search, SearchConfig):
        return search
    return SearchConfig() if search is None else SearchConfig(searcher=search)
