"""A gcloud for tests: records how it was called, and answers, fails or hangs as the plan says.

The plan is JSON in $GCLOUD_PLAN: for each piece of a command line a list of answers {"out", "code", "sleep"}, used one after another, the
last one ever after. The longest piece that stands in the command line counts. Without one, ssh and scp reach the folders of
$GCLOUD_WORKERS, which stand for the home folders of a pod's workers; everything else is answered with nothing and good.
"""

import json
import os
import sys
import time

# ON_EACH COMMAND HOME...: runs a command in each home; the exit code is the largest one. Hides this machine's TPU from the workers.
ON_EACH = """
command=$1 worst=0
for home in "${@:2}"; do
  (cd "$home" && HOME=$home TPU_DEVICES="$home/dev/accel*" LIBTPU_LOCK_FILE=$home/lock GCLOUD_WORKERS='' exec bash -c "$command")
  code=$?
  worst=$((code > worst ? code : worst))
done
exit "$worst"
"""


def main() -> int:
    """One call."""
    line = ' '.join(sys.argv[1:])
    with open(os.environ['GCLOUD_LOG'], 'a', encoding='utf-8') as log:
        log.write(line.replace('\n', ' ') + '\n')
    path = os.environ['GCLOUD_PLAN']
    with open(path, encoding='utf-8') as file:
        plan = json.load(file)
    piece = max((piece for piece in plan if piece in line), key=len, default=None)
    if piece is None:
        return on_workers(sys.argv[1:])
    answer = plan[piece][0]
    if len(plan[piece]) > 1:
        plan[piece].pop(0)
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(plan, file)
    time.sleep(answer.get('sleep', 0))
    print(answer.get('out', ''), file=sys.stderr if answer.get('code') else sys.stdout)
    return answer.get('code', 0)


def on_workers(arguments: list[str]) -> int:
    """Runs an ssh command, or copies a file, in the folders of the workers that are asked for; returns the worst exit code."""
    workers = [home for home in os.environ.get('GCLOUD_WORKERS', '').split(':') if home]
    if not workers or not {'ssh', 'scp'} & set(arguments):
        return 0
    which = arguments[arguments.index('--worker') + 1]
    homes = workers if which == 'all' else [workers[int(which)]]
    if 'ssh' in arguments:
        os.execvp('bash', ['bash', '-c', ON_EACH, 'ssh', arguments[arguments.index('--command') + 1], *homes])
    for home in homes:
        copy(*[part for part in arguments[arguments.index('scp') + 1:] if not part.startswith('--')][:2], home)
    return 0


def copy(source: str, target: str, home: str) -> None:
    """Copies a file to a worker's home folder, or a file or folder from there; NAME:PATH is a worker's."""
    import shutil
    if ':' in target:
        shutil.copy(source, os.path.join(home, target.partition(':')[2]))
        return
    found, place = os.path.join(home, source.partition(':')[2]), os.path.join(target, os.path.basename(source))
    (shutil.copytree if os.path.isdir(found) else shutil.copy)(found, place)


if __name__ == '__main__':
    sys.exit(main())
