import json
import pathlib
import sys

import numpy as np
import pytest

from tests.testing import published

tensorflow_datasets = pytest.importorskip('tensorflow_datasets')
# Imported after the check for tensorflow-datasets, which depends on it through grain.
from array_record.python import array_record_module  # noqa: E402

features = tensorflow_datasets.features
TEXT, TEXTS = features.Text(), features.Sequence(features.Text())
# The features that the data sets of these names declare.
FEATURES = {
    'natural_questions_open': {'question': TEXT, 'answer': TEXTS},
    'web_questions': {'url': TEXT, 'question': TEXT, 'answers': TEXTS},
    'bool_q': {'question': TEXT, 'passage': TEXT, 'answer': np.bool_, 'title': TEXT},
    'squad': {'id': TEXT, 'title': TEXT, 'context': TEXT, 'question': TEXT,
              'answers': features.Sequence({'text': TEXT, 'answer_start': np.int32})},
    'trivia_qa': {'question': TEXT, 'question_id': TEXT, 'answer': {'aliases': TEXTS, 'value': TEXT}}}


def write(folder: pathlib.Path, name: str, splits: dict[str, list[dict]]) -> pathlib.Path:
    """Writes a folder in tensorflow-datasets' form, with two shards for each split that has enough rows."""
    declared = features.FeaturesDict(FEATURES[name])
    folder.mkdir()
    described = []
    for split, rows in splits.items():
        lengths = [len(rows) // 2, len(rows) - len(rows) // 2] if len(rows) > 1 else [len(rows)]
        todo = [declared.serialize_example(declared.encode_example(row)) for row in rows]
        for shard, length in enumerate(lengths):
            path = folder / f'{name}-{split}.array_record-{shard:05}-of-{len(lengths):05}'
            writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
            for _ in range(length):
                writer.write(todo.pop(0))
            writer.close()
        described.append({'name': split, 'shardLengths': [str(length) for length in lengths], 'numBytes': '1',
                          'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'})
    declared.save_config(folder)
    info = {'name': name, 'version': '1.0.0', 'fileFormat': 'array_record', 'splits': described}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    return folder


def test_questions_without_tensorflow(tmp_path):
    folder = write(tmp_path / '1.0.0', 'natural_questions_open', {
        'train': [{'question': f'q{number} ∂', 'answer': ['Лев', 'b', 'b']} for number in range(5)],
        'validation': [{'question': 'who', 'answer': ['me']}]})
    made = published.asked('tfds', tmp_path, folder)
    assert [example.question for example in made['train']] == [f'q{number} ∂' for number in range(5)]
    assert (made['train'][4].query, made['train'][4].target) == ('question: q4 ∂ answer: <extra_id_0>', '<extra_id_0> Лев')
    assert made['train'][0].answers == ['Лев', 'b'] and made['dev'][0].target == '<extra_id_0> me'
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(('name', 'row', 'expected'), [
    ('web_questions', {'url': 'u', 'question': 'q', 'answers': ['a', 'b']}, {'question': 'q', 'answers': ['a', 'b']}),
    ('bool_q', {'question': 'q', 'passage': 'p', 'answer': True, 'title': 't'},
     {'question': 'q', 'passages': [{'title': 't', 'text': 'p'}], 'answers': ['yes']}),
    ('squad', {'id': 'x', 'title': 'T_1', 'context': 'c', 'question': 'q',
               'answers': [{'text': 'a', 'answer_start': 0}, {'text': 'b', 'answer_start': 3}]},
     {'id': 'x', 'question': 'q', 'answers': ['a', 'b'], 'gold_docids': ['T 1#0'],
      'passages': [{'id': 'T 1#0', 'title': 'T 1', 'text': 'c'}]}),
    ('trivia_qa', {'question': 'q', 'question_id': 'tc_1', 'answer': {'aliases': ['x'], 'value': 'OSLO'}},
     {'id': 'tc_1', 'question': 'q', 'answers': ['OSLO', 'x'], 'target': 'Oslo'}),
    ('trivia_qa', {'question': 'q', 'question_id': 'tc_1', 'answer': {'aliases': [], 'value': '<unk>'}}, {'id': 'tc_1', 'question': 'q'})])
def test_each_data_set(tmp_path, name, row, expected):
    rows, bad = published.read('tfds', write(tmp_path / name, name, {'test': [row]}))
    assert not bad and rows == {'test': [expected]}


def test_bad_rows_are_told_with_their_place(tmp_path):
    rows = [{'question': 'q', 'answer': ['a']}, {'question': 'q', 'answer': []}]
    made, bad = published.read('tfds', write(tmp_path / 'x', 'natural_questions_open', {'train': rows}))
    assert len(made['train']) == 1 and len(bad) == 1 and 'field "train[1].answer": no answer that is not blank' in bad[0]


@pytest.mark.parametrize(('change', 'said'), [
    (('dataset_info.json', '"array_record"', '"tfrecord"'), 'expected "array_record", which needs no TensorFlow; build it by `tfds build'),
    (('dataset_info.json', 'natural_questions_open"', 'mnist"'), "'mnist' is not one of natural_questions_open, "),
    (('dataset_info.json', '{', '['), 'dataset_info.json or features.json cannot be read'),
    (('dataset_info.json', '"splits"', '"split"'), 'cannot open it'),
    (('features.json', 'tensorflow_datasets.core.features.text_feature.Text', 'antigravity.Text'), "'antigravity.Text' is not a feature"),
    (('features.json', 'featuresDict', 'other'), 'cannot open it')])
def test_other_folders_are_refused(tmp_path, change, said):
    folder = write(tmp_path / 'x', 'natural_questions_open', {'train': [{'question': 'q', 'answer': ['a']}]})
    path = folder / change[0]
    path.write_text(path.read_text().replace(*change[1:]))
    assert said in published.refusal('tfds', folder) and 'antigravity' not in sys.modules


def test_a_damaged_file_is_told(tmp_path):
    folder = write(tmp_path / 'x', 'natural_questions_open', {'train': [{'question': 'q' * 99, 'answer': ['a']}] * 3})
    shard = next(folder.glob('*array_record-00000*'))
    shard.write_bytes(shard.read_bytes()[:-70_000])
    with pytest.raises(Exception, match='train: broken after example'):
        published.read('tfds', folder)
    assert 'expected one folder of tensorflow-datasets' in published.refusal('tfds', shard)
