"""Edits of the knowledge: another edition, other office holders."""

import dataclasses

import pytest

from atlas_jax.apps.demo import factbook, swaps
from atlas_jax.corpus import documents
from atlas_jax.metrics import answers as answer_metrics


def _question(country, field, answers, split='test', office=True):
    gold = (f'{country.lower()}/government/0',)
    return factbook.FactbookQuestion(f'Who is the {field} of {country}?', answers, country, field, split, gold, office)


def _document(country, section, number, text):
    return documents.Document(docid=f'{country.lower()}/{section.lower()}/{number}', title=country, section=section, text=text)


DOCUMENTS = [_document('Ghana', 'Government', 0, 'President Ann NEW.'), _document('Ghana', 'Government', 1, 'More.'),
             _document('Ghana', 'Geography', 0, 'Hills.'), _document('Spain', 'Government', 0, 'King FELIPE VI'),
             _document('Chad', 'Government', 0, 'President Al SAME')]
QUESTIONS = [_question('Ghana', 'chief of state', ('Ann NEW', 'NEW')), _question('Ghana', 'capital', ('Accra',), office=False),
             _question('Ghana', 'head of government', ('Ann NEW', 'NEW')), _question('Chad', 'chief of state', ('Al SAME', 'SAME')),
             _question('Spain', 'chief of state', ('FELIPE VI',), 'train')]
OLDER = factbook.Factbook(
    documents=(_document('Ghana', 'Government', 0, 'President Bo OLD.'), _document('Ghana', 'Geography', 0, 'Other hills.'),
               _document('Chad', 'Government', 0, 'Al SAME'), _document('Spain', 'Government', 0, 'King JUAN CARLOS'),
               _document('Peru', 'Government', 0, 'President X')),
    questions=(_question('Ghana', 'chief of state', ('Bo OLD', 'OLD')), _question('Ghana', 'head of government', ('Cy OTHER', 'OTHER')),
               _question('Ghana', 'capital', ('Kumasi',), office=False), _question('Chad', 'chief of state', ('Bea SAME', 'SAME')),
               _question('Spain', 'chief of state', ('JUAN CARLOS',), 'train'), _question('Peru', 'chief of state', ('X',))))


def test_government_sections_of_the_countries_that_both_have():
    swap = swaps.swap_edition(DOCUMENTS, QUESTIONS, OLDER)
    assert [document.text for document in swap.documents] == ['President Bo OLD.', 'Al SAME']
    assert swap.removed == ('ghana/government/1',)


def test_questions_ask_for_holders_who_are_others():
    swap = swaps.swap_edition(DOCUMENTS, QUESTIONS, OLDER)
    assert [(question.field, question.answers[0], question.stale_answers) for question in swap.questions] == [
        ('chief of state', 'Bo OLD', ('Ann NEW', 'NEW')), ('head of government', 'Cy OTHER', ('Ann NEW', 'NEW'))]


def test_no_edition_to_swap():
    other = [dataclasses.replace(question, split='train') for question in QUESTIONS]
    assert swaps.swap_edition(DOCUMENTS, other, OLDER) == swaps.EditionSwap((), (), ())


def test_the_two_editions(demo_packages):
    if demo_packages.factbook_2014 is None:
        return
    book, older = factbook.read(demo_packages.factbook), factbook.read(demo_packages.factbook_2014, 1000)
    swap = swaps.swap_edition(book.documents, book.questions, older)
    docids = {document.docid for document in swap.documents}
    assert len(swap.questions) >= 40 and all(docid in docids for question in swap.questions for docid in question.gold_docids)


def _holder_question(country, field, answers, split='test'):
    gold = (f'{country.lower()}/government/0',)
    return factbook.FactbookQuestion(f'Who is the {field} of {country}?', answers, country, field, split, gold, office=True)


def _passage(country, number, text):
    return documents.Document(docid=f'{country.lower()}/government/{number}', title=country, section='Government', text=text)


OLD = ('John Dramani MAHAMA', 'MAHAMA', 'President John Dramani MAHAMA')
NEW = ('Maia SANDU', 'SANDU', 'President Maia SANDU')
KING = ('FELIPE VI', 'King FELIPE VI')
PASSAGES = [
    _passage('Ghana', 0, 'chief of state: President John Dramani MAHAMA (since 2025); head of government: President John Dramani MAHAMA.'),
    _passage('Ghana', 1, "Background: John MAHAMA lost in 2016. MAHAMA's return came in 2025."),
    _passage('Ghana', 2, 'Capital: Accra.'),
    _passage('Moldova', 0, 'chief of state: President Maia SANDU (since 2020).'), _passage('Spain', 0, 'King FELIPE VI')]
HOLDER_QUESTIONS = [_holder_question('Ghana', 'chief of state', OLD), _holder_question('Ghana', 'head of government', OLD),
             _holder_question('Moldova', 'chief of state', NEW, 'train'), _holder_question('Spain', 'chief of state', KING, 'train'),
             dataclasses.replace(_holder_question('Ghana', 'capital', ('Accra',)), office=False)]


def test_every_mention_is_replaced_by_a_holder_with_the_same_title():
    changed, questions = swaps.swap_office_holders(PASSAGES, HOLDER_QUESTIONS)
    assert [(passage.docid, passage.text) for passage in changed] == [
        ('ghana/government/0', 'chief of state: President Maia SANDU (since 2025); head of government: President Maia SANDU.'),
        ('ghana/government/1', "Background: Maia SANDU lost in 2016. SANDU's return came in 2025.")]
    assert [(question.field, question.answers, question.stale_answers) for question in questions] == [
        ('chief of state', NEW, OLD), ('head of government', NEW, OLD)]
    assert questions[0].row()['stale_answers'] == OLD and 'stale_answers' not in HOLDER_QUESTIONS[0].row()


@pytest.mark.parametrize('text', ['lyrics: MAHAMA Tsehaye', 'Background: Jomo MAHAMA ruled.', 'the Mahama family',
                                  'President Maia SANDU came.'])
def test_a_name_that_means_somebody_else_too_is_left_alone(text):
    assert swaps.swap_office_holders([*PASSAGES, _passage('Ghana', 3, text)], HOLDER_QUESTIONS) == ([], [])


def test_no_holder_to_swap():
    assert swaps.swap_office_holders([], []) == ([], [])
    assert swaps.swap_office_holders(PASSAGES, HOLDER_QUESTIONS, split='dev') == ([], [])


def test_the_factbooks_test_countries(demo_packages):
    book = factbook.read(demo_packages.factbook)
    changed, questions = swaps.swap_office_holders(book.documents, book.questions, seed=3)
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
    assert swaps.swap_office_holders(book.documents, book.questions, seed=3) == (changed, questions)
    assert swaps.swap_office_holders(book.documents, book.questions, seed=4)[1] != questions
