import dataclasses

import pytest

from atlas_jax.corpus import documents
from atlas_jax.demo import factbook, office_swap
from atlas_jax.metrics import answers as answer_metrics


def _question(country, field, answers, split='test'):
    gold = (f'{country.lower()}/government/0',)
    return factbook.Question(f'Who is the {field} of {country}?', answers, country, field, split, gold, office=True)


def _document(country, number, text):
    return documents.Document(docid=f'{country.lower()}/government/{number}', title=country, section='Government', text=text)


OLD = ('John Dramani MAHAMA', 'MAHAMA', 'President John Dramani MAHAMA')
NEW = ('Maia SANDU', 'SANDU', 'President Maia SANDU')
KING = ('FELIPE VI', 'King FELIPE VI')
PASSAGES = [
    _document('Ghana', 0, 'chief of state: President John Dramani MAHAMA (since 2025); head of government: President John Dramani MAHAMA.'),
    _document('Ghana', 1, "Background: John MAHAMA lost in 2016. MAHAMA's return came in 2025."),
    _document('Ghana', 2, 'Capital: Accra.'),
    _document('Moldova', 0, 'chief of state: President Maia SANDU (since 2020).'), _document('Spain', 0, 'King FELIPE VI')]
QUESTIONS = [_question('Ghana', 'chief of state', OLD), _question('Ghana', 'head of government', OLD),
             _question('Moldova', 'chief of state', NEW, 'train'), _question('Spain', 'chief of state', KING, 'train'),
             dataclasses.replace(_question('Ghana', 'capital', ('Accra',)), office=False)]


def test_every_mention_is_replaced_by_a_holder_with_the_same_title():
    changed, questions = office_swap.swap_office_holders(PASSAGES, QUESTIONS)
    assert [(passage.docid, passage.text) for passage in changed] == [
        ('ghana/government/0', 'chief of state: President Maia SANDU (since 2025); head of government: President Maia SANDU.'),
        ('ghana/government/1', "Background: Maia SANDU lost in 2016. SANDU's return came in 2025.")]
    assert [(question.field, question.answers, question.stale_answers) for question in questions] == [
        ('chief of state', NEW, OLD), ('head of government', NEW, OLD)]
    assert questions[0].row()['stale_answers'] == OLD and 'stale_answers' not in QUESTIONS[0].row()


@pytest.mark.parametrize('text', ['lyrics: MAHAMA Tsehaye', 'Background: Jomo MAHAMA ruled.', 'the Mahama family',
                                  'President Maia SANDU came.'])
def test_a_name_that_means_somebody_else_too_is_left_alone(text):
    assert office_swap.swap_office_holders([*PASSAGES, _document('Ghana', 3, text)], QUESTIONS) == ([], [])


def test_nothing_to_swap():
    assert office_swap.swap_office_holders([], []) == ([], [])
    assert office_swap.swap_office_holders(PASSAGES, QUESTIONS, split='dev') == ([], [])


def test_the_factbooks_test_countries(demo_packages):
    book = factbook.read(demo_packages.factbook)
    changed, questions = office_swap.swap_office_holders(book.documents, book.questions, seed=3)
    texts = {document.docid: document.text for document in book.documents} | {document.docid: document.text for document in changed}
    by_country = {}
    for docid, text in texts.items():
        by_country.setdefault(docid.split('/')[0], []).append(text)
    assert len(questions) >= 40 and {question.split for question in questions} == {'test'}
    for question in questions:
        assert any(answer_metrics.contains_answer(texts[docid], question.answers[:1]) for docid in question.gold_docids)
        country = question.gold_docids[0].split('/')[0]
        assert not any(answer_metrics.contains_answer(text, question.stale_answers) for text in by_country[country])
        assert not answer_metrics.exact_match(question.answers[0], question.stale_answers)
    before = {document.docid: document for document in book.documents}
    assert all(document.title == before[document.docid].title and document.text != before[document.docid].text for document in changed)
    assert office_swap.swap_office_holders(book.documents, book.questions, seed=3) == (changed, questions)
    assert office_swap.swap_office_holders(book.documents, book.questions, seed=4)[1] != questions
