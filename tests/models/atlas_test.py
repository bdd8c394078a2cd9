"""The model's configuration: invalid values, limits, and the round trip through JSON."""

import dataclasses
import json

import pytest

from atlas_jax import errors
from atlas_jax.models import atlas
from tests.testing import tiny, word_tokenizers


def test_configuration_survives_json():
    config = tiny.config(n_context=5)
    assert atlas.config_from_dict(json.loads(json.dumps(atlas.config_to_dict(config)))) == config


@pytest.mark.parametrize('damage', [lambda values: values.pop('reader'), lambda values: values['inputs'].update(colour='red'),
                                    lambda values: values['retriever'].pop('emb_dim') and values['reader'].pop('emb_dim')])
def test_another_version_is_refused(damage):
    values = atlas.config_to_dict(tiny.config())
    damage(values)
    with pytest.raises(errors.ModelFolderError, match=r'model\.json'):
        atlas.config_from_dict(values)


@pytest.mark.parametrize('change, word', [({'text_max_tokens': 1}, 'at least 2'), ({'query_max_tokens': 200}, 'smaller than'),
                                          ({'target_max_tokens': 0}, 'target_max_tokens')])
def test_limits_that_cannot_be(change, word):
    with pytest.raises(errors.ConfigError, match=word):
        atlas.InputConfig(**change)


def test_limits_that_are_not_given_are_the_tasks():
    given, left = atlas.InputConfig(query_max_tokens=7, target_max_tokens=5), atlas.InputConfig(text_max_tokens=40)
    assert given.for_task(90, 30) == given and (given.query_limit, given.target_limit) == (7, 5)
    assert left.for_task(20, 30) == dataclasses.replace(left, query_max_tokens=20, target_max_tokens=30)
    # A quarter of the input is for the passage.
    assert left.for_task(90, 30).query_max_tokens == left.query_limit == 30 and left.target_limit == 16
    again = atlas.config_from_dict(json.loads(json.dumps(atlas.config_to_dict(dataclasses.replace(tiny.config(), inputs=left)))))
    assert again.inputs == left


def test_passages_never_exceed_the_retrievers_positions():
    config = atlas.AtlasConfig(tiny.READER, tiny.RETRIEVER, atlas.InputConfig(text_max_tokens=300))
    assert config.retriever_max_tokens == tiny.RETRIEVER.max_positions


def test_the_retriever_has_a_limit_of_its_own():
    retriever = dataclasses.replace(tiny.RETRIEVER, max_tokens=31)
    for text, limit, expected in ((300, None, 31), (70, None, 31), (300, 17, 17), (300, 40, 31)):
        inputs = atlas.InputConfig(text_max_tokens=text, retriever_max_tokens=limit)
        assert atlas.AtlasConfig(tiny.READER, retriever, inputs).retriever_max_tokens == expected


def test_files_from_before_the_retrievers_limit_mean_that_of_the_text():
    values = atlas.config_to_dict(tiny.config())
    del values['inputs']['retriever_max_tokens'], values['inputs']['retriever_query_format'], values['retriever']['query_prompt']
    assert atlas.config_from_dict(values).inputs.retriever_max_tokens == tiny.INPUTS.text_max_tokens


def test_prompts_stand_before_the_formats():
    retriever = dataclasses.replace(tiny.RETRIEVER, query_prompt='query {x}: ', passage_prompt='passage: ')
    config = dataclasses.replace(tiny.config(), retriever=retriever)
    assert (config.query_format, config.passage_format) == ('query {{x}}: {query}', 'passage: {title} {text}')
    tokenizer = word_tokenizers.bert()
    segments = atlas.cut_segments(config, word_tokenizers.t5(), tokenizer).retriever
    assert segments[1].ids == tuple(tokenizer.encode('passage: '))
    touching = dataclasses.replace(config, retriever=dataclasses.replace(retriever, passage_prompt='passage'))
    with pytest.raises(errors.FormatError, match='text touches the field'):
        atlas.cut_segments(touching, word_tokenizers.t5(), tokenizer)


def test_segments_carry_the_special_tokens():
    reader, retriever = word_tokenizers.t5(), word_tokenizers.bert()
    segments = atlas.cut_segments(tiny.config(), reader, retriever)
    assert segments.reader[-1].ids == segments.closed_book[-1].ids == (reader.eos_id,)
    assert (segments.retriever[0].ids, segments.retriever[-1].ids) == ((retriever.cls_id,), (retriever.sep_id,))
    assert [segment.kind for segment in segments.reader if segment.kind != 'literal'] == ['query', 'title', 'text']


@pytest.mark.parametrize(('part', 'value'), [('reader', []), ('retriever', None), ('inputs', 3), ('n_context', 'x'), ('n_context', -1)])
def test_parts_of_another_type_are_refused(part, value):
    from tests.testing import tiny
    values = atlas.config_to_dict(tiny.config())
    assert atlas.config_from_dict(values) == tiny.config()
    with pytest.raises(errors.ModelFolderError, match='model.json does not describe .*(reader|retriever|inputs|n_context) is'):
        atlas.config_from_dict(values | {part: value})
