"""Times the first answer of a new process without cached programs, with an empty cache and with a filled one; and the second answer.

    python benchmarks/cold.py --work demo-data --json cold.json

The processes take turns: `atlas-jax answer --no_compilation_cache`, the same with an empty cache, and another question with the cache that
this filled. The second answer is asked in the first one's process. Figures are medians of wall-clock and processor seconds; on a busy
machine compare processor seconds only. The demo's models and passages are used unless --model and --index name others. --project also times
the second question of `atlas-jax ask`: the answer alone, then with its confidence and each passage's contribution, then with the closed
book's answer beside it.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import process_pairs

from atlas_jax.io import atomic
from atlas_jax.io import folder as io_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUESTIONS = ('What is the capital of Peru?', 'Who is the president of the republic of Albania?')
SIDES = ('no cache', 'empty cache', 'filled cache')
# Times one answer inside a process, from the question to its answer, with models loaded and the program compiled.
_ASK_TWICE = """
import json, sys, time
from atlas_jax.answering import api
model, index, n_context = json.loads(sys.argv[1])
atlas, found = api.ModelSource(*model).load(api.Atlas), api.Index.open(index) if index else None
for question in sys.argv[2:]:
    began, cpu = time.perf_counter(), time.process_time()
    atlas.answer([question], found, n_context=n_context)
print(time.perf_counter() - began, time.process_time() - cpu)
"""
# The same inside a conversation, if --project is given.
_CONVERSE = """
import json, sys, time
from atlas_jax.answering import api
from atlas_jax.apps.project import conversation, folder
project = folder.open_project(sys.argv[1])
atlas, index = api.Atlas.load(project.model), api.Index.open(project.index)
alone, whole = (conversation.Conversation(atlas, index, project.searcher, closed_book=closed_book).ask for closed_book in (False, True))
sides = {'the answer alone': lambda question: atlas.answer([question], index, search=project.searcher, signals=False),
         'with confidence and carried': alone, 'and the closed book': whole}
found = {}
for name, ask in sides.items():
    for question in sys.argv[2:]:
        began, cpu = time.perf_counter(), time.process_time()
        ask(question)
        found[name] = {'seconds': time.perf_counter() - began, 'cpu_seconds': time.process_time() - cpu}
print(json.dumps(found))
"""


def main() -> None:
    """Times every side and writes the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', default='demo-data', metavar='DIR', help="folder of the demo's data, made if missing (default demo-data)")
    parser.add_argument('--model', metavar='DIR', help="model to ask in place of the demo's; closed book without --index")
    parser.add_argument('--index', metavar='DIR', help='its index')
    parser.add_argument('--n_context', type=int, metavar='N', help='passages to read (default: as trained)')
    parser.add_argument('--project', metavar='DIR', help='folder of `atlas-jax new`, to ask as `atlas-jax ask` does')
    parser.add_argument('--rounds', type=int, default=3, help='of each side (default 3)')
    parser.add_argument('--json', metavar='FILE', help='file to write the figures to')
    options = parser.parse_args()
    models, index = ((options.model, None, None), options.index) if options.model else demo(pathlib.Path(options.work))
    figures: dict[str, Any] = {'machine': process_pairs.machine(), 'rounds': options.rounds, 'n_context': options.n_context}
    with tempfile.TemporaryDirectory() as folder:
        figures['help'] = _median([_timed(['-m', 'atlas_jax', '--help'], folder) for _ in range(options.rounds)])
        figures['first answer'] = first_answers(models, index, options, pathlib.Path(folder))
        asked = json.dumps((models, index, options.n_context))
        figures['second answer'] = _median([_second(asked, folder) for _ in range(options.rounds)])
        asking = _conversations(options.project, options.rounds, folder) if options.project else {}
        figures |= {'ask': asking} if asking else {}
    for name, found in {'--help': figures['help'], **figures['first answer'], 'second answer': figures['second answer'],
                        **{f'ask, second question, {name}': found for name, found in asking.items()}}.items():
        print(f'{name}: {found["seconds"]:.2f} s, {found["cpu_seconds"]:.2f} CPU s')
    if options.json:
        atomic.write_json(options.json, figures)


def demo(work: pathlib.Path) -> tuple[tuple[None, str, str], str]:
    """Writes the demo's models and the index of its passages unless they exist. Returns the models' folders and the index."""
    reader, retriever, store, index = (str(work / name) for name in ('models/reader', 'models/retriever', 'store', 'index'))
    given = ('--reader', reader, '--retriever', retriever)
    steps = {reader: ('data', 'demo', '--out', str(work)),
             store: ('data', 'passages', str(work / 'documents.jsonl'), '--out', store, *given),
             index: ('index', 'build', '--store', store, '--out', index, *given)}
    for made, arguments in steps.items():
        if not pathlib.Path(made).exists():
            subprocess.run([sys.executable, '-m', 'atlas_jax', *arguments], check=True, env=_environment())
    return (None, reader, retriever), index


def first_answers(models: Sequence[str | None], index: str | None, options: argparse.Namespace,
                  folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Returns the seconds and processor seconds of the command `answer` by side, each in a new process."""
    named = [f'--{name}={value}' for name, value in zip(('model', 'reader', 'retriever'), models, strict=True) if value]
    named += [f'--index={index}'] if index else []
    named += [f'--n_context={options.n_context}'] if options.n_context else []
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        shutil.rmtree(folder / 'compiled', ignore_errors=True)
        for side in SIDES:
            question = QUESTIONS[side == 'filled cache']
            off = ['--no_compilation_cache'] if side == 'no cache' else []
            found[side].append(_timed(['-m', 'atlas_jax', 'answer', question, *named, *off], str(folder)))
    return {side: _median(runs) for side, runs in found.items()}


def _second(asked: str, cache: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, '-c', _ASK_TWICE, asked, *QUESTIONS], check=True, text=True, stdout=subprocess.PIPE,
                          env=_environment(cache))
    seconds, cpu_seconds = map(float, done.stdout.split())
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def _conversations(project: str, rounds: int, cache: str) -> dict[str, dict[str, float]]:
    command = [sys.executable, '-c', _CONVERSE, project, *QUESTIONS]
    said = [subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=_environment(cache)).stdout for _ in range(rounds)]
    runs = [json.loads(each.splitlines()[-1]) for each in said]
    return {name: _median([run[name] for run in runs]) for name in runs[0]}


def _timed(arguments: Sequence[str], cache: str) -> dict[str, float]:
    """Runs Python with the arguments and returns its seconds and processor seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=_environment(cache), stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {'seconds': seconds, 'cpu_seconds': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _median(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _environment(cache: str | None = None) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    # The caller's cache would be filled for every side.
    kept = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
    return {**kept, 'PYTHONPATH': paths, 'ATLAS_JAX_CACHE': cache or str(io_folder.default_cache_dir())}


if __name__ == '__main__':
    main()
