import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import flags
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.gin_files import preview
from atlas_jax.apps.project import configs
from atlas_jax.apps.project.project_folder import Project, ProjectSettings


def resolved(*arguments):
    options = cli.parse(arguments)
    flags.resolve(options)
    return options


def values(options, owner):
    return preview.read(options.gin_file, options.gin_bindings).values_of(owner)


@pytest.fixture
def project(tmp_path):
    """A finished project, of which only the record and the gin files are there."""
    made = Project(tmp_path / 'p', ProjectSettings(('d',), 'q'))
    made.done = dict.fromkeys(made.steps(), 'k')
    made.figures = {'searcher': 'bm25'}
    made.write()
    for name in ('index', 'train', 'evaluate', 'closed_book'):
        configs.write(made, name, **({} if name == 'index' else {'SEARCHER': 'bm25'}))
    return made


def test_plain_flags_are_macros_of_the_usual_file():
    options = resolved('train', '--run', 'r', '--train_file', 'a', '--index', 'i', '--model', 'm', '--steps', '7', '--learning_rate',
                       '1e-3', '--batch_size', '2', '--n_context', '3', '--examples', '9', '--searcher', 'bm25')
    assert options.gin_file == ['runs/few_shot.gin']
    data, run, source = (values(options, name) for name in ('TrainData', 'RunConfig', 'ModelSource'))
    assert (data['train_file'], data['index_dir'], data['n_context'], data['max_examples']) == ('a', 'i', 3, 9)
    assert (run['run_dir'], run['batch_size']) == ('r', 2) and values(options, 'SearchConfig')['searcher'] == 'bm25'
    assert (source['model_dir'], source['reader_dir'], source['retriever_dir']) == ('m', None, None)
    optimizer = values(options, 'OptimizerConfig')
    assert (optimizer['total_steps'], optimizer['learning_rate']) == (7, 1e-3)
    assert callable(options.run)  # --run is no function, and does not take its place


def test_several_files_and_two_folders():
    options = resolved('train', '--run', 'r', '--train_file', 'a', 'b', '--index', 'i', '--reader', 'x', '--retriever', 'y',
                       '--gin.N_CONTEXT=5')
    assert values(options, 'TrainData')['train_file'] == ['a', 'b'] and values(options, 'TrainData')['n_context'] == 5
    assert values(options, 'ModelSource')['model_dir'] is None and values(options, 'ModelSource')['reader_dir'] == 'x'


def test_closed_book():
    options = resolved('train', '--run', 'r', '--train_file', 'a', '--model', 'm', '--closed_book')
    assert values(options, 'TrainData')['index_dir'] is None and values(options, 'TrainData')['n_context'] == 0
    options = resolved('evaluate', '--questions', 'a', '--model', 'm', '--closed_book', '--results', 'f')
    assert values(options, 'EvalData') == values(options, 'EvalData') | {'index_dir': None, 'examples_file': 'a', 'results_file': 'f'}


def test_other_files_take_the_flags_whose_macros_they_have():
    options = resolved('train', '--gin_file', 'runs/nq_64_shot.gin', '--run', 'r', '--train_file', 'a', '--index', 'i', '--model', 'm')
    assert values(options, 'RunConfig')['run_dir'] == 'r' and values(options, 'ModelSource')['model_dir'] == 'm'
    options = resolved('index', 'build', '--gin_file', 'runs/build_index.gin', '--store', 's', '--out', 'o', '--model', 'm')
    assert values(options, 'build_index')['store_dir'] == 's' and values(options, 'ModelSource')['reader_dir'] is None
    with pytest.raises(errors.ConfigError, match=r'--learning_rate: runs/evaluate.gin has no macro LEARNING_RATE; set it with --gin.NAME'):
        resolved('train', '--gin_file', 'runs/evaluate.gin', '--learning_rate', '1')


def test_ways_that_read_no_gin_are_left_alone():
    assert resolved('evaluate', '--task', 'retrieval', '--data', 'd', '--out', 'o', '--model', 'm').gin_file == []
    assert resolved('index', 'build', '--store', 's', '--out', 'o', '--model', 'm').gin_file == []
    assert resolved('index', 'search', 'x', '--index', 'i', '--model', 'm').searcher == 'exact'


@pytest.mark.parametrize(('binding', 'is_refused'), [('TOTAL_STEPS=8', True), ('TOTAL_STEPS = 7', False), ('TOTAL_STEPS=%N_CONTEXT', True)])
def test_a_flag_and_a_binding_that_contradict(binding, is_refused):
    arguments = ('train', '--run', 'r', '--steps', '7', f'--gin.{binding}')
    if not is_refused:
        assert values(resolved(*arguments, '--train_file', 'a', '--index', 'i', '--model', 'm'), 'OptimizerConfig')['total_steps'] == 7
        return
    with pytest.raises(errors.ConfigError, match='--steps 7 and --gin.TOTAL_STEPS=.* contradict each other; give one of them'):
        resolved(*arguments)


def test_a_project_knows_files_and_folders(project):
    path = str(project.path)
    assert resolved('train', '--project', path).gin_file == [f'{path}/gin/train.gin']
    options = resolved('train', '--project', path, '--steps', '5', '--run', 'other')
    assert values(options, 'OptimizerConfig')['total_steps'] == 5 and values(options, 'RunConfig')['run_dir'] == 'other'
    assert values(options, 'TrainData')['index_dir'] == f'{path}/index'
    assert values(resolved('evaluate', '--project', path), 'EvalData')['results_file'] == f'{path}/results/test.jsonl'
    assert values(resolved('evaluate', '--project', path, '--closed_book'), 'EvalData')['index_dir'] is None
    assert values(resolved('index', 'build', '--project', path), 'build_index')['index_dir'] == f'{path}/index'
    options = resolved('answer', 'q', '--project', path)
    assert (options.model, options.index, options.searcher) == (f'{path}/run', f'{path}/index', 'bm25')
    options = resolved('answer', 'q', '--project', path, '--model', 'm', '--index', 'i', '--searcher', 'exact')
    assert (options.model, options.index, options.searcher) == ('m', 'i', 'exact')
    # What only measures is not waited for.
    for step in ('evaluation', 'closed book', 'confidence'):
        project.done.pop(step)
    project.write()
    assert resolved('answer', 'q', '--project', path).model == f'{path}/run'
    assert resolved('index', 'delete', '--project', path, '--docid', 'x').index == f'{path}/index'
    assert resolved('index', 'info', '--project', path).index == f'{path}/index'


def test_a_project_that_was_moved_is_where_it_lies(project, tmp_path):
    moved = project.path.rename(tmp_path / 'moved')
    options = resolved('train', '--project', str(moved))
    assert values(options, 'RunConfig')['run_dir'] == f'{moved}/run' and values(options, 'ModelSource')['model_dir'] == f'{moved}/model'
    assert values(resolved('evaluate', '--project', str(moved), '--closed_book'), 'EvalData')['examples_file'].startswith(str(moved))


def test_projects_that_cannot_be_used(project):
    with pytest.raises(errors.ConfigError, match='has gin files of its own; leave --gin_file out'):
        resolved('train', '--project', str(project.path), '--gin_file', 'runs/few_shot.gin')
    project.done.pop('training')
    project.write()
    for arguments in (('answer', 'q'), ('evaluate',)):
        with pytest.raises(errors.ConfigError, match='half made ."training" is not done'):
            resolved(*arguments, '--project', str(project.path))
    resolved('train', '--project', str(project.path))
    project.settings = ProjectSettings(('d',))
    project.write()
    with pytest.raises(errors.ConfigError, match='has no questions; give some with `atlas-jax new .* --questions FILE`'):
        resolved('train', '--project', str(project.path))
