"""Commands that are killed at any change of the disk: the folder stays whole, and the same command finishes the work."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterable

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import building
from atlas_jax.knowledge import verify
from atlas_jax.knowledge.index_with_store import Index
from tests.testing import crashes
from tests.testing.fake_store import FakeEmbedder
from tests.testing.fake_tokenizer import FakeTokenizer


class Model:
    """A model as an index knows it; it needs no parameters."""

    reader_tokenizer, retriever_tokenizer, text_max_tokens = FakeTokenizer('reader', 101), FakeTokenizer('retriever', 50), 128

    def embedder(self) -> FakeEmbedder:
        """Embeds by counting tokens."""
        return FakeEmbedder()


def passages(first: int, stop: int, text: str = 'text') -> list[Passage]:
    return [Passage(f'd{number}', f'title {number}', '', f'{text} of number {number}') for number in range(first, stop)]


def store(root: pathlib.Path, stop: int = 8) -> PassageStore:
    return PassageStore.from_passages(passages(0, stop), root / 'store', reader_tokenizer=Model.reader_tokenizer,
                                      retriever_tokenizer=Model.retriever_tokenizer, progress=False)


def index(root: pathlib.Path) -> Index:
    return Index.build(PassageStore.open(root / 'store'), Model(), root / 'index', show_progress=False)


def add(root: pathlib.Path) -> None:
    # Two are new, one takes the place of another.
    Index.open(root / 'index').replace([*passages(8, 10), *passages(3, 4, 'news')], Model())


def nothing(root: pathlib.Path) -> None:
    root.mkdir()


def built(root: pathlib.Path) -> None:
    store(root)
    index(root)


def deleted(root: pathlib.Path) -> None:
    built(root)
    Index.open(root / 'index').delete(['d1', 'd6'])


# {command: (what there is before it, the command)}
COMMANDS = {
    'data passages': (nothing, store),
    'data passages, again': (store, lambda root: store(root, stop=5)),
    'index build': (store, index),
    'index build, again': (deleted, index),
    'index add': (deleted, add),
    'index add, compacted': (lambda root: (deleted(root), Index.open(root / 'index').compact()), add),
    'index delete': (deleted, lambda root: Index.open(root / 'index').delete(['d2', 'd5'])),
    'index compact': (deleted, lambda root: Index.open(root / 'index').compact()),
}


def act(name: str, root: pathlib.Path, part: int = 1) -> None:
    """Runs a command, or with part 0 what comes before it."""
    building.SHARD_ROWS, building.CHUNK_ROWS = 6, 2  # in this process, which ends with it
    COMMANDS[name][part](root)


def contents(root: pathlib.Path) -> dict[str, tuple]:
    """{docid: (its passage, its embedding)} of what a search can find, and the number of rows that are stored for it."""
    if not (root / 'index').exists():
        return {passage.docid: passage for passage in PassageStore.open(root / 'store')}
    found = Index.open(root / 'index')
    rows = np.flatnonzero(~found.index.deleted)
    embeddings = found.index.embeddings(rows).tolist()
    known = {found.store.docid(row): (found.store[row], tuple(numbers)) for row, numbers in zip(rows.tolist(), embeddings, strict=True)}
    assert len(known) == len(rows), 'a docid is found twice'
    return known | {'rows': (len(found.store), len(found.index))}


def problems(root: pathlib.Path) -> list[str]:
    """Returns the problems that `verify` names."""
    if not (root / 'index').exists():
        return [str(problem) for problem in PassageStore.problems(root / 'store')]
    return [str(problem) for problem in verify.verify(root / 'index')]


def rubbish(root: pathlib.Path) -> list[str]:
    """Files and folders that no manifest names."""
    found = [path for path in root.rglob('.*')]
    for manifest in root.rglob('manifest.json'):
        body = json.loads(manifest.read_text())
        named = {'manifest.json', 'lock', *(segment['name'] for segment in body.get('segments', []))}
        if 'shards' in body:
            shards = {entry['name'] for entry in body['shards']}
            found += [path for path in (manifest.parent / 'shards').iterdir() if path.name not in shards]
            named |= {'shards', body['store'], body['tombstones']}
        found += [path for path in manifest.parent.iterdir() if path.name not in named]
    return [str(path.relative_to(root)) for path in found]


def inspect(root: pathlib.Path, name: str, was_committed: bool) -> tuple[list[str], dict]:
    """Returns all that is wrong after a kill and after the command has run again, and the rows that a search finds then."""
    try:
        wrong = [f'verify: {problem}' for problem in problems(root)]
    except errors.UserError as error:
        # A first build that did not end is no damage.
        fine = not was_committed and any(advice in str(error) for advice in ('run the same', 'no such folder; build', 'empty; build'))
        wrong = [] if fine else [f'verify: {error}']
    act(name, root)
    wrong += [f'verify after: {problem}' for problem in problems(root)]
    return wrong + [f'rubbish: {path}' for path in rubbish(root)], contents(root)


class Crashes:
    """A command, what there is before it and what there is after it."""

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder, self.name = folder, name
        assert crashes.run(act, name, folder / 'template', 0)[0] == 0
        shutil.copytree(folder / 'template', folder / 'wanted')
        assert crashes.run(act, name, folder / 'wanted')[0] == 0
        self.wanted = crashes.run(contents, folder / 'wanted')[1]

    def run(self, number: int, fault: str) -> list[str] | None:
        """Returns all that is wrong after a fault at this operation, and after the next try; None if the command ended before it."""
        root = self.folder / f'{fault}-{number}'
        shutil.copytree(self.folder / 'template', root)
        code, error = crashes.run(act, self.name, root, **{fault: number})
        if code == crashes.ENDED_BEFORE:
            return None
        assert fault == 'fail_at' or code == crashes.KILLED
        # A fault of the disk may be of no account, as where only rubbish was to be removed.
        wrong = [f'{error[0]}: {error[1]}'] if code == 1 and not is_one_line(error, root) else []
        manifest = root / ('index' if 'index' in self.name else 'store') / 'manifest.json'
        code, found = crashes.run(inspect, root, self.name, manifest.exists())
        shutil.rmtree(root)
        if code:
            return [*wrong, f'{found[0]}: {found[1]}']
        wrong += found[0]
        return wrong if found[1] == self.wanted else [*wrong, f'found: rows {found[1].get("rows")}, not {self.wanted.get("rows")}']

    def all(self, fault: str, numbers: Iterable[int]) -> tuple[int, list[str]]:
        """How many faults came, and all that was wrong."""
        count, wrong = 0, []
        for number in numbers:
            if (found := self.run(number, fault)) is None:
                break
            count, wrong = count + 1, wrong + [f'{number}: {each}' for each in found]
        return count, wrong


def is_one_line(error: tuple[str, str, str], root: pathlib.Path) -> bool:
    """Says whether an error is a user's, in one line that names a place below `root`."""
    return hasattr(errors, error[0]) and '\n' not in error[1] and str(root) in error[1] and 'Input/output error' in error[1]


def places(name: str) -> range:
    """Every ninth operation of a command, from another first one for each, or all of them with ATLAS_JAX_ALL_CRASHES=1: 800 processes."""
    return range(10**6) if os.environ.get('ATLAS_JAX_ALL_CRASHES') == '1' else range(len(name) % 9, 10**6, 9)


@pytest.mark.slow  # each of some 50 kills is two processes
@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_may_be_killed_anywhere(tmp_path, name):
    count, wrong = Crashes(tmp_path, name).all('kill_at', places(name))
    assert count >= 1 and not wrong, '\n'.join(wrong)


@pytest.mark.slow  # each of some 30 faults is two processes
@pytest.mark.parametrize('name', ['data passages', 'index build', 'index compact'])
def test_a_disk_may_fail_anywhere(tmp_path, name):
    count, wrong = Crashes(tmp_path, name).all('fail_at', places(name))
    assert count >= 1 and not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(('name', 'numbers'), [('data passages', (1, 5)), ('index add', (0, 24, 40)), ('index delete', (4, 9)),
                                               ('index compact', (30, 60))])
def test_a_command_may_be_killed(tmp_path, name, numbers):
    # Some of the places of the slow test above: at once, between the two commits of `add`, and before and after a commit.
    count, wrong = Crashes(tmp_path, name).all('kill_at', numbers)
    assert count == len(numbers) and not wrong, '\n'.join(wrong)


def test_a_disk_may_fail(tmp_path):
    count, wrong = Crashes(tmp_path, 'index compact').all('fail_at', (0, 10, 40))
    assert count == 3 and not wrong, '\n'.join(wrong)
