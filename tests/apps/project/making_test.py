import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import flags
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.project import estimate, making, project_folder, project_steps
from atlas_jax.apps.project.project_folder import Project, ProjectSettings

PARAMETERS = {'encoder': 10, 'decoder': 10, 'retriever': 10}


class Commands:
    """Stands in for the commands: writes what each of them would, and keeps their names."""

    def __init__(self, path, fails=''):
        self.path, self.fails, self.ran = path, fails, []

    def __call__(self, command):
        name = ' '.join(word for word in command if not word.startswith(str(self.path)) and 'documents' not in word)
        self.ran.append(name)
        if self.fails and name.startswith(self.fails):
            raise errors.DiskFullError('full')
        written = {'data': 'store/x', 'index': 'index/x', 'train': 'run/x', 'calibrate': 'run/confidence.json'}.get(command[0])
        if command[0] == 'evaluate':
            written = f'results/{"closed_book" if "--closed_book" in command else "test"}.jsonl'
            row = {'example_id': 0, 'question': 'q', 'answers': ['a'], 'prediction': 'b', 'exact_match': 0.0, 'f1': 0.0}
            row |= {'answer_rank': 0, 'passages': [{'title': 't', 'text': 'x', 'score': 1.0, 'attention': 1.0}]}
        place = self.path / written
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_text(json.dumps(row) if command[0] == 'evaluate' else 'x')


@pytest.fixture
def parts(tmp_path, monkeypatch):
    (tmp_path / 'documents').mkdir()
    (tmp_path / 'documents' / 'a.txt').write_text('text')
    write_questions(tmp_path, 30)

    def make_model(project, packages_dir):
        (project.path / 'model').mkdir()
        project_steps.configs.write(project, 'index')
        return {'parameters': PARAMETERS}

    monkeypatch.setattr(project_steps, 'make_model', make_model)
    monkeypatch.setattr(project_steps, '_measured', lambda project: {'searcher': 'bm25', 'searchers': {
        'bm25': {'recall_at_1': .5, 'recall_at_5': .6, 'mrr': .55}}})
    monkeypatch.setattr(making.PassageStore, 'open', lambda path: None)
    monkeypatch.setattr(estimate, 'sizes_of', lambda store, figures: estimate.Sizes(1, 1., 1., 1, 1, 1))
    monkeypatch.setattr(estimate, 'speed', lambda: 50.)
    return tmp_path


def write_questions(tmp_path, count):
    rows = ({'question': f'Question {number}?', 'answers': ['a']} for number in range(count))
    (tmp_path / 'q.jsonl').write_text('\n'.join(map(json.dumps, rows)))


def make(tmp_path, fails='', questions='q.jsonl'):
    """Opens or begins the project and makes it; returns (commands that ran, lines that were said)."""
    path = tmp_path / 'p'
    settings = ProjectSettings((str(tmp_path / 'documents'),), questions and str(tmp_path / questions))
    project = project_folder.open_project(path) if project_folder.exists(path) else Project(path, settings)
    commands, said = Commands(path, fails), []
    try:
        making.Maker(project, commands).run(said.append)
    except errors.DiskFullError:
        said.append('failed')
    return commands.ran, said


ALL = ['data passages --out --model', 'index build --project', 'train --project', 'evaluate --project', 'evaluate --project --closed_book']


def test_every_step_once_and_a_report(parts):
    ran, said = make(parts)
    assert ran == ALL
    assert any(line.startswith('1 passages; estimated time') for line in said)
    assert '[5/9] searcher: bm25 (found first, of the training questions: bm25 0.500)' in said
    project = project_folder.open_project(parts / 'p')
    assert project.searcher == 'bm25' and "SEARCHER = 'bm25'" in project.gin_file('train').read_text()
    train, test = ((project.path / 'questions' / f'{name}.jsonl').read_text().splitlines() for name in ('train', 'test'))
    assert len(train) + len(test) == 30 and not set(train) & set(test)
    page = (project.path / 'report.html').read_text()
    assert 'expected' in page and 'closed book' in page and 'For 1 of 1 questions, a passage that was read holds an answer' in page
    again, said = make(parts)
    assert again == [] and sum('done before' in line for line in said) == 9


@pytest.mark.parametrize('fails', ['data passages', 'index build', 'train', 'evaluate'])
def test_a_stopped_one_goes_on_where_it_was(parts, fails):
    ran, said = make(parts, fails)
    assert said[-1] == 'failed' and ran[-1].startswith(fails)
    with pytest.raises(errors.ConfigError, match='half made'):
        project_folder.open_project(parts / 'p').require()
    (parts / 'p' / 'run').mkdir(exist_ok=True)  # what a stopped training has written stays
    (parts / 'p' / 'run' / 'checkpoint').write_text('x')
    again, _ = make(parts)
    assert [*ran[:-1], *again] == ALL
    assert (parts / 'p' / 'run' / 'checkpoint').exists() == (fails != 'data passages' and fails != 'index build')


def test_changed_files_are_done_again_with_what_follows(parts):
    make(parts)
    (parts / 'documents' / 'a.txt').write_text('another text')
    assert make(parts)[0] == ALL
    write_questions(parts, 40)
    ran, said = make(parts)
    assert ran == ALL[2:] and any('training: its inputs have changed' in line for line in said)
    gin = project_folder.open_project(parts / 'p').gin_file('train')
    gin.write_text(gin.read_text().replace('TOTAL_STEPS = 32', 'TOTAL_STEPS = 80'))
    assert make(parts)[0] == ALL[2:]
    # A folder that somebody has removed is made again, and nothing else.
    for file in (parts / 'p' / 'results').iterdir():
        file.unlink()
    assert make(parts)[0] == ALL[3:]


def test_enough_held_out_questions_give_a_confidence(parts):
    write_questions(parts, 300)
    ran, _ = make(parts)
    assert ran == [*ALL, 'calibrate --model --index --searcher bm25 --examples'] and make(parts)[0] == []
    write_questions(parts, 30)
    ran, said = make(parts)
    assert ran == ALL[2:] and any('confidence: ' in line and 'fewer than the 30' in line for line in said)


def test_without_questions_nothing_is_trained(parts):
    ran, said = make(parts, questions=None)
    assert ran == ALL[:2] and any('searcher: hybrid: fewer than 20 training questions' in line for line in said)
    assert 'nothing was measured' in (parts / 'p' / 'report.html').read_text()


def test_four_questions_are_trained_on_and_not_measured(parts):
    write_questions(parts, 4)
    ran, said = make(parts)
    assert ran == ALL[:3] and any('none was held out' in line for line in said)
    assert make(parts)[0] == []


def test_a_missing_package_leaves_the_retriever(parts, monkeypatch):
    monkeypatch.setattr(project_steps, '_has_bm25', lambda: False)
    assert any('searcher: exact: bm25s is missing' in line for line in make(parts)[1])


def test_states_tell_files_apart(tmp_path):
    (tmp_path / 'a').write_text('1')
    before = project_steps.states([tmp_path, pathlib.Path('nowhere')])
    (tmp_path / 'b').write_text('1')
    assert before[1] == ['nowhere'] and before[0][:2] == [str(tmp_path / 'a'), 1] and len(project_steps.states([tmp_path])) == 2


def test_the_commands_of_the_steps_are_commands(parts):
    make(parts)
    project = project_folder.open_project(parts / 'p')
    project.done = dict.fromkeys(project.steps(), 'k')
    project.write()
    parsed = {step: cli.parse(making.command_of(project, step)) for step in project.steps() if making.command_of(project, step)}
    assert parsed.keys() == set(project_folder.STEPS) - {'models', 'questions', 'searcher'}
    for options in parsed.values():
        flags.resolve(options)
    assert parsed['closed book'].gin_file == [str(project.gin_file('closed_book'))] and parsed['confidence'].searcher == 'bm25'
