"""A gcloud for tests: records how it was called, and answers, fails or hangs as the plan says.

The plan is JSON in $GCLOUD_PLAN: for each piece of a command line a list of answers {"out", "code", "sleep"}, used one after another, the
last one ever after. The longest piece that stands in the command line counts; without one the answer is empty and good.
"""

import json
import os
import pathlib
import sys
import time


def main() -> int:
    """One call."""
    line = ' '.join(sys.argv[1:])
    with open(os.environ['GCLOUD_LOG'], 'a', encoding='utf-8') as log:
        log.write(line.replace('\n', ' ') + '\n')
    path = pathlib.Path(os.environ['GCLOUD_PLAN'])
    plan = json.loads(path.read_text(encoding='utf-8'))
    piece = max((piece for piece in plan if piece in line), key=len, default=None)
    if piece is None:
        return 0
    answer = plan[piece][0]
    if len(plan[piece]) > 1:
        plan[piece].pop(0)
        path.write_text(json.dumps(plan), encoding='utf-8')
    time.sleep(answer.get('sleep', 0))
    print(answer.get('out', ''), file=sys.stderr if answer.get('code') else sys.stdout)
    return answer.get('code', 0)


if __name__ == '__main__':
    sys.exit(main())
