"""Our own run folders, parameter by parameter: stacked layers are separated, and parts that do not fit are refused."""

import json

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import own, weights
from atlas_jax.io import contents
from atlas_jax.models import atlas
from atlas_jax.tasks import qa
from tests.testing.tiny_checkpoints import BERT, V11, assert_equal, model

CONFIG = atlas.AtlasConfig(V11, BERT, atlas.InputConfig(text_max_tokens=13, query_max_tokens=5, target_max_tokens=3), 3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('own') / 'run'
    own.write(path, own.describe(CONFIG, qa.QATask(), False), {'reader': model(V11), 'retriever': model(BERT)})
    return path


def test_what_is_written_is_read(folder):
    run = own.Run(folder)
    assert run.config == CONFIG and run.step == 0 and run.parts == ('reader', 'retriever')
    assert run.description['has_passage_encoder'] is False and run.description['n_context'] == 3
    assert_equal(run.part('reader'), model(V11))
    assert_equal(run.part('retriever'), model(BERT))


def test_only_the_asked_layer_is_taken_from_a_stacked_array(folder):
    opened = own.Run(folder).part('reader')
    assert opened.shapes['encoder/layers_2/mlp/wo/kernel'] == (7, 6)
    np.testing.assert_array_equal(opened.read('encoder/layers_2/mlp/wo/kernel'), model(V11).read('encoder/layers_2/mlp/wo/kernel'))


def test_another_configuration_than_the_checkpoint_s(folder, tmp_path):
    description = json.loads((folder / 'model.json').read_text())
    (tmp_path / 'checkpoints').symlink_to(folder / 'checkpoints')
    description['reader']['num_encoder_layers'] = 2
    (tmp_path / 'model.json').write_text(json.dumps(description))
    # Without checksums, which would not fit the changed model.json.
    with contents.unchecked(), pytest.raises(errors.ModelFolderError, match='has unknown parameters encoder/layers_2/.* not expected by'):
        own.Run(tmp_path).part('reader')


def test_no_model(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='not an atlas_jax model'):
        own.Run(tmp_path)


def test_one_parameter_is_in_memory_at_a_time(tmp_path):
    reads = []
    source = model(V11)
    watched = weights.Weights(V11, source.shapes, lambda path: reads.append(path) or source.read(path))
    own.write(tmp_path / 'run', own.describe(CONFIG, qa.QATask(), False), {'reader': watched, 'retriever': model(BERT)})
    assert sorted(reads) == sorted(source.shapes)
