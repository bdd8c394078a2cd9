"""How far it is from `train` to the loss: frames of a traceback, and the files that they are in."""

import pathlib
import traceback

import pytest

import atlas_jax
from atlas_jax import train
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import joint_loss
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

PACKAGE = pathlib.Path(atlas_jax.__file__).parent
# A program of its own: one that another test has traced would not be traced again.
OPTIMIZER = OptimizerConfig(learning_rate=0.03, schedule='fixed', warmup_steps=0, total_steps=1)


class _Reached(Exception):
    """The loss is traced."""


def test_nine_frames_in_four_files_lie_between_train_and_the_loss(tmp_path, monkeypatch):
    atlas = tiny_run.atlas()
    loaded = train.Loaded(atlas, tiny_run.examples(atlas), tiny_run.index(atlas, tmp_path))
    monkeypatch.setattr(train, 'load', lambda *_: loaded)

    def reached(*_):
        raise _Reached

    # The first thing that the joint loss does: its own frame is the last one of ours.
    monkeypatch.setattr(joint_loss.t5, 'shift_right', reached)
    data = train.TrainData('examples.jsonl', 'index')
    with pytest.raises(_Reached) as ended:
        train.train(train.RunConfig(str(tmp_path / 'run')), data, None, OPTIMIZER, spec_lib.DistillConfig(retriever_n_context=2))
    frames = [(pathlib.Path(frame.filename).relative_to(PACKAGE).as_posix(), frame.name)
              for frame in traceback.extract_tb(ended.tb) if pathlib.Path(frame.filename).is_relative_to(PACKAGE)]
    assert frames[0] == ('train.py', 'train') and frames[-1] == ('training/joint_loss.py', 'joint_loss')
    assert len(frames) <= 9 and len({file for file, _ in frames}) <= 4, frames
