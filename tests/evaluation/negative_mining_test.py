"""Hard negatives are no positives and no answers; fine-tuning reads the files."""

import dataclasses
import json

import pytest

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.evaluation import negative_mining
from atlas_jax.input import question_passages
from atlas_jax.tasks import qa
from tests.testing import tiny_run

TEXTS = ['Paris is the capital of France.', 'Lyon is a city in France.', 'The capital moved to Paris again.', 'Berlin is large.',
         'France has a capital.']
# A document in three pieces, the answer in one of them; a copy of another; a document whose docid only looks like a piece's.
PIECES = [Passage('radium#0', 'Radium', '', 'Radium glows in the dark.'), Passage('radon', 'Radon', '', 'Radon is a gas.'),
          Passage('radium#1', 'Radium', '', 'It was found by Marie Curie.'), Passage('copy', 'Radium', '', 'Yes, it is an element.'),
          Passage('radium#2', 'Radium', '', 'Yes, it is an element.'), Passage('radium-226#0', 'Isotope', '', 'An isotope of it.')]
_ALL_PIECES = ['radium#0', 'radium#1', 'radium#2']


@dataclasses.dataclass(frozen=True)
class Found:
    passage: object
    score: float


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return PassageStore.build([documents.Document(f'd{i}', f't{i}', '', text) for i, text in enumerate(TEXTS)],
                              tmp_path_factory.mktemp('store'), progress=False)


@pytest.fixture(scope='module')
def pieces(tmp_path_factory):
    return PassageStore.from_passages(PIECES, tmp_path_factory.mktemp('pieces'), progress=False)


def _mine(tmp_path, store, row, **settings):
    file, to = tmp_path / 'questions.jsonl', tmp_path / 'mined.jsonl'
    file.write_text(json.dumps({'question': 'capital of France', **row}))

    def search(questions, top_k):  # all passages in their order, scores 5, 4, 3, 2, 1, ...
        return [[Found(store[i], 5.0 - i) for i in range(len(store))][:top_k] for _ in questions]

    counts = negative_mining.mine(str(file), lambda: search, store,
                                  negative_mining.MiningSettings(**{'top_k': 5, 'negatives': 3, **settings}), to)
    return counts, [json.loads(line) for line in to.read_text().splitlines()]


def _ids(passages):
    return [passage['id'] for passage in passages]


def test_passages_with_an_answer_are_no_negatives(tmp_path, store):
    counts, [row] = _mine(tmp_path, store, {'answers': ['Paris']})
    assert _ids(row['positive_passages']) == ['d0'] and _ids(row['negative_passages']) == ['d1', 'd3', 'd4']
    assert (counts.written, counts.negatives, counts.gold, counts.filtered) == (1, 3, 1, 1)
    [question] = question_passages.read(str(tmp_path / 'mined.jsonl'))
    assert len(question.negatives) == 3


@pytest.mark.parametrize(('margin', 'expected'), [(0.0, ['d3', 'd4']), (1.5, ['d4'])])
def test_a_margin_below_the_positives_score_is_kept(tmp_path, store, margin, expected):
    counts, [row] = _mine(tmp_path, store, {'gold_docids': ['d2']}, filter='margin', margin=margin)
    assert _ids(row['negative_passages']) == expected and counts.gold == 1


def test_without_a_positive_among_what_was_found_a_margin_leaves_nothing(tmp_path, store):
    counts, [row] = _mine(tmp_path, store, {'positive_passages': ['another text']}, filter='margin')
    assert row['negative_passages'] == [] and counts.filtered == 5


def test_no_filter_keeps_all_but_positives(tmp_path, store):
    positive = {'title': 't1', 'text': TEXTS[1]}
    counts, [row] = _mine(tmp_path, store, {'positive_passages': [positive]}, filter='none', negatives=2)
    assert _ids(row['negative_passages']) == ['d0', 'd2'] and row['negative_passages'][0]['score'] == 5.0 and counts.gold == 1


@pytest.mark.parametrize(('filter_name', 'answers', 'positives'), [
    *((name, answers, _ALL_PIECES) for name in ('margin', 'none') for answers in ([], ['Pierre'], ['yes'])),
    ('answers', ['Pierre'], _ALL_PIECES), *((name, ['Marie Curie'], ['radium#1']) for name in negative_mining.FILTERS)])
def test_a_gold_document_stands_for_all_its_pieces(tmp_path, pieces, filter_name, answers, positives):
    counts, [row] = _mine(tmp_path, pieces, {'gold_docids': ['radium'], 'answers': answers}, top_k=6, negatives=6, filter=filter_name)
    assert _ids(row['positive_passages']) == positives and row['gold_docids'] == ['radium']
    # The margin is below the best positive: radium#0 scores above radon, radium#1 below it.
    few = filter_name == 'margin' and positives == ['radium#1']
    assert _ids(row['negative_passages']) == (['radium-226#0'] if few else ['radon', 'radium-226#0'])
    assert (counts.written, counts.without_positive, counts.gold, counts.filtered) == (1, 0, 4, int(few))


@pytest.mark.parametrize(('row', 'positives', 'found'), [
    ({'gold_docids': ['radium#1']}, ['radium#1'], ['radium#0', 'radon', 'copy', 'radium#2', 'radium-226#0']),
    ({'gold_docids': ['radium', 'radium#0', 'nowhere']}, _ALL_PIECES, ['radon', 'radium-226#0']),
    ({'gold_docids': ['radium', 'radon'], 'answers': ['Curie']}, ['radium#1', 'radon'], ['radium-226#0']),
    ({'gold_docids': ['radium'], 'positive_passages': [{'text': 'Radon is a gas.', 'title': 'Radon'}]}, [''], ['radium-226#0']),
    # The whole document, from before it was stored in pieces; a passage whose text was corrected since.
    ({'positive_passages': [{'id': 'radium', 'text': 'All of it.'}]}, ['radium'], ['radon', 'copy', 'radium-226#0']),
    ({'positive_passages': [{'id': 'radon', 'text': 'Radon is a gas'}, 'plain']}, ['radon', ''],
     ['radium#0', 'radium#1', 'copy', 'radium#2', 'radium-226#0'])])
def test_what_is_known_to_answer_is_no_negative_under_any_docid_or_text(tmp_path, pieces, row, positives, found):
    _, [mined] = _mine(tmp_path, pieces, row, top_k=6, negatives=6, filter='none')
    assert (_ids(mined['positive_passages']), _ids(mined['negative_passages'])) == (positives, found)


def test_what_was_mined_can_be_mined_again(tmp_path, pieces):
    _, [first] = _mine(tmp_path, pieces, {'gold_docids': ['radium'], 'answers': ['Curie']}, top_k=6, negatives=6)
    _, [again] = _mine(tmp_path, pieces, first, top_k=6, negatives=6)
    assert again == first


def test_questions_without_a_positive_are_left_out(tmp_path, store):
    counts, rows = _mine(tmp_path, store, {'answers': ['Rome']})
    assert rows == [] and counts.without_positive == 1


@pytest.mark.parametrize(('row', 'settings', 'message'), [
    ({}, {}, ':1, field "answers": empty or missing'), ({'answers': ['yes']}, {}, 'no text that a passage could hold'),
    ({'answers': 'Paris'}, {}, 'must be a list of texts'), ({}, {'filter': 'none'}, ':1: no positive'),
    ({'question': ''}, {}, 'field "question": empty')])
def test_lines_that_lack_something_are_named(tmp_path, store, row, settings, message):
    with pytest.raises(errors.InputFileError, match=message):
        _mine(tmp_path, store, row, **settings)


@pytest.mark.parametrize('mistake', [{'answers': 'Paris'}, {'question': 'q'}, {'question': 'q', 'positive_passages': [3]}])
def test_all_lines_are_checked_before_the_search_is_made(tmp_path, store, mistake):
    files = [tmp_path / 'first.jsonl', tmp_path / 'second.jsonl']
    right = [{'question': 'q', 'answers': ['Paris']}] * 300  # more than one search takes
    for file, rows in zip(files, (right, [*right, mistake]), strict=True):
        file.write_text('\n'.join(map(json.dumps, rows)))

    def open_search():
        pytest.fail('the search was made before the questions were read')

    with pytest.raises(errors.InputFileError, match='second.jsonl:301'):
        negative_mining.mine([str(file) for file in files], open_search, store, negative_mining.MiningSettings(), tmp_path / 'mined.jsonl')
    assert not (tmp_path / 'mined.jsonl').exists()


def test_a_model_searches_for_the_question_as_it_is_trained_on_it(tmp_path):
    plain = tiny_run.atlas()
    index = tiny_run.index(plain, tmp_path)
    prompted = dataclasses.replace(plain, task=qa.QATask('which colour is the thing of {question}', '{target}'))
    searches = (negative_mining.search_by_model(prompted, index, 'exact'), lambda *asked: plain.search(asked[0], index, asked[1]),
                lambda *asked: prompted.search(asked[0], index, asked[1]))
    scores = [[each.score for each in search(['thing 3'], 5)[0]] for search in searches]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize('settings', [{'filter': 'best'}, {'negatives': 9}, {'margin': -1.0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(errors.ConfigError):
        negative_mining.MiningSettings(**{'top_k': 5, 'negatives': 3, **settings})
