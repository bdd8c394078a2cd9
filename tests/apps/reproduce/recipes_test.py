"""Every gin file has a recipe or is refused with its purpose; figures agree with the headers of the gin files."""

import re

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import known_datasets
from atlas_jax.apps.datasets.examples import releases
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.reproduce import recipes
from atlas_jax.apps.reproduce.recipes import RECIPES, UNSAID
from atlas_jax.metrics import kilt_provenance
from atlas_jax.tasks import registry as tasks

FILES = {name.removeprefix('runs/').removesuffix('.gin'): name for name in gin_parse.known_files() if name.startswith('runs/')}


def paper_of(run: str) -> str:
    """Returns the paper's line in the header of a gin file."""
    return re.search(r'^# Paper: +(.*)$', gin_parse.find_file(FILES[run]).read_text(encoding='utf-8'), re.MULTILINE)[1]


def test_every_gin_file_is_known():
    assert set(FILES) == {*RECIPES, *recipes.OTHERS} and not set(RECIPES) & set(recipes.OTHERS)
    # A gin file is an experiment if its header has a line with the paper's figure.
    assert {run for run, name in FILES.items() if '\n# Paper:' in gin_parse.find_file(name).read_text(encoding='utf-8')} == set(RECIPES)


@pytest.mark.parametrize('run', RECIPES)
def test_figures_are_those_of_the_headers(run):
    header, figures = paper_of(run), RECIPES[run].figures
    # Figures in parentheses or for another setting are given as remarks.
    plain = re.sub(r'\([^)]*\)', '', header)
    said = {size: float(value) for size, value in re.findall(r'\b(base|large|xl|xxl) (\d+\.\d)', plain)}
    assert {size: value for figure in figures[:1] for size, value in figure.paper.items() if size != UNSAID} == said
    for figure in figures:
        assert all(f'{value}' in header for value in figure.paper.values())
        assert all(number in header for number in re.findall(r'\d+\.\d', figure.remark))
    shown = ' '.join(f'{value}' for figure in figures for value in figure.paper.values()) + ''.join(figure.remark for figure in figures)
    missing = [number for number in re.findall(r'\d+\.\d', header) if number not in shown]
    # The losses of another run and of another model are not figures of this run.
    assert missing in ([], ['51.1'], ['45.7', '42.2'])


@pytest.mark.parametrize('run', RECIPES)
def test_names_lead_somewhere(run):
    recipe = RECIPES[run]
    metrics = {'perplexity'} if not recipe.source else set()
    if recipe.source:
        source = known_datasets.SOURCES[recipe.source]
        metrics |= {*tasks.make(source.task).metrics, *(kilt_provenance.NAMES if source.task == 'kilt' else ())}
        assert source.makes == 'examples' and recipe.options.keys() <= source.options.keys()
        assert {each.output for each in recipe.files} >= {recipe.test[0]}
    else:
        metrics.add('f1')
    assert {figure.metric for figure in recipe.figures} <= metrics
    assert recipe.kind in ('one', 'subjects', 'years') and set(recipe.steps) <= set(recipes.SIZES)
    # A conversion names its outputs after the files.
    if recipe.source in ('nq_open', 'fever', 'triviaqa', 'templama'):
        assert all(releases.split_of(gin_parse.config_folder() / each.name) == each.output for each in recipe.files if each.output)


@pytest.mark.parametrize(('name', 'said'), [
    ('paper', 'runs/paper.gin is not an experiment of the paper: it holds the settings that the paper\'s runs share'),
    ('runs/plan.gin', 'plans memory'),
    ('build_index', 'run `atlas-jax index build'), ('nq_64_shots', 'no experiment "nq_64_shots"; did you mean "nq_64_shot"?'),
    ('../etc', 'known are: nq_64_shot')])
def test_what_is_no_experiment_is_refused(name, said):
    with pytest.raises(errors.ConfigError) as raised:
        recipes.recipe_of(name)
    assert said in str(raised.value)
    assert recipes.recipe_of('runs/nq_full.gin') is RECIPES['nq_full']
