import pytest

from atlas_jax.apps.datasets.examples import kilt
from tests.testing import published

TRIVIA = ('triviaqa/unfiltered-web-train.json', 'triviaqa/wikipedia-test-without-answers.json')
# Query without its template, target, answers and gold docids of the first example of each task.
EXPECTED = {
    'fever': ('Fox 2000 Pictures released the film Soul Food.', 'true', ['1073955']),
    'aidayago2': ('[START_ENT] CRICKET [END_ENT] - LEICESTERSHIRE TAKE OVER', 'Cricket', ['25675557']),
    'wned': ('the [START_ENT] Curies [END_ENT]', 'Marie Curie', ['20408']),
    'cweb': ('a [START_ENT] radium [END_ENT] dial', 'Radium', ['25602']),
    'trex': ('Radium [SEP] discoverer or inventor', 'Marie Curie', ['25602']),
    'structured_zeroshot': ('Radium [SEP] named after', 'ray', ['25602']),
    'nq': ('what do the 3 dots mean in math', 'the therefore sign', ['10593264', '25']),
    'hotpotqa': ('Were Scott Derrickson and Ed Wood of the same nationality?', 'yes', ['2816539', '10520']),
    'triviaqa': ('What is the capital of Norway?', 'Oslo', ['22309']),
    'eli5': ('In Trading Places, how did Billy Ray escape ruin?', 'The futures were sold first.\nThen bought back.', ['242855']),
    'wow': ('I like blue.\nBlue is one of the three primary colours.', 'It lies between violet and green.', ['3736'])}


def test_all_eleven_tasks(tmp_path, capsys):
    files = sorted(path.relative_to(published.FOLDER) for path in (published.FOLDER / 'kilt').iterdir())
    made = published.asked('kilt', tmp_path, *files, *TRIVIA)
    found = {}
    for output, examples in made.items():
        task, split = output.rsplit('-', 1)
        if split == 'dev':
            found[task] = (examples[0].query, examples[0].target, examples[0].gold_docids)
    assert sorted(EXPECTED) == sorted(kilt.TASKS)
    assert found == {task: (f'question: {text} answer: <extra_id_0>', f'<extra_id_0> {answer}', docids)
                     for task, (text, answer, docids) in EXPECTED.items()}
    assert made['fever-dev'][1].answers == ['false'] and made['nq-dev'][0].answers == ['the therefore sign', 'therefore sign (∴)']
    # Test files have no output; the questions of KILT's TriviaQA come from TriviaQA.
    assert [(made[output][0].question, made[output][0].answers) for output in ('nq-test', 'triviaqa-test')] == [
        ('who discovered radium', []), ('Who wrote War and Peace?', [])]
    assert capsys.readouterr().err == (
        'fever-dev-kilt.jsonl: 1 of 2 examples have no provenance: these have answers, and no gold passages\n')


def test_trivia_questions_must_be_there():
    dev = 'kilt/triviaqa-dev_id-kilt.jsonl'
    assert 'has no questions; give wikipedia-train.json' in published.refusal('kilt', dev)
    assert 'no file of KILT; give triviaqa-dev_id' in published.refusal('kilt', *TRIVIA)
    rows, bad = published.read('kilt', dev, TRIVIA[1])
    assert not rows and len(bad) == 1 and 'field "id": no question "tc_2" in the files of TriviaQA' in bad[0]
    # A file whose questions KILT's script has filled in needs no other file.
    path = published.FOLDER / 'kilt/nq-dev-kilt.jsonl'
    assert not published.read('kilt', path)[1]


def test_trivia_with_questions_needs_no_other_file(tmp_path):
    path = published.lines(tmp_path / 'triviaqa-dev-kilt.jsonl', {'id': 'a', 'input': 'q', 'output': [{'answer': 'b'}]})
    assert published.read('kilt', path)[0] == {'triviaqa-dev': [{'id': 'a', 'input': 'q', 'output': [{'answer': 'b'}]}]}


def test_names_say_the_task(tmp_path):
    copy = published.lines(tmp_path / 'dev.jsonl', {'id': 'a', 'input': 'q', 'output': [{'answer': 'b'}]})
    assert 'the name of a KILT file begins with its task: fever, ' in published.refusal('kilt', copy)
    first, second = (published.lines(tmp_path / f'wow-{name}-kilt.jsonl', {'id': 'a', 'input': 'q'}) for name in ('dev', 'dev-2'))
    assert 'wow-dev-kilt.jsonl is the same split of wow' in published.refusal('kilt', first, second)


@pytest.mark.parametrize(('row', 'said'), [
    ({'id': 'a', 'input': 'q', 'output': []}, 'field "output": no "answer" that is not blank'),
    ({'id': 'a', 'input': 'q'}, 'field "output": no "answer" that is not blank'),
    ({'id': 'a', 'input': 'q', 'output': [{'answer': ' '}, {'provenance': []}]}, 'field "output": no "answer"'),
    ({'id': 'a', 'input': 'q', 'output': ['b']}, 'field "output": expected a list of objects'),
    ({'id': 'a', 'input': 'q', 'output': [{'answer': 'b', 'provenance': [{'title': 'T'}]}]}, 'provenance[0].wikipedia_id": missing'),
    ({'id': 'a', 'input': '', 'output': [{'answer': 'b'}]}, 'field "input": expected a text'),
    ({'id': 'x', 'input': 'q', 'output': [{'answer': 'b'}]}, '"x" was the id of an earlier example')])
def test_bad_lines_are_told(tmp_path, row, said):
    good = {'id': 'x', 'input': 'q', 'output': [{'answer': 'b', 'provenance': [{'wikipedia_id': 3}]}]}
    rows, bad = published.read('kilt', published.lines(tmp_path / 'wow-dev-kilt.jsonl', good, row))
    assert rows['wow-dev'] == [{'id': 'x', 'input': 'q', 'output': [{'answer': 'b', 'provenance': [{'wikipedia_id': '3'}]}]}]
    assert len(bad) == 1 and said in bad[0] and 'wow-dev-kilt.jsonl:2' in bad[0]
