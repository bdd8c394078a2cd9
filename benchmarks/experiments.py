"""Writes docs/experiments.md from the headers of the paper's gin files and from the plans in benchmarks/plans.json.

    python benchmarks/experiments.py --out docs/experiments.md

Runs whose step has the same shape share a heading. The shape is everything that the compiled step depends on (kind, reader, examples per
update, passages, lengths, loss, index), not the learning rates. With --plan, shapes missing from plans.json are planned first, each on the
smallest slice that holds it, by the very command that the page names. That takes hours and needs libtpu; you may stop it, and it continues:

    python benchmarks/experiments.py --plan --minutes 60 --out docs/experiments.md

A test checks that the page is up to date, that every shape has an entry, and that every entry belongs to a shape.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from atlas_jax import train
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.planning import plan as plan_lib
from atlas_jax.apps.planning import refreshes
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.evaluation import evaluate
from atlas_jax.io import atomic
from atlas_jax.steps import spec
from atlas_jax.tasks import task
from atlas_jax.training.optimizer import OptimizerConfig
from atlas_jax.training.refresh import RefreshConfig

PLANS = pathlib.Path(__file__).parent / 'plans.json'
SIZES = ('xxl', 'xl', 'large', 'base')  # largest first
# A plan without these keys comes from an earlier program and is made again. Keys of only some kinds of step are required of those only.
FIELDS = {field.name for field in dataclasses.fields(plan_lib.TpuPlan)} - {'host_gib', 'scan_seconds', 'refresh_seconds'}
INDEX_RUN, INDEX_OPTIONS = 'runs/plan.gin', ('--step', 'index', '--topology', 'v4:2x2x1', '--gin.PASSAGE_TOKENS=(140, 35)')

INTRODUCTION = """# Experiments of the paper

Each experiment has a gin file in [gin_configs/runs](../gin_configs/runs) with the paper's hyper-parameters (Izacard et al. 2022). The
scores are the paper's; none of these runs was made with this code. [reproduce.md](reproduce.md) runs one with a single command.
`benchmarks/experiments.py` writes this page from the headers of the files. Each header names the macros that must be set, and ends with
the command.

Give a run the weights of the size you want; to plan it, give the size's file too. Each table of plans describes one shape of step on the
smallest slice of TPU v4 that holds it; the compiler gives the figures. The index has 33 million passages in bfloat16 in the graph, and
every passage is at its limit ([tpu.md](tpu.md) explains the figures). Nothing ran on a TPU: "expected" is the time of the compiled
schedule, "roofline" the bound by arithmetic. Chip-hours cover all updates of the run, and the refreshes of its index, which the brackets
name; loading, compiling and evaluating are left out. Smaller slices were ruled out by arithmetic, or by the compiler for the two best
meshes. Of equally fast accumulations the table has the one with the least memory. `python benchmarks/experiments.py --plan` compiles the
missing shapes.
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """A gin file of the paper: its header, its number of updates, and how often it embeds its index again."""

    name: str
    what: str
    paper: str
    updates: int
    refreshes: float = 0.0


@dataclasses.dataclass
class Shape:
    """Runs that compile the same step, the reader sizes that the paper scores, and the keys of their plans."""

    title: str
    runs: list[Run]
    keys: dict[str, str]

    def command(self, size: str, topology: str | None) -> list[str]:
        """Returns the options of `atlas-jax plan`, on `topology` (the smallest one that an earlier plan found) or on any slice."""
        on_it = () if topology is None else ('--topology', topology)
        how = INDEX_OPTIONS if self.runs[0].name == INDEX_RUN else ('--search', *on_it)
        return ['--gin_file', f'models/{size}.gin', '--gin_file', self.runs[0].name, *how]


def main() -> None:
    """Plans missing shapes if asked to, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='docs/experiments.md', help='the page (default docs/experiments.md)')
    parser.add_argument('--plan', action='store_true', help='first plan the shapes that plans.json lacks')
    parser.add_argument('--minutes', type=float, default=1e9, help='start no more plans after so many minutes')
    options = parser.parse_args()
    if options.plan:
        plan_missing(time.monotonic() + 60 * options.minutes)
    with atomic.writing(options.out) as file:
        file.write(page())


def read_plans() -> dict[str, dict[str, Any]]:
    """Returns the entries of plans.json by their shapes' keys."""
    return json.loads(PLANS.read_text(encoding='utf-8')) if PLANS.is_file() else {}


def plan_missing(deadline: float) -> None:
    """Plans missing shapes: evaluations first, then shapes of several runs, the largest readers first. Notes the rest as not compiled."""
    found = shapes()
    wanted = [(shape, size, key) for shape in found for size, key in shape.keys.items()]
    wanted.sort(key=lambda each: (each[0].runs[0].updates > 0, len(each[0].runs) < 2, SIZES.index(each[1]), -len(each[0].runs)))
    known = read_plans()
    entries = {key: known.get(key, {'run': shape.runs[0].name, 'size': size, 'plan': None}) for shape, size, key in wanted}
    for shape, size, key in wanted:
        before = entries[key]['plan'] or {}
        complete = FIELDS | ({'refresh_seconds'} if any(run.refreshes for run in shape.runs) else set())
        if not complete <= set(before) and time.monotonic() < deadline:
            planned = _planned(shape.command(size, before.get('topology')))
            entries[key] = {'run': shape.runs[0].name, 'size': size, 'plan': planned or entries[key]['plan']}
        atomic.write_json(PLANS, entries)


def _planned(command: list[str]) -> dict[str, Any] | None:
    print('atlas-jax plan', *command, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / 'plan.json'
        done = subprocess.run([sys.executable, '-m', 'atlas_jax', 'plan', *command, '--json', str(file)], check=False)
        return json.loads(file.read_text(encoding='utf-8')) if done.returncode == 0 else None


def page() -> str:
    """Returns the page's text."""
    plans, parts = read_plans(), [INTRODUCTION]
    for shape in shapes():
        parts.append(f'\n## {shape.title}\n')
        size = next(iter(shape.keys))
        topology = (plans.get(shape.keys[size], {}).get('plan') or {}).get('topology')
        command = ' '.join(f"'{part}'" if '(' in part else part for part in shape.command(size, topology))
        parts.append(f'```\natlas-jax plan {command}\n```\n')
        parts += _plan_table(shape, plans)
        if shape.runs[0].name != INDEX_RUN:
            parts += ['', *_run_table(shape, plans)]
        parts.append('')
    return '\n'.join(parts)


def _plan_table(shape: Shape, plans: dict[str, dict[str, Any]]) -> list[str]:
    rows = ['| reader | smallest slice | mesh | micro-batches | remat | HBM GiB a chip | expected | roofline | GB moved a chip |',
            '|---|---|---|---|---|---|---|---|---|']
    for size, key in shape.keys.items():
        plan = _compiled(plans, key)
        if plan is None:
            rows.append(f'| {size} | not compiled | | | | | | | |')
            continue
        mesh = 'each host alone' if plan['kind'] == 'index' else ', '.join(map(str, plan['mesh_shape']))
        expected, bound = plan['step_seconds_expected'], plan['step_seconds_roofline']
        speeds = [f'{seconds:.3g} s an update' for seconds in (expected, bound)]
        if plan['kind'] != 'train':
            rate, items = plan['items_per_second'], 'passages' if plan['kind'] == 'index' else 'questions'
            speeds = [f'{rate * bound / seconds:.3g} {items} a second' for seconds in (expected, bound)]
        reader = 'any' if plan['kind'] == 'index' else size
        rows.append(f'| {reader} | {plan["topology"]}, {plan["chips"]} chips | {mesh} | {plan["accumulation_steps"]} | {plan["remat"]} | '
                    f'**{plan["hbm_gib_per_chip"]:.1f}** | {speeds[0]} | {speeds[1]} | '
                    f'{sum(plan["collective_bytes"].values()) / 1e9:.0f} |')
    return rows


def _run_table(shape: Shape, plans: dict[str, dict[str, Any]]) -> list[str]:
    trains = shape.runs[0].updates > 0
    with_hours = '| run | experiment | paper | updates | chip-hours |\n|---|---|---|---|---|'
    rows = [with_hours if trains else '| run | experiment | paper |\n|---|---|---|']
    for run in shape.runs:
        cells = [f'`{run.name}`', run.what, run.paper]
        if trains:
            hours = [f'{size} {_chip_hours(plan, run)}' for size, key in shape.keys.items() if (plan := _compiled(plans, key))]
            cells += [str(run.updates), ', '.join(hours)]
        rows.append(f'| {" | ".join(cells)} |')
    return rows


def _compiled(plans: dict[str, dict[str, Any]], key: str) -> dict[str, Any] | None:
    """Returns a shape's plan; None if it was never compiled, or only in an earlier form of the step."""
    plan = plans.get(key, {}).get('plan') or {}
    return plan if FIELDS <= set(plan) else None


def _chip_hours(plan: dict[str, Any], run: Run) -> str:
    """Returns the chip-hours of a run, with those of its refreshes in brackets."""
    again = plan.get('refresh_seconds', 0.0) * run.refreshes * plan['chips'] / 3600
    hours = plan['step_seconds_expected'] * run.updates * plan['chips'] / 3600 + again
    shown = f'{hours:,.0f}' if hours >= 1000 else f'{hours:.3g}'
    return f'{shown} ({again:.3g})' if again else shown


@functools.cache
def shapes() -> tuple[Shape, ...]:
    """Returns the shapes of the paper's runs, and that of embedding an index."""
    found: dict[str, Shape] = {}
    for name in gin_parse.known_files():
        text = gin_parse.find_file(name).read_text(encoding='utf-8')
        paper = re.search(r'^# Paper: +(.*)$', text, re.MULTILINE)
        if name.startswith('runs/') and paper:
            workload = _workload(name, 'xxl')
            updates = workload.optimizer.total_steps if workload.trains else 0
            run = Run(name, text.splitlines()[0].removeprefix('# '), paper[1], updates, refreshes.times(workload))
            shape = found.setdefault(key(workload), Shape(_title(workload), [], {}))
            shape.runs.append(run)
            for size in SIZES:
                if size == 'xxl' or re.search(rf'\b{size} \d', paper[1]):
                    shape.keys[size] = key(_workload(name, size))
    gin_parse.parse(['models/xxl.gin', INDEX_RUN], ['PASSAGE_TOKENS=(140, 35)'])
    embedding = workload_lib.Workload(**gin_parse.arguments_of(workload_lib.Workload) | {'kind': 'index'})
    index = Shape(_title(embedding), [Run(INDEX_RUN, '', '', 0)], {'xxl': key(embedding)})
    return (*(dataclasses.replace(shape, keys={size: shape.keys[size] for size in SIZES if size in shape.keys})
              for shape in found.values()), index)


def _workload(name: str, size: str) -> workload_lib.Workload:
    gin_parse.parse([f'models/{size}.gin', name], stand_in='no folder')
    model = gin_parse.value_of('MODEL')
    if gin_parse.is_bound(evaluate.evaluate):
        return workload_lib.of_evaluation(model, gin_parse.arguments_of(evaluate.evaluate))
    return workload_lib.of_training(model, gin_parse.arguments_of(train.train))


def key(workload: workload_lib.Workload) -> str:
    """Returns the key of a workload's shape: a hash of everything that its step depends on, except mesh and accumulation, which planning
    chooses.

    Refreshes are a program of their own, between the steps. Fields with their default are left out, so that a new option changes no key; so
    are limits equal to the ones that None stands for.
    """
    inputs = workload.config.inputs
    limits = {'query_max_tokens': task.PlainTask.query_max_tokens, 'target_max_tokens': task.PlainTask.target_max_tokens,
              'retriever_max_tokens': min(inputs.text_max_tokens, workload.config.retriever.input_tokens)}
    inputs = dataclasses.replace(inputs, **{name: None for name, limit in limits.items() if getattr(inputs, name) == limit})
    distill = dataclasses.replace(workload.distill, temperature_gold=1.0, temperature_score=1.0, freeze_retriever_steps=0)
    shape = dataclasses.replace(
        workload, inputs=inputs if workload.inputs else None, optimizer=OptimizerConfig(optimizer=workload.optimizer.optimizer),
        mesh_shape=None, batch_size=workload.examples_a_step, refresh=RefreshConfig(),
        step=dataclasses.replace(workload.step, accumulation_steps=1), distill=distill if workload.trains else spec.DistillConfig())
    return hashlib.sha256(repr(_changed(shape)).encode()).hexdigest()[:16]


def _changed(value: Any) -> Any:
    """Returns a dataclass as a list of its fields that differ from their defaults; other values as they are."""
    if not dataclasses.is_dataclass(value):
        return value
    return [(field.name, _changed(getattr(value, field.name))) for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default]


def _title(workload: workload_lib.Workload) -> str:
    """Returns the shape of a step in words."""
    inputs = workload.config.inputs
    lengths = f'{workload.n_context} passages of {inputs.text_max_tokens} tokens, queries of {inputs.query_limit}'
    if workload.kind == 'index':
        return f'Index: {workload.index_rows // 10**6} million passages of 140 ± 35 tokens'
    if not workload.trains:
        results = {'answer': f'answers of {inputs.target_limit}', 'score': 'a choice of letters', 'search': 'retrieval alone'}
        return f'Evaluation, {lengths}, {results[workload.kind]}'
    rerank = f', {workload.search.rerank_candidates} candidates re-ranked' if workload.search.rerank_candidates else ''
    distill = workload.distill
    trained = 'retriever frozen' if distill.retriever_training == 'frozen' else f'{distill.gold_score_mode}, {distill.retriever_training}'
    return f'Batch {workload.examples_a_step}, {lengths}, targets of {inputs.target_limit}, {trained}{rerank}'


if __name__ == '__main__':
    main()
