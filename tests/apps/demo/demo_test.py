"""The demo's bookkeeping: the sample of questions, and the folders that a rerun keeps. .ci/run runs the demo itself."""


import pytest

from atlas_jax.apps.demo import demo
from atlas_jax.io import lock
from atlas_jax.tasks import qa

TASK = qa.QATask('{question}', '{target}')
EXAMPLES = [TASK.example({'question': f'question {i}?', 'answers': [f'answer {i}']}, i) for i in range(10)]


@pytest.mark.parametrize('count', [1, 3, 7, 9])
def test_sample_is_spread_and_distinct(count):
    for seed in (0, 1, 4):
        chosen = [example.example_id for example in demo.sample(EXAMPLES, count, seed)]
        assert len(set(chosen)) == count
    assert demo.sample(EXAMPLES, None, 0) == demo.sample(EXAMPLES, 99, 0) == EXAMPLES


def test_a_store_that_a_killed_run_left_is_made_again(tmp_path):
    documents = tmp_path / 'documents.jsonl'
    documents.write_text('{"id": "a", "title": "t", "text": "some text"}\n')
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / lock.FILE).write_text('')
    made = demo.passage_store(tmp_path / 'store', documents, None)
    assert len(made) == 1 and demo.passage_store(tmp_path / 'store', tmp_path / 'nowhere', None).docid(0) == made.docid(0)


def test_other_settings_clear_what_they_change_and_nothing_else(tmp_path):
    def prepare(settings):
        demo._forget_other_settings(tmp_path, settings)
        found = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
        for name in ('store', 'index', 'trained', 'mine'):
            (tmp_path / name).mkdir(exist_ok=True)
        return found

    assert prepare({'countries': 6, 'seed': 0, 'steps': None}) == []
    assert prepare({'countries': 6, 'seed': 0, 'steps': None}) == ['index', 'mine', 'store', 'trained']
    assert prepare({'countries': 6, 'seed': 1, 'steps': None}) == ['index', 'mine', 'store']
    assert prepare({'countries': 7, 'seed': 1, 'steps': None}) == ['mine']
