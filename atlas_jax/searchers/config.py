"""The options of search: the searcher, and what happens to its candidates."""

import dataclasses

from atlas_jax import errors

IN_GRAPH = ('exact', 'approx', 'int8', 'codes')
ON_HOST = ('scann', 'bm25', 'hybrid')
TOKENS = ('device', 'host')
METRICS = ('max_inner_product', 'cosine')
RESCORES = ('device', 'host')
FUSIONS = ('reciprocal_rank', 'weighted')


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Options of search; docs/search.md says which to choose.

    Attributes:
      searcher: exact, approx, int8 and codes run inside the compiled step; scann, bm25 and hybrid on the host, between two compiled
        programs.
      metric: max_inner_product, or cosine, which normalises queries and passages for the search.
      overfetch: int8: candidates of the int8 scan that are scored again in float, as a multiple of the passages wanted.
      scan_share: int8: the scan compares the principal components of the embeddings that hold this share of their squared length, in
        steps of 128; 1 scans whole embeddings. An index that is int8 itself is always scanned whole.
      rescore: codes: where the candidates are scored exactly. device: inside the step, by embeddings that lie on the devices. host: between
        two programs, by embeddings read from the index's files, so that the devices hold the codes alone.
      rescore_candidates: codes: candidates of the scan that are scored exactly; more where more passages are wanted.
      recall_target: approx: least share of the true passages that it finds, on average (jax.lax.approx_max_k).
      filtering_overretrieve_ratio: passages fetched, as a multiple of those wanted, if an example's own passages are filtered out.
      rerank_candidates: passages that the current passage encoder embeds again and sorts, the best ones of the search; 0 re-ranks none.
        The original re-ranks 128.
      dense_searcher: hybrid: the searcher beside BM25.
      fusion: hybrid: what is added up. reciprocal_rank: 1 / (60 + rank) (Cormack et al. 2009). weighted: the scores, scaled to 0 to 1
        over an example's candidates. None: reciprocal_rank, unless `lexical_weight` is None too and `index compare --fit` fitted both.
      lexical_weight: hybrid: BM25's share of the sum, 0 to 1; None: the fitted one, else 0.5.
      fusion_candidates: hybrid: passages fetched from each of the two searchers.
      tokens: where the passages' token ids lie. device: beside the index, all of them. host: in the store; those of the passages that were
        found are read from it between the search and the step.
      overlap: training: the next batch is searched for, and its passages' tokens are read, while a step runs, by query embeddings that are
        one update old. A retriever that is not trained needs no option: its batches are made ahead, and are the same.

    Raises ConfigError for an unknown name or a number out of its range.
    """

    searcher: str = 'exact'
    metric: str = 'max_inner_product'
    overfetch: int = 8
    scan_share: float = 0.9
    rescore: str = 'device'
    rescore_candidates: int = 300
    recall_target: float = 0.95
    filtering_overretrieve_ratio: int = 2
    rerank_candidates: int = 0
    dense_searcher: str = 'exact'
    fusion: str | None = None
    lexical_weight: float | None = None
    fusion_candidates: int = 100
    tokens: str = 'device'
    overlap: bool = False

    def __post_init__(self):
        for name, valid in (('searcher', IN_GRAPH + ON_HOST), ('metric', METRICS), ('dense_searcher', (*IN_GRAPH, 'scann')),
                            ('fusion', (None, *FUSIONS)), ('rescore', RESCORES), ('tokens', TOKENS)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'SearchConfig.{name} is "{getattr(self, name)}"; choose one of {", ".join(filter(None, valid))}')
        for name, least in (('overfetch', 1), ('filtering_overretrieve_ratio', 1), ('rerank_candidates', 0), ('fusion_candidates', 1),
                            ('rescore_candidates', 1)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'SearchConfig.{name} is {getattr(self, name)}; it must be at least {least}')
        for name in ('recall_target', 'lexical_weight', 'scan_share'):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise errors.ConfigError(f'SearchConfig.{name} is {getattr(self, name)}; it must lie between 0 and 1')
        if self.recall_target == 0:
            raise errors.ConfigError('SearchConfig.recall_target is 0; it must be greater than 0')
        if self.overlap and not self.on_host and self.tokens == 'device':
            raise errors.ConfigError(f'SearchConfig.overlap is True, but with searcher "{self.searcher}" and tokens "device" the host has '
                                     'nothing to do between two steps; set tokens "host", or overlap False')

    @property
    def wants_fit(self) -> bool:
        """True if hybrid search is to weigh its two sides as they were fitted for the index."""
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


def of(search: 'SearchConfig | str | None') -> SearchConfig:
    """Returns a SearchConfig: the one given, one with the searcher of that name, or the default for None.

    Raises ConfigError for an unknown name.
    """
    if isinstance(search, SearchConfig):
        return search
    return SearchConfig() if search is None else SearchConfig(searcher=search)
