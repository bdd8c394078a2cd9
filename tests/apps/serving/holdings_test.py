"""Served answers of a tiny model: batches do not change them, streams end with the same answer, and changes of the index show."""

import pytest

from atlas_jax.apps.serving import changes, holdings, problems, projection
from atlas_jax.corpus.passages import Passage
from tests.testing import tiny_run

QUESTIONS = ['what is thing 3 ?', 'red thing', 'black', 'what is the white thing 11 ?', 'is anything pink ?', 'grey 6']


@pytest.fixture(scope='module')
def held(tmp_path_factory):
    atlas = tiny_run.atlas(dropout_rate=0.0)
    return holdings.Holdings({'project': atlas}, {'project': tiny_run.index(atlas, tmp_path_factory.mktemp('held'))})


@pytest.fixture(scope='module')
def answering(held):
    return holdings.Answering(held, 'project', 'project', 2)


def shown(row):
    """Returns the parts that must be equal, text and passages; programs of other sizes round numbers differently."""
    return row['text'], [(each['docid'], each['title'], each['text'], round(each['score'], 3), round(each['attention'], 3))
                         for each in row['passages']]


def test_answers_are_those_of_the_command_line_whatever_the_batch(held, answering):
    alone = {question: shown(answering.compute([holdings.Question(question)])[0]) for question in QUESTIONS}
    for batch in (QUESTIONS[:3], QUESTIONS[2:], [QUESTIONS[5], QUESTIONS[0], QUESTIONS[0]]):
        rows = answering.compute([holdings.Question(question) for question in batch])
        assert [(row['question'], shown(row)) for row in rows] == [(question, alone[question]) for question in batch]
    # The options of `atlas-jax answer`.
    [plain] = held.models['project'].answer(QUESTIONS[:1], held.indexes['project'])
    assert (plain.text, [each.docid for each in plain.passages]) == (alone[QUESTIONS[0]][0], [each[0] for each in alone[QUESTIONS[0]][1]])
    assert len({text for text, _ in alone.values()}) > 1


class Heard:
    """Keeps all events."""

    def __init__(self):
        self.passages, self.texts = [], []

    def found(self, row, passages):
        self.passages.append((row, [each.docid for each in passages]))

    def text(self, row, text):
        self.texts.append(text)


def test_a_stream_ends_where_the_answer_does(held, answering):
    heard = Heard()
    streamed = holdings.Answering(held, 'project', 'project', 2, streamed=True)
    [row] = streamed.compute([holdings.Question(QUESTIONS[0], heard)])
    assert shown(row) == shown(answering.compute([holdings.Question(QUESTIONS[0])])[0])
    assert heard.passages == [(0, [each['docid'] for each in row['passages']])]
    assert heard.texts[-1] == row['text'] and len(set(heard.texts)) > 1 and all(row['text'].startswith(text) for text in heard.texts)
    # A listener of an earlier batch gets no events of a later one.
    before = len(heard.texts)
    streamed.compute([holdings.Question(QUESTIONS[1])])
    assert len(heard.texts) == before


def test_changes_are_on_disk_and_in_the_next_search(held):
    index, retrieving = held.indexes['project'], holdings.Retrieving(held, 'project', 'project', 2)
    [[first, _]] = retrieving.compute(['what is thing 3 ?'])
    assert first['document'] == {'id': 'd3', 'contents': '"thing 3"\nThe thing 3 is white .'}
    version = holdings.etag(changes.get(index, 'd3'))
    edited, is_new = changes.put(index, held.models['project'], 'd3', {'title': 'thing 3', 'text': 'The thing 3 is pink .'}, version)
    assert not is_new and holdings.etag(edited) != version
    with pytest.raises(problems.ProblemError, match='changed meanwhile'):
        changes.delete(index, 'd3', version)
    assert retrieving.compute(['what is thing 3 ?', 'red'])[0][0]['document']['contents'].endswith('is pink .')
    reopened = type(index).open(index.index.path)
    assert holdings.find(reopened, 'd3') == Passage('d3', 'thing 3', '', 'The thing 3 is pink .')
    changes.delete(index, 'd3', holdings.etag(edited))
    assert 'd3' not in [each['document']['id'] for each in retrieving.compute(['what is thing 3 ?'])[0]]
    with pytest.raises(problems.ProblemError, match='no passage "d3"'):
        changes.get(index, 'd3')
    assert held.described()['indexes'] == [{'name': 'project', 'passages': 22}]


def test_the_map_has_the_question_and_what_was_found(held):
    points = projection.points(held.models['project'], held.indexes['project'], 'what is thing 4 ?', ['d4', 'd9'])
    assert [(point.docid, point.rank) for point in points[:4]] == [(None, None), ('d4', 1), ('d9', 2), ('d0', None)]
    assert len({point.docid for point in points}) == len(points) and max(max(abs(point.x), abs(point.y)) for point in points) == 1
