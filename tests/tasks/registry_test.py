"""Every task by name, against the original's recorded examples, and as JSON values."""

import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.tasks import registry

_RECORDED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'tasks.json'
_CASES = [case for case in json.loads(_RECORDED.read_text(encoding='utf-8'))['process'] if not case['task'].startswith('qa')]
_CHANGED = {'qa': {'draw_target': True}, 'kilt': {'draw_target': True}, 'mlm': {'noise_density': 0.3}, 'lm': {'max_context_ratio': 0.7},
            'section': {'min_words': 3}, 'multiple_choice': {'eval_permutations': 'cyclic'}, 'fever': {'qa_prompt_format': 'Q {question}'}}


@pytest.mark.parametrize('case', _CASES, ids=[f'{case["task"]} {json.dumps(case["example"])}' for case in _CASES])
def test_equals_the_original(case):
    example = registry.make(case['task']).example(case['example'], 5)
    if case['task'] == 'section':
        # Recorded with min_words; both leave out rows without a section.
        task = registry.make('section', min_words=len(case['example']['text'].split()) + 1)
        assert case['output'] is None and task.example(case['example'], 5) is None
        assert (example is None) == ('section' not in case['example'])
        return
    output = case['output']
    assert (example.query, example.target, example.answers) == (output['query'], output['target'], output['answers'])
    # The original loses the passages of FEVER and KILT examples.
    assert [passage.text for passage in example.passages] == [passage['text'] for passage in case['example'].get('passages', ())]
    if 'choices' in output:
        assert [choice[-1] for choice in example.choices] == list(output['choices'])


@pytest.mark.parametrize('name', registry.TASKS)
def test_json_and_back(name):
    task = registry.make(name, **_CHANGED.get(name, {}))
    assert registry.from_dict(json.loads(json.dumps(registry.to_dict(task)))) == task
    assert registry.name_of(task) == name


def test_a_model_of_before_the_tasks_had_names():
    assert registry.from_dict({'qa_prompt_format': '{question}', 'target_format': '{target}'}) == registry.make(
        'qa', qa_prompt_format='{question}', target_format='{target}')


def test_wrong_names_list_the_valid_ones():
    with pytest.raises(errors.ConfigError, match="no task 'q'; choose one of base, fever, kilt, lm, mlm, multiple_choice, qa, section"):
        registry.make('q')
    with pytest.raises(errors.ConfigError, match='mlm has no option density; it has noise_density, mean_span_tokens, min_words'):
        registry.make('mlm', density=1)
    with pytest.raises(errors.ConfigError, match='eval_permutations is "some"; choose one of single, cyclic, all'):
        registry.make('multiple_choice', eval_permutations='some')


@pytest.mark.parametrize('name, row, field', [
    ('base', {'query': ' ', 'target': 't'}, 'query'), ('base', {'target': 't'}, 'query'), ('base', {'query': 'q', 'target': 7}, 'target'),
    ('fever', {'claim': 3}, 'claim'), ('fever', {'claim': 'c', 'label': None}, 'label'), ('kilt', {'output': []}, 'input'),
    ('kilt', {'input': 'i', 'output': 'a'}, 'output'), ('kilt', {'input': 'i', 'output': [{'answer': ' '}]}, 'output'),
    ('kilt', {'input': 'i', 'output': [{'answer': 3}]}, 'output'), ('mlm', {'id': '3'}, 'text'), ('lm', {'text': 3}, 'text'),
    ('lm', {'text': 'a b', 'id': []}, 'id'), ('section', {'section': 'S', 'text': 't'}, 'title'), ('section', {'title': 'T'}, 'text'),
    ('section', {'title': 'T', 'section': None, 'text': 't'}, 'section'), ('multiple_choice', {'question': 'q', 'answer': 'A'}, 'options'),
    ('multiple_choice', {'question': 'q', 'options': {'A': 'x', 'C': 'y'}, 'answer': 'A'}, 'options'),
    ('multiple_choice', {'question': 'q', 'options': {'A': 'x'}, 'answer': 'A'}, 'options'),
    ('multiple_choice', {'question': 'q', 'options': {'A': 'x', 'B': 'y'}}, 'answer'),
    ('multiple_choice', {'question': 'q', 'options': {'A': 'x', 'B': 'y'}, 'answer': 'C'}, 'answer')])
def test_wrong_rows(name, row, field):
    with pytest.raises(errors.ConfigError, match=f'^example 4, field "{field}": [^\n]*$'):
        registry.make(name).example(row, 4)


def test_kilt_gold_docids_are_the_pages_of_its_provenance():
    row = {'input': 'i', 'output': [{'answer': 'a', 'provenance': [{'wikipedia_id': '12'}, {'wikipedia_id': 13}]},
                                    {'answer': 'b', 'provenance': [{'wikipedia_id': '12'}, {'title': 'no id'}]}, {'provenance': None}]}
    example = registry.make('kilt').example(row, 0)
    assert example.gold_docids == ['12', '13'] and example.answers == ['a', 'b']


@pytest.mark.parametrize(('values', 'problem'), [
    ({'name': []}, 'no task \\[\\]'), ({'name': 3}, 'no task 3'),
    ({'name': 'qa', 'qa_prompt_format': 5}, 'qa_prompt_format is 5, expected str'),
    ({'name': 'mlm', 'noise_density': True}, 'noise_density is True, expected float'), ({'name': 'mlm', 'min_words': '3'}, 'expected int'),
    ({'name': 'lm', 'min_context_ratio': float('nan')}, 'expected float')])
def test_options_of_another_type_are_refused(values, problem):
    with pytest.raises(errors.ConfigError, match=problem):
        registry.from_dict(values)
