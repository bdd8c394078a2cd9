"""Writes docs/experiments.md from the headers of the paper's gin files.

    python benchmarks/experiments.py --out docs/experiments.md

Runs whose train step has the same shape stand under one heading with the command that plans it; a test checks that the page is up to date.
"""

import argparse
import re

from atlas_jax import evaluate, gin_utils, train
from atlas_jax.io import atomic

INTRODUCTION = """# Experiments of the paper

One gin file each, in [gin_configs/runs](../gin_configs/runs), with the paper's hyper-parameters (Izacard et al. 2022). Scores are the
paper's; none of these runs has been made with this code. This page is written by `benchmarks/experiments.py` from the files' headers: each
header
says what must be set, and ends with the command.

Give a run the weights of the size you want; to plan it, give the size's file too. For each shape the planning command is that of the 11B
reader on 64 chips; what was found for the largest shapes stands in [tpu.md](tpu.md).
"""


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='docs/experiments.md', help='the page (default docs/experiments.md)')
    with atomic.writing(parser.parse_args().out) as file:
        file.write(page())


def page() -> str:
    """The page's text."""
    shapes: dict[str, list[tuple[str, str, str]]] = {}
    for name in gin_utils.known_files():
        text = gin_utils.find_file(name).read_text(encoding='utf-8')
        paper = re.search(r'^# Paper: +(.*)$', text, re.MULTILINE)
        if name.startswith('runs/') and paper:
            shapes.setdefault(_shape(name, text), []).append((name, text.splitlines()[0].removeprefix('# '), paper[1]))
    parts = [INTRODUCTION]
    for shape, runs in shapes.items():
        parts.append(f'\n## {shape}\n')
        if not shape.startswith('Evaluation'):
            first = runs[0][0]
            parts.append(f'```\natlas-jax plan --gin_file models/xxl.gin --gin_file {first} --topology v4:4x4x4 --index_rows 33000000 '
                         "--gin.MESH_SHAPE='(1, 16, 4)'\n```\n")
        parts.append('| run | what | paper |\n|---|---|---|')
        parts += [f'| `{name}` | {what} | {paper} |' for name, what, paper in runs]
        parts.append('')
    return '\n'.join(parts)


def _shape(name: str, text: str) -> str:
    """What a run's train step is compiled for, in words."""
    bindings = [f'{macro}="x"' for macro in re.findall(r'^(\w+) = %gin\.REQUIRED$', text, re.MULTILINE)]
    gin_utils.parse([name], bindings)
    if 'atlas-jax evaluate' in text.split('# Command:')[1]:
        return f'Evaluation, {gin_utils.arguments_of(evaluate.evaluate)["options"].n_context} passages'
    arguments = gin_utils.arguments_of(train.train)
    distill, inputs, search = arguments['distill'], arguments['inputs'], arguments.get('search')
    rerank = f', {search.rerank_candidates} candidates re-ranked' if search is not None and search.rerank_candidates else ''
    trained = 'retriever frozen' if distill.retriever_training == 'frozen' else f'{distill.gold_score_mode}, {distill.retriever_training}'
    return (f'Batch {arguments["run"].batch_size}, {arguments["n_context"]} passages of {inputs.text_max_tokens} tokens, queries of '
            f'{inputs.query_max_tokens}, targets of {inputs.target_max_tokens}, {trained}{rerank}')


if __name__ == '__main__':
    main()
