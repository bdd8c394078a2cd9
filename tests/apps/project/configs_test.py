import pytest

from atlas_jax.apps.gin_files import preview
from atlas_jax.apps.project import configs
from atlas_jax.apps.project.project_folder import Project, ProjectSettings


@pytest.mark.parametrize(('name', 'owner', 'expected'), [
    ('index', 'build_index', {'store_dir': 'store', 'index_dir': 'index', 'dtype': 'float32'}),
    ('train', 'TrainData', {'train_file': 'questions/train.jsonl', 'index_dir': 'index', 'max_examples': None}),
    ('evaluate', 'EvalData', {'examples_file': 'questions/test.jsonl', 'index_dir': 'index', 'results_file': 'results/test.jsonl'}),
    ('closed_book', 'EvalData', {'index_dir': None, 'results_file': 'results/closed_book.jsonl'}),
])
def test_each_file_is_complete_and_names_the_project(tmp_path, name, owner, expected):
    project = Project(tmp_path, ProjectSettings(('a',), 'q'))
    configs.write(project, name, **({'EXAMPLES': None} if name == 'train' else {}))
    values = preview.read([str(project.gin_file(name))])
    found = values.values_of(owner)
    for key, value in expected.items():
        assert found[key] == (str(tmp_path / value) if isinstance(value, str) and value != 'float32' else value), key
    source = values.values_of('ModelSource')
    assert source['reader_dir'] is None and source['inputs'] is None
    assert source['model_dir'] == str(tmp_path / ('run' if owner == 'EvalData' else 'model'))
    if name == 'train':
        assert source['task'] is None and values.values_of('RunConfig')['batch_size'] == configs.BATCH_SIZE


@pytest.mark.parametrize(('questions', 'steps'), [(1, 32), (64, 32), (100, 50), (10_000, 200)])
def test_steps_grow_with_the_questions(questions, steps):
    assert configs.steps_for(questions) == steps
