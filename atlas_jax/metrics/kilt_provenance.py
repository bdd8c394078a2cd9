"""KILT's scores (Petroni et al. 2021, arXiv 2009.02252): page-level R-precision and recall, and
answers that count only if their pages were retrieved.

Each output of a KILT example may have an evidence set: the pages that together support its answer.
`found` are the pages of the retrieved passages, best first. The definitions are those of KILT's
evaluation script; tests/metrics/kilt_provenance_test.py has cases worked out by hand.
"""

from collections.abc import Sequence

EvidenceSets = Sequence[Sequence[str]]


def page_of(docid: str) -> str:
    """Returns the page of a passage's docid: the part before "#", without the piece's number."""
    return docid.partition('#')[0]


def r_precision(found: Sequence[str], evidence: EvidenceSets) -> float:
    """Returns the share of an evidence set's R pages that are among the first R different pages;
    the best over the sets.
    """
    pages, best = list(dict.fromkeys(found)), 0.0
    for given in evidence:
        # '' is evidence without a page; it does not count in R.
        wanted = {page for page in given if page}
        if wanted:
            best = max(best, len(wanted.intersection(pages[:len(wanted)])) / len(wanted))
    return best


def recall_at(found: Sequence[str], evidence: EvidenceSets, top_k: int) -> float:
    """Returns the share of the distinct evidence sets that are complete within the first `top_k`
    places.

    A page outside all evidence sets takes a place. So does an evidence set, where its last page was
    retrieved; a set of several pages takes one place.
    """
    sets: list[set[str]] = []
    for given in evidence:
        if set(given) not in sets:
            sets.append(set(given))
    if not sets:
        return 0.0
    missing = [set(each) for each in sets]
    # True: a complete set; a number: an incomplete set; None: a page outside all sets
    ranked: list[bool | int | None] = []
    for page in dict.fromkeys(found):
        holders = [number for number, pages in enumerate(missing) if page in pages]
        for number in holders:
            # Compared by identity, since True == 1 and complete sets must keep their places.
            ranked = [each for each in ranked if each is True or each != number]
            missing[number].remove(page)
            ranked.append(True if not missing[number] else number)
        if not holders:
            ranked.append(None)
    return sum(each is True for each in ranked[:top_k]) / len(sets)


# metric of an answer -> metric that counts only if R-precision is 1
WITH_PAGES = {
    'accuracy': 'kilt_accuracy', 'exact_match': 'kilt_exact_match', 'f1': 'kilt_f1',
    'rouge_L': 'kilt_rouge_L'}
NAMES = ('r_precision', 'page_recall_at_5', *WITH_PAGES.values())


def scores(found: Sequence[str], evidence: EvidenceSets,
           of_answer: dict[str, float]) -> dict[str, float]:
    """Returns R-precision, recall@5, and KILT's metrics of the answer (`of_answer`): unchanged if
    R-precision is 1, else 0.
    """
    precision = r_precision(found, evidence)
    counted = {
        WITH_PAGES[name]: value if precision == 1 else 0.0
        for name, value in of_answer.items()
        if name in WITH_PAGES}
    return {'r_precision': precision, 'page_recall_at_5': recall_at(found, evidence, 5), **counted}
