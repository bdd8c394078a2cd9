"""Writes docs/reproduce.md: how to make the paper's rows, and a table of all runs from their recipes and their gin files' headers.

    python benchmarks/reproduce.py --out docs/reproduce.md

A test checks that the page is up to date.
"""

import argparse

from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.reproduce import recipes
from atlas_jax.apps.reproduce.recipes import RECIPES, SIZES, Figure, Recipe
from atlas_jax.io import atomic

INTRODUCTION = """# Reproduce the paper's figures

One command makes a row of the paper's tables (Izacard et al. 2022). It prepares published files, chooses the training examples, trains with
the run's gin file, evaluates, and prints the paper's figure beside ours. `benchmarks/reproduce.py` writes this page. This code has made no
run at the paper's size; [experiments.md](experiments.md) estimates the time that they would take on a TPU.

## Example: NaturalQuestions from 64 questions

1. **Questions.** `NQ-open.train.jsonl` and `NQ-open.dev.jsonl` from
   [google-research-datasets/natural-questions](https://github.com/google-research-datasets/natural-questions), `nq_open/`. With
   `NQ.train.idx.json`, `NQ.dev.idx.json` and `NQ.test.idx.json` of FiD's `dataindex.tar.gz`, train and dev are split as in FiD and Atlas.
2. **A model.** A checkpoint of the original (`model.pth.tar`) or one that `atlas-jax reproduce pretrain_mlm` trained
   ([checkpoints.md](checkpoints.md)).
3. **An index** of Wikipedia of December 2018, built once for all runs of a model, from the passage files of the released corpora
   ([data.md](data.md)).

```bash
atlas-jax data atlas --from text-list-100-sec.jsonl infobox.jsonl --to wiki
atlas-jax data passages wiki --as_passages --out store --model atlas
atlas-jax index build --store store --out index --dtype bfloat16 --model atlas
atlas-jax reproduce nq_64_shot --from downloads --model atlas --index index --out nq_64_shot --size xxl
```

`--from` takes files, folders and patterns. A run takes the files it needs from a folder by their published names, so one folder of
downloads serves several runs. FEVER needs a folder of its own, because other data sets also have a `train.jsonl`. Everything is checked
before the first step: the first records of the files, the model, the index and all names.

    figure       paper     ours  95 % interval  questions
    exact_match  xxl 45.1  …     …              3,610

The table is written to `nq_64_shot/report.html` and `report.json`. `nq_64_shot/results/evaluation.html` has all figures, also by label if
there are labels ([evaluation.md](evaluation.md)). The intervals are 95 % bootstrap intervals over the questions. They do not cover another
choice of examples or another seed.

## Options

| option | effect |
|---|---|
| `--dry-run` | checks everything and prints the steps as commands; on a pod, run these on all hosts with `--multihost` |
| `--size base`, `large`, `xl`, `xxl` | shows the paper's figure for this size; in full runs base and large take 10,000 updates, not 5,000 |
| `--seed S` | chooses the examples and seeds the training |
| `--ids FILE` | trains on listed examples, such as the original's `train.64-shot.jsonl` ([data_select.md](data_select.md)) |
| `--split dev` | evaluates on the dev questions, for choosing settings |
| `--questions N` | evaluates the first N questions |
| `--batch_size N` | sets the batch size in training and evaluation |
| `--reader`, `--retriever` | give two models instead of `--model`, for pre-training |
| `--gin.NAME=VALUE` | is passed to the steps whose gin files know NAME, such as `--gin.MESH_SHAPE='(1, 16, 4)'` |

## The folder, and resuming a run

| path | content |
|---|---|
| `data/` | converted files; `chosen.jsonl` and `chosen.ids` are the training examples |
| `run/` | the run folder; one for each subject in `mmlu_5_shot`, one for each training in `templama` |
| `index/` | only in full runs: they train the passage encoder, so all passages are embedded again, which takes as long as the first index |
| `results/` | results files, and the page of all figures |
| `reproduce.json` | the settings, and the steps that are done |

The same command resumes a stopped run; conversion, training, embedding and evaluation also resume within their step. If somebody changed
the results of a step, it runs again, and so do all later steps. Training refuses examples that differ from those it began with; remove
`run/` in that case. If the settings, published files, model or index have changed, the command is refused and names the difference.

## Three kinds of run that differ

```bash
atlas-jax reproduce templama --from downloads/templama --model atlas --index 2017=index-2017 --index 2020=index-2020 --out templama
atlas-jax reproduce mmlu_5_shot --from downloads/mmlu --model atlas --index index --out mmlu_5_shot
atlas-jax reproduce pretrain_mlm --reader t5 --retriever contriever --index index --out pretrain_mlm
```

- **templama** trains one model on the questions of 2017 and one on those of 2020. It evaluates both on the questions of both years with
  both indexes, and trains a closed-book reader.
- **mmlu_5_shot** trains and evaluates a model for each subject. Its figures are over the questions of all subjects together (micro);
  `results/evaluation.html` has those of each subject. Each of the 57 run folders holds weights. The other MMLU runs train one model, and
  `report.html` has means over subjects (macro) and by group.
- **pretrain_** trains on the passages of the index. The paper has no figure for it.

## All runs

Where files are published: [NaturalQuestions](https://github.com/google-research-datasets/natural-questions),
[TriviaQA](https://nlp.cs.washington.edu/triviaqa/) (`triviaqa-unfiltered`, `triviaqa-rc`), [FEVER](https://fever.ai/dataset/fever.html),
[KILT](https://github.com/facebookresearch/KILT), [MMLU](https://github.com/hendrycks/test),
[TempLAMA](https://github.com/google-research/language/tree/master/language/templama); the lists `*.idx.json` are
[FiD's](https://github.com/facebookresearch/FiD). Figures are in per cent; the paper states no size for some. Files in parentheses are
optional.
"""
HEADER = """| run | what it is | files | trained on | evaluated on | figure: the paper's | remarks |
|---|---|---|---|---|---|---|"""
END = """
## What differs from the paper

- The paper's 64-shot sets are fixed lists. Without `--ids` a seed draws ours, so figures may differ by more than their intervals.
- The last checkpoint is evaluated; the dev questions do not choose one. `train` can evaluate while it trains
  (`--gin.TrainData.eval_file`).
- `mmlu_full` holds back 5,000 auxiliary questions as the original does, but different ones ([data_questions.md](data_questions.md)).
- FEVER and KILT keep the labels of their test sets on servers; the table names the questions that are evaluated instead.
- The ablations train and evaluate only on NaturalQuestions.
- The command cannot check which Wikipedia (2017, 2021, FEVER's) the index holds that you give as `--index`.

Other gin files of `runs/` are not experiments and are refused: """


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='docs/reproduce.md', help='the page (default docs/reproduce.md)')
    with atomic.writing(parser.parse_args().out) as file:
        file.write(page())


def page() -> str:
    """Returns the page's text."""
    rows = [row_of(run, recipe) for run, recipe in RECIPES.items()]
    others = ', '.join(f'`{name}`' for name in recipes.OTHERS)
    return '\n'.join([INTRODUCTION, HEADER, *rows, END + others]) + '.\n'


def row_of(run: str, recipe: Recipe) -> str:
    """Returns a run's line of the table."""
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
