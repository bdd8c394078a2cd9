"""PyTorch files without PyTorch: equal to what it reads, refused where they hold objects, one line where they are broken."""

import argparse
import collections
import io
import pathlib
import pickle
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import torch_file


def _zip(path: pathlib.Path, content: bytes, storages: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('x/data.pkl', content)
        for key, data in (storages or {}).items():
            archive.writestr(f'x/data/{key}', data)
        for name, data in records.items():
            archive.writestr(f'x/{name}', data)
    return path


class _Calls:
    """Pickles as a call of any function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def _write_mark(path):
    pathlib.Path(path).write_text('executed')


@pytest.mark.torch
@pytest.mark.parametrize('zipped', [True, False])
def test_equals_pytorch(tmp_path, zipped):
    torch = pytest.importorskip('torch')
    flat = torch.randn(35, generator=torch.Generator().manual_seed(0))
    tensors = collections.OrderedDict(
        whole=flat.reshape(5, 7), transposed=flat.reshape(5, 7).T, part=flat.reshape(5, 7)[1:3, 2:6], scalar=torch.tensor(3.5),
        half=flat.half(), brain=flat.to(torch.bfloat16), double=flat.double(), whole_numbers=torch.arange(6).reshape(2, 3),
        bools=torch.tensor([True, False]), empty=torch.zeros(0, 3), parameter=torch.nn.Parameter(flat[:3]), tensor_of_rows=flat[7:14])
    torch.save(tensors, tmp_path / 'x.bin', _use_new_zipfile_serialization=zipped)
    file = torch_file.TorchFile(tmp_path / 'x.bin')
    assert file.names() == set(tensors)
    for name, tensor in tensors.items():
        assert file.shape(name) == tuple(tensor.shape)
        found = file.read(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, tensor.detach().float().numpy(), err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize('zipped', [True, False])
def test_state_dict_optimiser_and_options(tmp_path, zipped):
    torch = pytest.importorskip('torch')
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimiser.step()
    opt = argparse.Namespace(lr=1e-4, names=['a', 'b'], nested={'k': (1, None)}, big=2**80, device=torch.device('cuda', 1))
    torch.save({'model': layer.state_dict(), 'optimizer': optimiser.state_dict(), 'opt': opt}, tmp_path / 'x',
               _use_new_zipfile_serialization=zipped)
    file = torch_file.TorchFile(tmp_path / 'x', within='model')
    assert file.names() == {'weight', 'bias'}
    assert file.options == {'lr': 1e-4, 'names': ['a', 'b'], 'nested': {'k': (1, None)}, 'big': 2**80, 'device': 'cuda:1'}


@pytest.mark.parametrize(('value', 'named'), [
    (_Calls(print, ('x',)), 'print'), (_Calls(eval, ('1',)), 'eval'), ({'a': [_Calls(_write_mark, ('x',))]}, '_write_mark'),
    (collections.Counter('a'), 'collections.Counter'), (pathlib.PurePosixPath('x'), 'PurePosixPath'), (np.float64(1), 'scalar'),
    ({1, 2}, '[.]set|EMPTY_SET'), (argparse.ArgumentParser, 'ArgumentParser'), (1j, 'complex')])
@pytest.mark.parametrize('protocol', [2, 4])
def test_objects_are_refused_by_name_and_never_made(tmp_path, monkeypatch, value, named, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({'weight': value}, protocol)
    with pytest.raises(errors.ModelFolderError, match=f'x.bin: its pickle holds .*({named}).* never executed') as caught:
        torch_file.TorchFile(_zip(tmp_path / 'x.bin', content))
    assert '\n' not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ['x.bin']


class _State:
    def __reduce__(self):
        return collections.OrderedDict, (), {'anything': 1}


def test_states_and_calls_of_known_names_are_limited(tmp_path):
    for value, message in ((_State(), 'a state for dict'), (_Calls(argparse.Namespace, ()), 'a call of argparse.Namespace')):
        with pytest.raises(errors.ModelFolderError, match=message):
            torch_file.TorchFile(_zip(tmp_path / 'x.bin', pickle.dumps({'a': value}, 2)))


def _tensor_pickle(elements: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """{'w': a tensor in storage '0'}, in opcodes of protocol 2."""
    def put(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP
    storage = b'(' + put('storage') + b'ctorch\nFloatStorage\n' + put('0') + put('cpu') + put(elements) + b'tQ'
    arguments = b'(' + storage + put(offset) + put(shape) + put(strides) + b'\x89ccollections\nOrderedDict\n)Rt'
    return b'\x80\x02}' + put('w') + b'ctorch._utils\n_rebuild_tensor_v2\n' + arguments + b'Rs.'


def test_a_tensor_lies_within_its_storage(tmp_path):
    data = np.arange(6, dtype=np.float32)
    file = torch_file.TorchFile(_zip(tmp_path / 'x.bin', _tensor_pickle(6, 1, (2, 2), (2, 1)), {'0': data.tobytes()}))
    np.testing.assert_array_equal(file.read('w'), [[1, 2], [3, 4]])
    for wrong in ((6, 5, (2,), (1,)), (6, 0, (2, 4), (3, 1)), (6, 0, (10**12,), (0,)), (6, -1, (2,), (1,)), (6, 0, (2,), (-1,)),
                  (6, 0, (2, 2), (1,)), (6, 0, 'ab', 'cd')):
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            torch_file.TorchFile(_zip(tmp_path / 'x.bin', _tensor_pickle(*wrong), {'0': data.tobytes()}))
    for storages in ({}, {'0': data.tobytes()[:-1]}, {'0': data.tobytes()[:-4]}):
        file = torch_file.TorchFile(_zip(tmp_path / 'x.bin', _tensor_pickle(6, 0, (2,), (1,)), storages))
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            file.read('w')


def test_other_files_and_other_contents(tmp_path):
    whole = _tensor_pickle(1, 0, (1,), (1,))
    for wrong in (b'', b'PK\x03\x04', b'hello', pickle.dumps(1), pickle.dumps('x' * 9, 4)):
        (tmp_path / 'x.bin').write_bytes(wrong)
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            torch_file.TorchFile(tmp_path / 'x.bin')
    for arguments in ({'compression': zipfile.ZIP_DEFLATED}, {'byteorder': b'big'}):
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            torch_file.TorchFile(_zip(tmp_path / 'x.bin', whole, **arguments))
    with pytest.raises(errors.ModelFolderError, match='no such file'):
        torch_file.TorchFile(tmp_path / 'nowhere.bin')
    for value, message in (([1], 'expected a dict of tensors, found list'), ({'a': 1}, 'a is no tensor but int')):
        with pytest.raises(errors.ModelFolderError, match=message):
            torch_file.TorchFile(_zip(tmp_path / 'x.bin', pickle.dumps(value, 2)))
    with pytest.raises(errors.ModelFolderError, match="under 'model'"):
        torch_file.TorchFile(_zip(tmp_path / 'x.bin', whole), within='model')


def test_a_flipped_bit_in_the_data_is_found(tmp_path):
    path = _zip(tmp_path / 'x.bin', _tensor_pickle(3, 0, (3,), (1,)), {'0': np.float32([1, 2, 12345]).tobytes()})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(12345).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match='BadZipFile'):
        torch_file.TorchFile(path).read('w')


_WHOLE = pickle.dumps({'a': [1, 'x', (2.5, None)], 'opt': argparse.Namespace(b=1), 'c': collections.OrderedDict(d=2**70)}, 2)


def _loads(content: bytes) -> None:
    """Reads, or says in one of the announced ways that it cannot."""
    try:
        torch_file.load_pickle(io.BytesIO(content))
    except (torch_file.Refused, *torch_file._BROKEN_PICKLE):
        pass


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 60))
def test_altered_pickles_give_nothing_but_the_announced_errors(changes, cut):
    content = bytearray(_WHOLE + _tensor_pickle(6, 1, (2, 2), (2, 1)))
    for position, value in changes:
        content[position] = value
    _loads(bytes(content[cut:] if cut % 2 else content[:len(content) - cut]))


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.binary(max_size=60))
def test_random_opcodes_give_nothing_but_the_announced_errors(content):
    _loads(content)
    _loads(b'\x80\x02}(' + content + b'.')


def test_altered_files_give_one_line(tmp_path):
    path = _zip(tmp_path / 'x.bin', _tensor_pickle(6, 1, (2, 2), (2, 1)), {'0': bytes(24)})
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for position in generator.integers(0, len(whole), 3):
            content[position] = generator.integers(256)
        path.write_bytes(content[:generator.integers(1, len(whole) + 1)] if generator.random() < 0.3 else content)
        try:
            file = torch_file.TorchFile(path)
            for name in file.names():
                file.read(name)
        except errors.UserError as error:
            assert '\n' not in str(error)


def _shared(levels: int = 27) -> bytes:
    """Opcodes that push a tuple which holds another one twice, so many times over: 2 bytes a level."""
    return b')' + b'2\x86' * levels


@pytest.mark.parametrize('content', [
    # a key of a storage, in the older layout; a persistent id; a device; a name; a shape
    b'\x80\x02(' + _shared() + b'l.', b'\x80\x02' + _shared() + b'Q.', b'\x80\x02ctorch\ndevice\n' + _shared() + b'\x85R.',
    b'\x80\x02}' + _shared() + b'K\x01s.', b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00' + _shared() + _shared() + b'tR.'])
def test_tuples_that_share_tuples_are_refused_at_once(tmp_path, content):
    with pytest.raises(errors.ModelFolderError):
        torch_file.TorchFile(_zip(tmp_path / 'x.bin', content))
    legacy = b''.join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}, {})) + content
    (tmp_path / 'y.bin').write_bytes(legacy)
    with pytest.raises(errors.ModelFolderError):
        torch_file.TorchFile(tmp_path / 'y.bin').read('w')


@pytest.mark.parametrize('value', [_shared(), b']q\x00h\x00a', b'](' + b'K\x01' * 100_001 + b'e'])
def test_options_that_cannot_be_written_out_are_refused(tmp_path, value):
    opt = b'cargparse\nNamespace\n)\x81}X\x04\0\0\0task' + value + b'sb'
    file = torch_file.TorchFile(_zip(tmp_path / 'x.bin', b'\x80\x02}(X\x05\0\0\0model}X\x03\0\0\0opt' + opt + b'u.'), within='model')
    with pytest.raises(errors.ModelFolderError, match='more than 100,000 values'):
        _ = file.options


def test_many_marks_take_linear_time(tmp_path):
    # 60,000 tuples below 100,000 numbers: to look for the mark from the bottom would take 6 * 10**9 steps.
    content = b'\x80\x02' + b'K\x01' * 100_000 + b'(t0' * 60_000 + b'}.'
    assert torch_file.TorchFile(_zip(tmp_path / 'x.bin', content)).names() == set()
    # POP takes a mark too, as pickle's does; a mark is never a value.
    assert torch_file.load_pickle(io.BytesIO(b'\x80\x02K\x05(0.')) == 5
    for broken in (b'\x80\x02(.', b'\x80\x02t.', b'\x80\x02}(s.', b'\x80\x02(2.', b'\x80\x02]K\x01(a.'):
        with pytest.raises((ValueError, IndexError)):
            torch_file.load_pickle(io.BytesIO(broken))


def test_a_storage_is_measured_before_it_is_read(tmp_path):
    (tmp_path / 'x.bin').write_bytes(b'')
    with open(tmp_path / 'holes', 'wb') as holes:
        holes.truncate(1 << 20)
    with zipfile.ZipFile(tmp_path / 'x.bin', 'w') as archive:
        archive.writestr('x/data.pkl', _tensor_pickle(6, 0, (6,), (1,)))
        archive.write(tmp_path / 'holes', 'x/data/0')
    with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
        torch_file.TorchFile(tmp_path / 'x.bin').read('w')
