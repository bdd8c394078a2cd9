"""README and docs: every command is one that runs, every link leads somewhere, nothing of one machine is in them."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import atlas_jax
from atlas_jax.apps.cli import evaluate as cli_evaluate
from atlas_jax.apps.cli import flags
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.gin_files import parse as gin_parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *DOCS]
# Commands that .ci/run itself runs, or that set up what it runs in.
RUN_BY_CI = {'python3 -m venv .venv', '. .venv/bin/activate', "pip install '.[demo]'", "pip install '.[demo,test]'", 'pytest -n 2 tests',
             "pip install -e '.[demo,test]'", 'pip install pre-commit', 'pre-commit install', 'pytest -n 2 -m quick tests', '.ci/run',
             '.ci/exhaustive',
             'ruff check --config .ci/ruff.toml .', 'mypy --config-file .ci/mypy.ini atlas_jax', "pip install '.[docs]'",
             'mkdocs build --strict -f .ci/mkdocs.yml'}


def commands_of(page: pathlib.Path) -> list[str]:
    """The commands in a page's bash blocks, one string each: lines ending in \\ joined, lines cut at &&."""
    # Those of a numbered list are indented.
    blocks = re.findall(r'^ *```bash\n(.*?)^ *```', page.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    return [part.strip() for line in lines if line.strip() for part in line.split('&&')]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_are_real(page, tmp_path):
    for command in commands_of(page):
        if command in RUN_BY_CI:
            continue
        program, *arguments = shlex.split(command)
        if program == 'python':  # a benchmark: too long to run here, so its options are looked up in its help
            shown = subprocess.run([sys.executable, ROOT / arguments[0], '--help'], capture_output=True, text=True, check=True, cwd=ROOT,
                                   env=os.environ | {'PYTHONPATH': str(ROOT)}).stdout
            assert arguments[0].startswith('benchmarks/') and all(part in shown for part in arguments if part.startswith('--'))
            continue
        if program.startswith('tpu_scripts/'):
            options = arguments[:arguments.index('--')] if '--' in arguments else arguments
            shown = subprocess.run([ROOT / program, *options, '--dry-run', *arguments[len(options):]], capture_output=True, text=True,
                                   check=False, cwd=tmp_path)
            assert shown.returncode == 0 and 'gcloud' in shown.stdout, f'{command}: {shown.stderr}'
            if '--' not in arguments:
                continue
            program, *arguments = arguments[len(options) + 1:]
        assert program == 'atlas-jax', f'{command}: neither ours nor run by .ci/run'
        options = cli.parse(arguments)
        # The page's projects are not there: their commands are run by tests/e2e.
        if not getattr(options, 'takes_project', False) or not options.project:
            flags.resolve(options)
        if getattr(options, 'gin_file', None):
            bindings = cli_evaluate.bindings_of(options) if arguments[0] == 'evaluate' else options.gin_bindings
            gin_parse.parse(options.gin_file, bindings, **({'stand_in': 'not needed'} if arguments[0] == 'plan' else {}))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)#]+)\)', page.read_text(encoding='utf-8')):
        assert target.startswith('https://') or (page.parent / target).exists(), f'{page.name}: {target} does not exist'


@pytest.mark.parametrize(('name', 'part'), [('demo', 'atlas-jax demo'), ('tests', 'pytest -n 2 tests')])
def test_ci_finds_the_two_commands(name, part):
    done = subprocess.run([sys.executable, ROOT / '.ci' / 'readme_command.py', name], capture_output=True, text=True, check=True)
    assert done.stdout.count('\n') == 1 and done.stdout.startswith('python3 -m venv') and done.stdout.strip().endswith(part)
    assert all(part.strip() in commands_of(ROOT / 'README.md') for part in done.stdout.split('&&'))


def test_pages_are_reached_from_the_readme():
    readme = PAGES[0].read_text(encoding='utf-8')
    assert all(page.relative_to(ROOT).as_posix() in readme for page in PAGES[1:])


def test_the_changelog_has_the_present_version():
    assert f'\n## {atlas_jax.__version__}\n' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_source_files_that_are_named_exist(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r'`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sh))`', text):
        assert (ROOT / name).is_file() or (ROOT / 'atlas_jax' / name).is_file(), f'{page.name}: {name} does not exist'
