"""A machine whose PATH begins with fakes, and a cloud that its gcloud leads to."""

import json
import os
import pathlib
import sys

from tests.testing import processes

SCRIPTS = pathlib.Path(__file__).parents[2] / 'tpu_scripts'
GCLOUD = pathlib.Path(__file__).parent / 'gcloud.py'
POD = ('--name', 'pod', '--zone', 'us-central2-b')
TRAIN = ('--', 'atlas-jax', 'train', '--gin_file', 'runs/x.gin', '--gin.RUN_DIR="gs://my-bucket/run"')
STATE, REQUEST, RUN = 'tpu-vm describe', 'queued-resources describe', 'run_host.sh state'


class Machine:
    """Runs scripts with programs of `bin` in front of PATH; `calls` is what the fakes that record were called with."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.log = folder, folder / 'log'
        self.environment: dict[str, str] = {'HOME': str(folder), 'LOG': str(self.log)}
        (folder / 'bin').mkdir()

    def program(self, name: str, body: str = '') -> None:
        """Puts a bash program on PATH; without a body one that records its call."""
        path = self.folder / 'bin' / name
        path.write_text('#!/bin/bash\n' + (body or f'echo "{name} $*" >> "$LOG"') + '\n')
        path.chmod(0o755)

    def checkout(self, name: str = 'atlas_jax') -> pathlib.Path:
        """Makes a checkout in the home folder, with the scripts of this one."""
        checkout = self.folder / name
        checkout.mkdir(parents=True)
        (checkout / 'tpu_scripts').symlink_to(SCRIPTS)
        # Nothing of this machine may be taken for the host's TPU.
        self.environment |= {'TPU_DEVICES': f'{self.folder}/dev/accel*', 'LIBTPU_LOCK_FILE': f'{self.folder}/libtpu_lockfile'}
        return checkout

    def run(self, script: str | pathlib.Path, *arguments: str, **environment: str) -> processes.Done:
        """Runs a script of tpu_scripts, or one by its path."""
        environment = {'PATH': f'{self.folder / "bin"}:{os.environ["PATH"]}', **self.environment, **environment}
        with processes.started([SCRIPTS / script, *arguments], env=environment, cwd=self.folder, seconds=60) as process:
            done = process.wait()
            process.wait_for_rest()  # a run that was started leaves the session of its script only after the script has ended
        return done

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


class Cloud(Machine):
    """A machine whose gcloud records, answers as planned, or runs commands in the folders of workers. Its sleeps take no time."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self.plan_file = folder / 'plan'
        self.program('gcloud', f'exec {sys.executable} -I -S {GCLOUD} "$@"')
        self.program('nap', 'echo "$1" >> "$NAPS"')
        self.environment |= {'GCLOUD_LOG': str(self.log), 'GCLOUD_PLAN': str(self.plan_file), 'NAP': 'nap', 'NAPS': str(folder / 'naps')}
        self.plan()

    def plan(self, **pieces: list[dict]) -> None:
        """Sets the answers by the names of this module: request, state, run; every other piece with `also`."""
        names = {'request': REQUEST, 'state': STATE, 'run': RUN}
        also = pieces.pop('also', {})
        plan = {names[name]: planned for name, planned in pieces.items()} | also
        self.plan_file.write_text(json.dumps(plan))

    def workers(self, number: int) -> list[pathlib.Path]:
        """Makes a pod of this many workers; returns their checkouts."""
        homes = [self.folder / f'worker{index}' for index in range(number)]
        self.environment['GCLOUD_WORKERS'] = ':'.join(map(str, homes))
        return [self.checkout(f'worker{index}/atlas_jax') for index in range(number)]

    @property
    def naps(self) -> list[int]:
        """The sleeps in seconds."""
        path = self.folder / 'naps'
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def verbs(self) -> list[str]:
        """The calls that change something, in order."""
        names = {'queued-resources create': 'create', 'queued-resources delete': 'delete', 'set_up_host.sh': 'set_up',
                 'storage rsync': 'copy', 'run_host.sh end': 'end', 'run_host.sh start': 'launch', ' scp --recurse ': 'fetch'}
        return [names[piece] for call in self.calls for piece in names if piece in call]


def answers(*texts: str) -> list[dict]:
    """Returns good answers with these texts; `!` begins one that fails."""
    return [{'code': 1, 'out': text[1:]} if text.startswith('!') else {'out': text} for text in texts]
