"""PyTorch files without PyTorch: equal to PyTorch's tensors; objects are refused, and broken files give one line."""

import argparse
import collections
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import torch_file
from tests.testing.torch_pickles import tensor_pickle


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


def test_a_tensor_lies_within_its_storage(tmp_path):
    data = np.arange(6, dtype=np.float32)
    file = torch_file.TorchFile(_zip(tmp_path / 'x.bin', tensor_pickle(6, 1, (2, 2), (2, 1)), {'0': data.tobytes()}))
    np.testing.assert_array_equal(file.read('w'), [[1, 2], [3, 4]])
    for wrong in ((6, 5, (2,), (1,)), (6, 0, (2, 4), (3, 1)), (6, 0, (10**12,), (0,)), (6, -1, (2,), (1,)), (6, 0, (2,), (-1,)),
                  (6, 0, (2, 2), (1,)), (6, 0, 'ab', 'cd')):
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            torch_file.TorchFile(_zip(tmp_path / 'x.bin', tensor_pickle(*wrong), {'0': data.tobytes()}))
    for storages in ({}, {'0': data.tobytes()[:-1]}, {'0': data.tobytes()[:-4]}):
        file = torch_file.TorchFile(_zip(tmp_path / 'x.bin', tensor_pickle(6, 0, (2,), (1,)), storages))
        with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
            file.read('w')


def test_other_files_and_other_contents(tmp_path):
    whole = tensor_pickle(1, 0, (1,), (1,))
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
    path = _zip(tmp_path / 'x.bin', tensor_pickle(3, 0, (3,), (1,)), {'0': np.float32([1, 2, 12345]).tobytes()})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(12345).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match='BadZipFile'):
        torch_file.TorchFile(path).read('w')


def test_altered_files_give_one_line(tmp_path):
    path = _zip(tmp_path / 'x.bin', tensor_pickle(6, 1, (2, 2), (2, 1)), {'0': bytes(24)})
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
    """Opcodes that push a tuple that holds another one twice, and so on for all levels: 2 bytes per level."""
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
    # 60,000 tuples below 100,000 numbers: a search for the mark from the bottom would take 6 * 10**9 steps.
    content = b'\x80\x02' + b'K\x01' * 100_000 + b'(t0' * 60_000 + b'}.'
    assert torch_file.TorchFile(_zip(tmp_path / 'x.bin', content)).names() == set()


def test_a_storage_is_measured_before_it_is_read(tmp_path):
    (tmp_path / 'x.bin').write_bytes(b'')
    with open(tmp_path / 'holes', 'wb') as holes:
        holes.truncate(1 << 20)
    with zipfile.ZipFile(tmp_path / 'x.bin', 'w') as archive:
        archive.writestr('x/data.pkl', tensor_pickle(6, 0, (6,), (1,)))
        archive.write(tmp_path / 'holes', 'x/data/0')
    with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
        torch_file.TorchFile(tmp_path / 'x.bin').read('w')
