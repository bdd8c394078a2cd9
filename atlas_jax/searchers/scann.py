"""ScaNN on the host (Guo et al. 2020): a tree of partitions, anisotropic hashing and rescoring.
Saved beside the index.
"""

import dataclasses
import math
import os
import pathlib
import re
from typing import Annotated, Any

import numpy as np

from atlas_jax import errors
from atlas_jax.io import schema
from atlas_jax.searchers import host_searcher
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved

FOLDER = 'scann'
# ScaNN's guide (scann/docs/algorithms.md): brute force below 20,000 rows, hashing without a tree
# below 100,000 rows, about sqrt(rows) leaves.
_BRUTE_FORCE_ROWS, _TREE_ROWS = 20_000, 100_000
# Measured on clustered vectors as recall@20 at equal speed (docs/search.md): 2 sqrt(rows) leaves
# are better than 1 and 4 times sqrt(rows). Searching 1.3 sqrt(leaves) of them gives .96 on 100,000
# and on 1,000,000 rows.
_LEAVES = 2.0
_LEAVES_SEARCHED = 1.3
# Puts every row into two leaves (Sun et al. 2023): half the leaves give the same recall.
_SOAR = {'soar_lambda': 1.5, 'overretrieve_factor': 2.0}
# Hashes the principal components that hold this share of the variance: 1.3 to 1.5 times the speed
# at equal recall. If that takes more than _WHOLE of the dimensions, all of them are hashed. Only
# with a tree: without one ScaNN refuses to project.
_HASHED_SHARE, _WHOLE = 0.93, 0.99
_REORDER = 15  # candidates rescored, times top_k; never fewer than _LEAST_REORDER
_LEAST_REORDER = 300
_TRAINING_ROWS_A_LEAF = 125  # docs/search.md: 40 lose .05 of recall
_TRAINING_ROWS = 100_000  # for hashing
_LEAST_NORM = 1e-15  # keeps the zero vector at zero
_ASSETS_FILE = 'scann_assets.pbtxt'
# ScaNN's list of a saved searcher's files, in the form that ScaNN writes. No name begins with a dot
# or holds a slash.
_ASSETS = re.compile(r'(assets \{\n  asset_type: [A-Z0-9_]+\n  asset_path: '
                     r'"[a-z0-9_]+\.[a-z]+"\n\}\n)+')
_PARAMETERS = schema.ObjectOf({
    'leaves': schema.Integer(), 'leaves_searched': schema.Integer(), 'hashing': schema.Boolean(),
    'reorder': schema.Integer()})


@dataclasses.dataclass(frozen=True)
class SavedScann(host_searcher.SavedFiles):
    """The content of searcher.json for ScaNN. `cosine` and `parameters` are those of Scann."""

    cosine: bool
    parameters: Annotated[dict[str, Any], _PARAMETERS]


KIND = host_searcher.saved_kind(SavedScann, 'a ScaNN searcher')


class Scann:
    """A SavedSearcher by embeddings.

    valid       [rows] bool, False for deleted rows
    cosine      True if rows and queries are normalised
    parameters  result of `parameters_for`
    """

    needs_embeddings = True

    def __init__(self, searcher: Any, valid: np.ndarray, cosine: bool, parameters: dict[str, Any]):
        self._searcher, self.valid, self.cosine, self.parameters = searcher, np.asarray(
            valid), cosine, parameters

    def save(self, folder: pathlib.Path, digest: str) -> None:
        """Writes the searcher of the index version `digest`, whole or not at all.

        Raises DiskFullError.
        """
        # relative_path: the folder can be moved afterwards.
        host_searcher.write_saved(
            folder, KIND, lambda place: self._searcher.serialize(str(place), relative_path=True),
            digest=digest, cosine=self.cosine, parameters=self.parameters)

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Returns the nearest rows; see HostSearcher. Fetches more rows in place of deleted and
        excluded ones.
        """
        assert queries.embeddings is not None  # needs_embeddings
        embeddings = _normalized(queries.embeddings) if self.cosine else np.asarray(
            queries.embeddings, np.float32)
        if not len(embeddings):
            return host_searcher.nothing(top_k)
        return host_searcher.fetch_until_enough(lambda n: self._fetch(embeddings, n),
                                                len(self.valid), self.valid, top_k, excluded)

    def _fetch(self, embeddings: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best `number` of all rows for embeddings [batch, dim]: scores and rows,
        [batch, number] each.
        """
        options: dict[str, int] = {}
        if self.parameters['reorder']:
            options['pre_reorder_num_neighbors'] = max(_REORDER * number, _LEAST_REORDER)
        if self.parameters['leaves']:
            # Leaves for twice the rows fetched, since leaves differ in size: a long list would
            # otherwise have empty places.
            rows_in_leaf = len(self.valid) / self.parameters['leaves']
            options['leaves_to_search'] = min(
                self.parameters['leaves'],
                max(self.parameters['leaves_searched'], math.ceil(2 * number / rows_in_leaf)))
        ids, scores = self._searcher.search_batched_parallel(embeddings, final_num_neighbors=number,
                                                             **options)
        is_empty = ~np.isfinite(scores) | (ids >= len(self.valid))  # the leaves held fewer rows
        return np.where(is_empty, -np.inf, scores), np.where(is_empty, 0, ids).astype(np.int64)


def parameters_for(rows: int) -> dict[str, Any]:
    """Returns ScaNN's parameters for an index of `rows` rows: leaves and leaves_searched (0 without
    a tree), hashing, reorder.
    """
    leaves = round(_LEAVES * math.sqrt(rows)) if rows >= _TREE_ROWS else 0
    hashing = rows >= _BRUTE_FORCE_ROWS
    return {
        'leaves': leaves, 'leaves_searched': round(_LEAVES_SEARCHED * math.sqrt(leaves)),
        'hashing': hashing, 'reorder': _LEAST_REORDER if hashing else 0}


def build(embeddings: np.ndarray, valid: np.ndarray, metric: str = 'max_inner_product') -> Scann:
    """Builds a searcher: trains the tree and the hashing, and adds the rows.

    Args:
      embeddings: [rows, dim] float32.
      valid: [rows] bool, False for deleted rows.
      metric: max_inner_product or cosine.

    Raises:
      ConfigError: scann is not installed, or there are no rows.
    """
    if len(embeddings) == 0:
        raise errors.ConfigError('ScaNN needs at least one passage, and the index has none; build '
                                 'the index first')
    scann, parameters, cosine = _package(), parameters_for(len(embeddings)), metric == 'cosine'
    rows = _normalized(embeddings) if cosine else np.ascontiguousarray(embeddings, np.float32)
    builder = scann.builder(rows, min(10, len(rows)), 'dot_product')
    # The cosine is the inner product of normalised rows, so both metrics use the same distance.
    sample = min(len(rows), _TRAINING_ROWS)
    if parameters['leaves']:
        builder = builder.pca(pca_significance_threshold=_HASHED_SHARE,
                              pca_truncation_threshold=_WHOLE)
        builder = builder.tree(
            num_leaves=parameters['leaves'], num_leaves_to_search=parameters['leaves_searched'],
            training_sample_size=min(len(rows),
                                     _TRAINING_ROWS_A_LEAF * parameters['leaves']), **_SOAR)
    if parameters['hashing']:
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2,
                                   training_sample_size=sample).reorder(parameters['reorder'])
    else:
        builder = builder.score_brute_force()
    return Scann(builder.build(), valid, cosine, parameters)


def open_saved(folder: pathlib.Path, digest: str, valid: np.ndarray,
               metric: str = 'max_inner_product') -> Scann | None:
    """Opens a saved searcher; None if there is none for this index version and metric, or it is
    damaged. `valid` is [rows] bool.

    Raises:
      ConfigError: scann is not installed.
    """
    cosine = metric == 'cosine'
    saved = host_searcher.read_saved(folder, KIND, digest=digest, cosine=cosine)
    if saved is None or not _is_as_written(folder):
        return None
    return Scann(_package().load_searcher(str(folder)), valid, cosine, saved.parameters)


def _is_as_written(folder: pathlib.Path) -> bool:
    """Returns whether the folder holds only files that ScaNN writes for our indexes.

    ScaNN would unpickle a file of docids, which our indexes do not have, and open any file that its
    list names.
    """
    try:
        names = re.findall(r'"(.*?)"', match[0]) if (match := _ASSETS.fullmatch(
            (folder / _ASSETS_FILE).read_text('utf-8'))) else None
    except (OSError, ValueError):  # ValueError: not UTF-8
        return False
    return names is not None and set(os.listdir(folder)) <= {
        host_searcher.SAVED_FILE, _ASSETS_FILE, 'scann_config.pb', *names}


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors [n, dim] to length 1, float32."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST_NORM)


def _package() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise errors.ConfigError('the searcher "scann" needs the package scann (Linux only): pip '
                                 'install scann; or choose searcher '
                                 f'"exact" ({error})') from error
    return scann_ops_pybind
