import dataclasses
import json
import threading
import types

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.project import conversation
from atlas_jax.corpus.passages import Passage
from atlas_jax.tasks.qa import QATask


class FakeAtlas:
    """Answers with the first word of the first passage; keeps how it was asked."""

    config, task = types.SimpleNamespace(n_context=2), QATask('{question}', '{target}')
    mesh = types.SimpleNamespace(size=1)

    def __init__(self):
        self.asked = []

    def answer(self, questions, index=None, n_context=None, search=None, explain=False, signals=None):
        # Without its signals: a confidence that was fitted with passages would be said to be off at every question.
        self.asked.append((n_context, search, explain) if index else 'closed' if signals is False else 'nothing left')
        if index is None:
            return [api.Answer(questions[0], 'memory')]
        found = tuple(api.AnswerPassage(f'd{number}', f't{number}', f'Text{number} of\nthe passage.', .5, .5)
                      for number in range(n_context))
        return [api.Answer(questions[0], 'Text0', found)]

    def answer_examples(self, examples, index, n_context, batch_size, use_file_passages, explain):
        assert index is None and use_file_passages and batch_size == 1 and explain
        self.asked.append(n_context)
        [example] = examples
        found = tuple(api.AnswerPassage(each.docid, each.title, each.text, .1, 1.) for each in example.passages)
        yield api.Answer(example.question, found[0].text.split()[0], found)


class FakeEmbeddings:
    """The embeddings of two passages, the second deleted."""

    path, deleted = 'i', np.array([False, True])

    def __len__(self):
        return 2

    def info(self):
        return {'rows': 2, 'deleted': 1}


class FakeIndex:
    """An index of two passages, the second deleted."""

    def __init__(self):
        self.replaced = []
        self.index = FakeEmbeddings()
        self.store = types.SimpleNamespace(rows_of=lambda docids: np.array([{'d0': 0, 'd1': 1}[docids[0]]]))

    def replace(self, passages, atlas):
        self.replaced += passages
        return len(passages)

    def delete(self, docids):
        self.replaced.append(docids)


@pytest.fixture
def talk():
    return conversation.Conversation(FakeAtlas(), FakeIndex(), 'bm25')


def test_an_answer_with_the_closed_book_beside_it(talk):
    turn = talk.ask('Why?')
    assert (turn.answer.text, turn.closed_book, turn.read[1]) == ('Text0', 'memory', Passage('d1', 't1', '', 'Text1 of\nthe passage.'))
    # Both at once, in either order.
    assert set(talk.atlas.asked) == {(2, 'bm25', True), 'closed'}
    assert conversation.as_text(turn, lambda words: f'<{words}>') == (
        'Text0   [closed book: memory]\n  1. score 0.500, attention 50%  [d0] t0\n     <Text0> of the passage.\n'
        '  2. score 0.500, attention 50%  [d1] t1\n     Text1 of the passage.')
    sure = dataclasses.replace(turn, answer=dataclasses.replace(turn.answer, confidence=.875))
    assert conversation.as_text(sure, str).startswith('Text0   [confidence 0.88; closed book: memory]\n')
    quiet = conversation.Conversation(FakeAtlas(), FakeIndex(), n_context=3, closed_book=False)
    assert quiet.ask('Why?').closed_book is None and quiet.atlas.asked == [(3, 'exact', True)]


@pytest.mark.parametrize('devices', [1, 8])
def test_two_programs_are_under_way_on_one_device_alone(talk, devices):
    under_way = threading.Event()

    def answer(questions, index=None, *given, **named):
        # The closed book takes its time: on one device the other answer comes meanwhile.
        if index is None:
            met.append(under_way.wait(5 if devices == 1 else .2))
            return [api.Answer(questions[0], 'memory')]
        under_way.set()
        return [api.Answer(questions[0], 'Text0')]

    met: list[bool] = []
    talk.atlas.answer, talk.atlas.mesh = answer, types.SimpleNamespace(size=devices)
    assert talk.ask('Why?').closed_book == 'memory' and met == [devices == 1]


def test_what_a_passage_carried_and_where_the_reader_looked(talk):
    turn = talk.ask('Why?')
    words = (('Text0', .3), ('of', .05), ('(the', .05), ('passage.', .2), ('passage', .2), ('…', .9))
    found = dataclasses.replace(turn.answer.passages[0], carried=1.25, words=words)
    lines = conversation.as_text(dataclasses.replace(turn, answer=dataclasses.replace(turn.answer, passages=(found,))), str).splitlines()
    assert lines[1] == '  1. score 0.500, attention 50%, carried +1.25  [d0] t0' and lines[3] == '     looked at: passage, Text0, of'


def test_what_ifs_read_what_is_left(talk):
    talk.ask('Why?')
    without = talk.without(1)
    assert without.answer.text == 'Text1' and without.changed == 'without passage 1' and [each.docid for each in without.read] == ['d1']
    edited = talk.edit(1, ' Other words. ')
    assert edited.answer.text == 'Other' and edited.changed == 'without passage 1, passage 1 edited' and edited.closed_book == 'memory'
    # All with as many slots as the first, or each would be another program.
    assert talk.atlas.asked[2:] == [2, 2]
    assert talk.without(1).answer.text == 'memory'  # nothing is left
    assert 'without passage 1, passage 1 edited, without passage 1' in conversation.as_text(talk.turns[-1], str)
    assert talk.ask('And?').changed == ''


@pytest.mark.parametrize(('act', 'message'), [
    (lambda talk: talk.without(3), 'the last answer read 2 passages; there is no passage 3'),
    (lambda talk: talk.edit(0, 'x'), 'there is no passage 0'),
    (lambda talk: talk.edit(1, ' '), 'give passage 1 a text, or leave it out with :without 1'),
    (lambda talk: talk.export('x.txt'), 'x.txt: give a name that ends in .jsonl'),
    (lambda talk: talk.delete('d1'), 'i: no passage "d1" in this index any more'),
    (lambda talk: talk.add('nowhere.txt'), 'nowhere.txt: no such file'),
])
def test_mistakes(talk, act, message):
    talk.ask('Why?')
    with pytest.raises(errors.UserError, match=message):
        act(talk)
    assert len(talk.turns) == 1 and talk.index.replaced == []


def test_nothing_was_asked_yet(talk, tmp_path):
    with pytest.raises(errors.ConfigError, match='ask a question first'):
        talk.without(1)
    with pytest.raises(errors.ConfigError, match='nothing was asked yet'):
        talk.export(tmp_path / 'x.jsonl')


def test_the_index_is_changed_and_exchanged(talk, tmp_path, monkeypatch):
    (tmp_path / 'news.txt').write_text('Some news.')
    assert talk.add(str(tmp_path / 'news.txt')) == 'i: added 1 passages, such as news.txt'
    assert talk.delete('d0') == 'i: deleted d0' and talk.index.replaced[1:] == [['d0']]
    assert talk.description() == 'i: 1 passages'
    other, checked = FakeIndex(), []
    other.check = checked.append
    monkeypatch.setattr(api.Index, 'open', lambda path: other)
    talk.use_index('j')
    assert talk.index is other and checked == [talk.atlas]


def test_an_export_has_every_turn(talk, tmp_path):
    talk.ask('Why?')
    talk.without(2)
    assert talk.export(tmp_path / 'talk.jsonl').endswith('talk.jsonl: 2 answers')
    first, second = map(json.loads, (tmp_path / 'talk.jsonl').read_text().splitlines())
    assert first['question'] == 'Why?' and first['closed_book'] == 'memory' and 'changed' not in first
    assert second['changed'] == 'without passage 2' and [each['docid'] for each in second['passages']] == ['d0']
    assert first == json.loads(json.dumps({**dataclasses.asdict(talk.turns[0].answer), 'closed_book': 'memory'}))


@pytest.mark.parametrize(('text', 'answer', 'expected'), [
    ('In the North  Cellar, north.', 'the north cellar', 'In the <North  Cellar>, north.'),
    ('1,934 in 1934 and 11934', '1934', '1,934 in <1934> and 11934'),
    ('Luc-Montagnier won (a+b)', 'luc montagnier', '<Luc-Montagnier> won (a+b)'),
    ('nothing', 'the', 'nothing'), ('nothing', '', 'nothing'), ('a+b', '+', 'a+b'),
])
def test_words_that_carry_the_answer(text, answer, expected):
    assert conversation.marked(text, answer, lambda words: f'<{words}>') == expected
