"""Commands that are killed at any change of the disk: what is left is whole, and the same command ends the work."""

import json
import pathlib
import shutil

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import building
from atlas_jax.knowledge import verify
from atlas_jax.knowledge.index import Index
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
    """What `verify` says."""
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
    """What is wrong after a kill and after the command has run again, and what a search finds then."""
    try:
        wrong = [f'verify: {problem}' for problem in problems(root)]
    except errors.UserError as error:
        # A first build that did not end is no damage.
        fine = not was_committed and any(advice in str(error) for advice in ('run the same', 'no such folder; build', 'empty; build'))
        wrong = [] if fine else [f'verify: {error}']
    act(name, root)
    wrong += [f'verify after: {problem}' for problem in problems(root)]
    return wrong + [f'rubbish: {path}' for path in rubbish(root)], contents(root)


def killed(folder: pathlib.Path, name: str, number: int) -> list[str] | None:
    """What is wrong after the command was killed at this change of the disk, and run again; None if it ended before."""
    template = folder / 'template'
    if not template.exists():
        assert crashes.run(act, name, template, 0)[0] == 0
        shutil.copytree(template, folder / 'wanted')
        assert crashes.run(act, name, folder / 'wanted')[0] == 0
    wanted = crashes.run(contents, folder / 'wanted')[1]
    root = folder / f'killed-{number}'
    shutil.copytree(template, root)
    code, _ = crashes.run(act, name, root, kill_at=number)
    if code == 0:
        return None
    assert code == crashes.KILLED
    code, found = crashes.run(inspect, root, name, (root / ('index' if 'index' in name else 'store') / 'manifest.json').exists())
    if code:
        return [f'{found[0]}: {found[1]}']
    wrong, has = found
    return wrong if has == wanted else [*wrong, f'found: rows {has.get("rows")}, not {wanted.get("rows")}']
