import dataclasses

from atlas_jax.corpus import documents
from atlas_jax.demo import edition_swap, factbook


def _question(country, field, answers, split='test', office=True):
    gold = (f'{country.lower()}/government/0',)
    return factbook.Question(f'Who is the {field} of {country}?', answers, country, field, split, gold, office)


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
    swap = edition_swap.swap_edition(DOCUMENTS, QUESTIONS, OLDER)
    assert [document.text for document in swap.documents] == ['President Bo OLD.', 'Al SAME']
    assert swap.removed == ('ghana/government/1',)


def test_questions_ask_for_holders_who_are_others():
    swap = edition_swap.swap_edition(DOCUMENTS, QUESTIONS, OLDER)
    assert [(question.field, question.answers[0], question.stale_answers) for question in swap.questions] == [
        ('chief of state', 'Bo OLD', ('Ann NEW', 'NEW')), ('head of government', 'Cy OTHER', ('Ann NEW', 'NEW'))]


def test_nothing_to_swap():
    other = [dataclasses.replace(question, split='train') for question in QUESTIONS]
    assert edition_swap.swap_edition(DOCUMENTS, other, OLDER) == edition_swap.EditionSwap((), (), ())


def test_the_two_editions(demo_packages):
    if demo_packages.factbook_2014 is None:
        return
    book, older = factbook.read(demo_packages.factbook), factbook.read(demo_packages.factbook_2014, 1000)
    swap = edition_swap.swap_edition(book.documents, book.questions, older)
    docids = {document.docid for document in swap.documents}
    assert len(swap.questions) >= 40 and all(docid in docids for question in swap.questions for docid in question.gold_docids)
