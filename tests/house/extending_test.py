"""docs/extending.md: its diffs apply to the source and add what they say. CONTRIBUTING.md: its paths exist, and it lists every room."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.house.source import PACKAGE, TESTS

EXTENDING, CONTRIBUTING = TESTS.parent / 'docs' / 'extending.md', TESTS.parent / 'CONTRIBUTING.md'
# Uses what each diff adds; runs in a process of its own, with the patched copy of the package.
PROOF = """
import dataclasses, json, pathlib, sys
import jax, jax.numpy as jnp, numpy as np, safetensors.numpy
from atlas_jax import errors, partitioning, types
from atlas_jax.conversion import loading, weights
from atlas_jax.losses import attention_scores
from atlas_jax.models import t5
from atlas_jax.searchers import in_graph
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks import registry
assert errors.__file__.startswith(sys.argv[1]), errors.__file__

example = registry.make('title').example({'text': 'Radium was discovered in 1898.', 'title': 'Radium'}, 3)
assert (example.query, example.target) == ('title: Radium was discovered in 1898.', 'Radium')

embeddings = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
arrays = types.IndexArrays(embeddings=jnp.array(embeddings), valid=jnp.ones(7, bool), scales=None)
mesh = partitioning.make_mesh((1, 1, 1))
half, exact = (jax.jit(lambda queries: in_graph.search(arrays, queries, 2, mesh, SearchConfig(searcher=name)))(embeddings[:3])
               for name in ('half', 'exact'))
assert (half.passage_ids[:, 0] == exact.passage_ids[:, 0]).all() and np.allclose(half.scores, exact.scores, rtol=.02)

attention = np.arange(1., 13).reshape(1, 1, 3, 2, 2)
found = attention_scores.passage_scores(jnp.array(attention), 'last', jnp.array([[1., 1, 0]]), jnp.ones((1, 2, 2), bool))
assert np.allclose(found, [[(5 + 6) / 2, (7 + 8) / 2]]) and 'probslast' in attention_scores.STATISTICS

config = t5.T5Config(vocab_size=11, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=13, num_encoder_layers=1, num_decoder_layers=1)
parameters = {path: np.ones(shape, np.float32) for path, shape in weights.expected_shapes(config).items()}
folder = pathlib.Path(sys.argv[1], 'plain')
folder.mkdir()
safetensors.numpy.save_file(parameters, folder / 'reader.safetensors')
(folder / 'reader.json').write_text(json.dumps(dataclasses.asdict(config)))
assert loading.open_model(folder).kind == 'plain_reader'
opened = loading.open_model(folder).reader()
found, params = opened.config, opened.params()
assert found == config and params['token_embedder']['embedding'].shape == (11, 8)
"""


def hunks() -> list[tuple[str, list[str]]]:
    """(path, lines of one hunk) of every diff of the page; a new file is one hunk."""
    found, path = [], ''
    for block in re.findall(r'^```diff\n(.*?)^```', EXTENDING.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith('+++ b/'):
                path = line.removeprefix('+++ b/')
            elif line == '@@':
                found.append((path, []))
            elif not line.startswith('--- '):
                found[-1][1].append(line)
    return found


def patch(root: pathlib.Path, path: str, lines: list[str]) -> None:
    """Applies one hunk to a file below `root`; what it removes and keeps must stand there exactly once."""
    before = ''.join(line[1:] + '\n' for line in lines if line[:1] in '- ')
    after = ''.join(line[1:] + '\n' for line in lines if line[:1] in '+ ')
    file = root / path
    text = file.read_text(encoding='utf-8') if before else ''
    assert file.exists() == bool(before), f'docs/extending.md: {path}: a diff against {"a missing" if before else "an existing"} file'
    assert not before or text.count(before) == 1, f'docs/extending.md: {path} has these lines {text.count(before)} times:\n{before}'
    file.write_text(text.replace(before, after) if before else after, encoding='utf-8')


@pytest.fixture(scope='module')
def patched(tmp_path_factory) -> pathlib.Path:
    """A folder with the package after all diffs of the page."""
    root = tmp_path_factory.mktemp('patched')
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns('__pycache__'))
    for path, lines in hunks():
        patch(root, path, lines)
    return root


def test_the_diffs_add_what_they_say(patched):
    assert len({path for path, _ in hunks()}) == 8
    done = subprocess.run([sys.executable, '-c', PROOF, patched], capture_output=True, text=True, check=False, cwd=patched,
                          env=os.environ | {'PYTHONPATH': str(patched)})
    assert done.returncode == 0, done.stderr


def test_paths_exist():
    text = re.sub(r'```diff\n.*?^```', '', ''.join(page.read_text(encoding='utf-8') for page in (EXTENDING, CONTRIBUTING)),
                  flags=re.MULTILINE | re.DOTALL)
    paths = re.findall(r'`((?:atlas_jax|tests|docs|\.ci)/[^` ]*)`', text)
    assert len(paths) > 30 and not [path for path in paths if not (TESTS.parent / path).exists()]


def test_every_room_is_in_the_table():
    text = CONTRIBUTING.read_text(encoding='utf-8')
    rooms = [f'atlas_jax/{path.name}/' if path.is_dir() else f'atlas_jax/{path.name}' for path in PACKAGE.iterdir()
             if path.suffix == '.py' or path.is_dir()]
    assert not [room for room in rooms if f'`{room}`' not in text and '__' not in room and 'gin_configs' not in room]


def test_contributing_is_short():
    assert len(CONTRIBUTING.read_text(encoding='utf-8').splitlines()) <= 120
