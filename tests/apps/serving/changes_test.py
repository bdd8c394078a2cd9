import pytest

from atlas_jax.apps.serving import changes, holdings, problems
from tests.apps.serving.conftest import FakeIndex


def test_all_passages_are_added_or_none():
    index = FakeIndex()
    with pytest.raises(problems.ProblemError, match='"d1" is there already') as raised:
        changes.add(index, None, [{'docid': 'new', 'text': 'x'}, {'docid': 'd1', 'text': 'x'}])
    assert raised.value.status == 409 and len(index) == 3
    added = changes.add(index, None, [{'title': ' T ', 'text': ' x '}, {'text': 'y'}])
    assert (added[0].title, added[0].text) == ('T', 'x') and len({each.docid for each in added}) == 2 and len(index) == 5


@pytest.mark.parametrize(('docid', 'if_match', 'status'), [
    ('d0', None, 428), ('d0', '"other"', 412), ('none', '*', 412), ('none', '"x"', 412), ('d0', 'W/{etag}', 412),
    ('d0', '*', None), ('d0', '"x", {etag}', None), ('none', None, None),
])
def test_a_passage_is_replaced_by_who_knows_it(docid, if_match, status):
    index = FakeIndex()
    given = if_match and if_match.replace('{etag}', holdings.etag(index.passages[0]))
    if status is None:
        passage, is_new = changes.put(index, None, docid, {'text': 'x'}, given)
        assert holdings.find(index, docid) == passage and is_new == (docid == 'none')
        return
    with pytest.raises(problems.ProblemError) as raised:
        changes.put(index, None, docid, {'text': 'x'}, given)
    assert raised.value.status == status and index.passages == FakeIndex().passages


def test_a_deleted_passage_may_come_back():
    index = FakeIndex()
    changes.delete(index, 'd0', None)
    with pytest.raises(problems.ProblemError, match='no passage "d0"'):
        changes.delete(index, 'd0', None)
    assert changes.add(index, None, [{'docid': 'd0', 'text': 'again'}]) == [changes.get(index, 'd0')]
