"""Writes docs/reproduce.md: how to make the paper's rows, and a table of all runs from their recipes and the headers of their gin files.

    python benchmarks/reproduce.py --out docs/reproduce.md

A test checks that the page is up to date.
"""

import argparse

from atlas_jax.gin_files import parse as gin_parse
from atlas_jax.io import atomic
from atlas_jax.reproduce import recipes
from atlas_jax.reproduce.recipes import RECIPES, SIZES, Figure, Recipe

INTRODUCTION = """# Reproduce the paper's figures

One command makes a row of the paper's tables (Izacard et al. 2022): it prepares published files, chooses the training examples, trains by
the run's gin file, evaluates, and prints the paper's figure beside ours. `benchmarks/reproduce.py` writes this page. No run has been made
at the paper's size with this code; [experiments.md](experiments.md) says what they would take on a TPU.

## NaturalQuestions from 64 questions, from nothing

1. **Questions.** `NQ-open.train.jsonl` and `NQ-open.dev.jsonl` from
   [google-research-datasets/natural-questions](https://github.com/google-research-datasets/natural-questions), `nq_open/`. With
   `NQ.train.idx.json`, `NQ.dev.idx.json` and `NQ.test.idx.json` of FiD's `dataindex.tar.gz`, train and dev are split as in FiD and Atlas.
2. **A model.** A checkpoint of the original (`model.pth.tar`) or one that `atlas-jax reproduce pretrain_mlm` trained
   ([checkpoints.md](checkpoints.md)).
3. **An index** of Wikipedia of December 2018, made once for all runs of a model. Passage files are those of the released corpora
   ([data.md](data.md)).

```bash
atlas-jax data atlas --from text-list-100-sec.jsonl infobox.jsonl --to wiki
atlas-jax data passages wiki --as_passages --out store --model atlas
atlas-jax index build --store store --out index --dtype bfloat16 --model atlas
atlas-jax reproduce nq_64_shot --from downloads --model atlas --index index --out nq_64_shot --size xxl
```

`--from` takes files, folders and patterns. Of a folder each run takes the files that it needs, by their published names, so one folder of
downloads serves several runs; FEVER, whose `train.jsonl` any data set may have, needs one of its own. Everything is checked before the
first step: files by their first records, model, index, names.

    figure       paper     ours  95 % interval  questions
    exact_match  xxl 45.1  …     …              3,610

The table goes to `nq_64_shot/report.html` and `report.json`. `nq_64_shot/results/evaluation.html` has all figures, by label where there are
labels ([evaluation.md](evaluation.md)). Intervals are 95 % bootstrap intervals over the questions; they do not hold what another choice of
examples or another seed would change.

## Options

| option | effect |
|---|---|
| `--dry-run` | checks everything and prints the steps as commands; on a pod, run these on all hosts with `--multihost` |
| `--size base`, `large`, `xl`, `xxl` | shows the paper's figure for this size; in full runs base and large take 10,000 updates, not 5,000 |
| `--seed S` | chooses the examples and seeds the training |
| `--ids FILE` | trains on listed examples, such as the original's `train.64-shot.jsonl` ([data_select.md](data_select.md)) |
| `--split dev` | evaluates on the dev questions, to choose settings by |
| `--questions N` | evaluates the first N questions |
| `--batch_size N` | examples at a time, in training and evaluation |
| `--reader`, `--retriever` | two models in place of `--model`, as pre-training starts from |
| `--gin.NAME=VALUE` | goes to the steps whose gin files know NAME, such as `--gin.MESH_SHAPE='(1, 16, 4)'` |

## Folder, and how a run goes on

| path | content |
|---|---|
| `data/` | converted files; `chosen.jsonl` and `chosen.ids` are the training examples |
| `run/` | the run folder; one a subject for `mmlu_5_shot`, one a training for `templama` |
| `index/` | full runs train the passages' encoder: all passages embedded again, as long as the first index took |
| `results/` | results files, and the page of all figures |
| `reproduce.json` | settings, and the steps that are done |

The same command goes on where it was stopped: conversion, training, embedding and evaluation each go on within their step. A step is
done again if somebody changed its results, and so are those behind it; a training refuses examples that are not those it began with, so
remove `run/` then. With other settings, or published files, model or index that have
changed, the command is refused and names what differs.

## Three kinds that differ

```bash
atlas-jax reproduce templama --from downloads/templama --model atlas --index 2017=index-2017 --index 2020=index-2020 --out templama
atlas-jax reproduce mmlu_5_shot --from downloads/mmlu --model atlas --index index --out mmlu_5_shot
atlas-jax reproduce pretrain_mlm --reader t5 --retriever contriever --index index --out pretrain_mlm
```

- **templama** trains on the questions of 2017 and of 2020, asks both models the questions of both years with both indexes, and trains a
  closed-book reader.
- **mmlu_5_shot** trains and evaluates a model for each subject; figures are over the questions of all subjects together (micro), and
  `results/evaluation.html` has each subject's. Each run folder holds weights: 57 of them. The other MMLU runs train one model, and
  `report.html` has means over subjects (macro) and by group.
- **pretrain_** trains on the passages of the index; there is no figure of the paper.

## All runs

Where files are published: [NaturalQuestions](https://github.com/google-research-datasets/natural-questions),
[TriviaQA](https://nlp.cs.washington.edu/triviaqa/) (`triviaqa-unfiltered`, `triviaqa-rc`), [FEVER](https://fever.ai/dataset/fever.html),
[KILT](https://github.com/facebookresearch/KILT), [MMLU](https://github.com/hendrycks/test),
[TempLAMA](https://github.com/google-research/language/tree/master/language/templama); the lists `*.idx.json` are
[FiD's](https://github.com/facebookresearch/FiD). Figures are in per cent; those without a size are given by the paper for one. Files in
parentheses may be left out.
"""
HEADER = """| run | what it is | files | trained on | evaluated on | figure: the paper's | remarks |
|---|---|---|---|---|---|---|"""
END = """
## What differs from the paper

- The paper's 64-shot sets are fixed lists; without `--ids` ours are drawn by a seed, so figures differ by more than their intervals say.
- The training takes the last checkpoint; the dev questions choose nothing. `train` can evaluate while it trains
  (`--gin.TrainData.eval_file`).
- `mmlu_full` holds back 5,000 auxiliary questions as the original does, but others ([data_questions.md](data_questions.md)).
- FEVER and KILT keep labels of their test sets on servers; the table says what is evaluated instead.
- The ablations train and evaluate NaturalQuestions alone.
- Indexes of 2017, of 2021 and of FEVER's Wikipedia are what you give as `--index`; a row does not know.

Other gin files of `runs/` are no experiments and are refused: """


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='docs/reproduce.md', help='the page (default docs/reproduce.md)')
    with atomic.writing(parser.parse_args().out) as file:
        file.write(page())


def page() -> str:
    """The page's text."""
    rows = [row_of(run, recipe) for run, recipe in RECIPES.items()]
    others = ', '.join(f'`{name}`' for name in recipes.OTHERS)
    return '\n'.join([INTRODUCTION, HEADER, *rows, END + others]) + '.\n'


def row_of(run: str, recipe: Recipe) -> str:
    """A run's line of the table."""
    text = gin_parse.find_file(f'runs/{run}.gin').read_text(encoding='utf-8')
    what = text.splitlines()[0].removeprefix('# ').rstrip('.')
    files = [f'({_name(each.name)})' if each.optional else _name(each.name) for each in recipe.files] or ['passages of the index']
    figures = '; '.join(map(_figure, recipe.figures))
    remarks = dict.fromkeys([figure.remark for figure in recipe.figures] + [recipe.remark, recipe.without_lists])
    shown = '; '.join(remark for remark in remarks if remark)
    return f'| `{run}` | {what} | {", ".join(files)} | {_trained(recipe)} | {_evaluated(recipe)} | {figures} | {shown} |'


def _name(name: str) -> str:
    return ' or '.join(f'`{part}`' for part in name.split('|'))


def _trained(recipe: Recipe) -> str:
    if not recipe.train:
        return 'nothing'
    if recipe.choice:
        return f'{recipe.choice.count} of each {recipe.choice.per}' if recipe.choice.per else f'{recipe.choice.count} of `{recipe.train}`'
    names = {'one': f'`{recipe.train}`', 'subjects': f'`{recipe.train}.SUBJECT`, a model each',
             'years': ', '.join(f'`{recipe.train}.{year}`' for year in recipes.YEARS) + ', a model each'}
    return names[recipe.kind]


def _evaluated(recipe: Recipe) -> str:
    shown = ' or '.join(f'`{output}`' for output in recipe.test)
    return {'one': shown, 'subjects': f'{shown} of its subject', 'years': f'{shown} of both years, each index'}[recipe.kind]


def _figure(figure: Figure) -> str:
    values = [f'{size} {figure.paper[size]}' for size in SIZES if size in figure.paper] or [f'{value}' for value in figure.paper.values()]
    return f'{figure.metric}{f" ({figure.what})" if figure.what else ""}: {", ".join(values) or "none"}'


if __name__ == '__main__':
    main()
