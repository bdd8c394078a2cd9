"""Original checkpoints: tied and untied retrievers, T5 1.0 and 1.1, their options, and refusals."""

import dataclasses

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import convert, loading, original
from atlas_jax.models import atlas
from atlas_jax.tasks import mlm, multiple_choice, qa
from tests.testing import loaded, streams, tiny_checkpoints
from tests.testing.tiny_checkpoints import BERT, V10, V11, model

pytestmark = pytest.mark.torch
RETRIEVER = dataclasses.replace(BERT, layer_norm='second_moment')


@pytest.mark.parametrize('reader', [V11, V10], ids=['untied output', 'tied output'])
@pytest.mark.parametrize('untied', [False, True], ids=['one encoder', 'two encoders'])
def test_all_parameters(tmp_path, reader, untied):
    pytest.importorskip('torch')
    path = tiny_checkpoints.write_original(tmp_path, reader, untied)
    opened = loading.open_model(tmp_path)
    assert opened.path == path and opened.step == 3 and opened.n_context == 4
    tiny_checkpoints.assert_equal(opened.part('reader'), model(reader))
    retriever = opened.part('retriever')
    assert retriever.config.layer_norm == 'second_moment' and retriever.config.num_heads == 2 and retriever.config.dropout_rate == 0
    tiny_checkpoints.assert_equal(retriever, model(RETRIEVER))
    assert ('passage_encoder' in opened.openers) == untied
    if untied:
        name = 'bert/layers_1/mlp/wi/kernel'
        np.testing.assert_array_equal(opened.part('passage_encoder').read(name), model(RETRIEVER).read(name) + 1)


def test_options_that_matter(tmp_path):
    pytest.importorskip('torch')
    tiny_checkpoints.write_original(
        tmp_path, text_maxlength=48, target_maxlength=9, encoder_format='{query} {text}', retriever_format='{text}', n_context=20,
        decoder_format=None, task='mlm', mlm_noise_density=0.2, mlm_mean_noise_span_length=4, gold_score_mode='ppmean', temperature_gold=1,
        temperature_score=0.1, retriever_n_context=6, query_side_retriever_training=True)
    opened = loading.open_model(tmp_path)
    assert opened.inputs == atlas.InputConfig(encoder_format='{query} {text}', retriever_format='{text}', text_max_tokens=48,
                                              retriever_max_tokens=48, target_max_tokens=9)
    assert opened.n_context == 20 and opened.task == mlm.MLMTask(noise_density=0.2, mean_span_tokens=4.0)
    assert original.distillation('x', opened.options) == {
        'gold_score_mode': 'ppmean', 'temperature_gold': 1.0, 'temperature_score': 0.1, 'retriever_n_context': 6,
        'retriever_training': 'query_side'}


def test_defaults_tasks_and_wrong_options():
    assert original.inputs('x', {}) == atlas.InputConfig(retriever_max_tokens=200)
    assert original.n_context('x', {'closed_book': True, 'n_context': 4}) == 0
    assert original.task('x', {}) == qa.QATask()
    assert original.task('x', {'task': 'multiple_choice', 'multiple_choice_eval_permutations': 'all', 'qa_prompt_format': '?'}) == \
        multiple_choice.MultipleChoiceTask(eval_permutations='all')
    assert original.distillation('x', {'train_retriever': False}) == {'retriever_training': 'frozen'}
    assert original.options_to_json({'b': [1, None], 'a': object()}) == {'b': [1, None]}
    with pytest.raises(errors.ConfigError, match="no task 'sleep'"):
        original.task('x', {'task': 'sleep'})
    for call, options in ((original.inputs, {'text_maxlength': '200'}), (original.n_context, {'n_context': 1.5}),
                          (original.distillation, {'temperature_gold': True})):
        with pytest.raises(errors.ModelFolderError, match=f'x: opt.{next(iter(options))} is .* expected (int|float)'):
            call('x', options)


def test_heads_come_from_a_config_or_from_a_known_size(tmp_path):
    pytest.importorskip('torch')
    path = tiny_checkpoints.write_original(tmp_path)
    (tmp_path / 'retriever' / 'config.json').rename(tmp_path / 'config.json')
    with pytest.raises(errors.ModelFolderError, match='width 6 may have any number of heads; put its config.json into .*/retriever, or'):
        loaded.retriever(path)
    assert original.Original(path).retriever(tmp_path).config.num_heads == 2
    loaded.reader(path)  # the reader asks for no config.json


@pytest.mark.parametrize('model', [{}, {'module.weight': 1}], ids=['empty', 'of something else'])
def test_a_checkpoint_without_parts_is_not_converted_into_nothing(tmp_path, model):
    torch = pytest.importorskip('torch')
    path = tmp_path / 'model.pth.tar'
    torch.save({'step': 3, 'model': {name: torch.zeros(value) for name, value in model.items()}}, path)
    for target in convert.TARGETS:
        with pytest.raises(errors.ModelFolderError, match='model.pth.tar: holds no parameter of a reader or a retriever'):
            convert.convert(convert.Request(path, target, tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_parts_that_are_missing_or_wrong(tmp_path):
    torch = pytest.importorskip('torch')
    path = tiny_checkpoints.write_original(tmp_path)
    saved = torch.load(path, weights_only=False)
    weights = saved['model']
    name = 'decoder.block.1.layer.1.EncDecAttention.k.weight'
    for changes, message in (
            ({f'reader.{name}': None}, rf'lacks parameters {name} \[10, 6\]'),
            ({f'reader.{name}': torch.zeros(6, 10)}, rf'{name} has shape \[6, 10\], expected \[10, 6\]'),
            ({'reader.encoder.embed_tokens.weight': torch.zeros(37, 6)}, 'encoder.embed_tokens.weight differs from shared.weight'),
            ({'reader.shared.weight': torch.zeros(0, 6), 'reader.encoder.embed_tokens.weight': torch.zeros(0, 6),
              'reader.lm_head.weight': torch.zeros(0, 6)}, 'vocab_size is 0; it must be at least 1'),
            ({key: None for key in weights if key.startswith('reader.')}, 'holds no reader, only retriever')):
        changed = {key: value for key, value in (weights | changes).items() if value is not None}
        torch.save(saved | {'model': changed}, path)
        with pytest.raises(errors.ModelFolderError, match=message):
            loaded.reader(path)


def test_the_recorded_checkpoint_opens_where_its_retriever_lies_beside():
    opened = loading.open_model(streams.FIXTURES / 'parity' / 'atlas_checkpoint')
    retriever = opened.part('retriever').config
    assert opened.step == 20 and retriever.num_heads == 4 and retriever.layer_norm == 'second_moment'
    assert opened.options['device'] == 'cpu' and opened.task == qa.QATask(qa_prompt_format='{question}')
