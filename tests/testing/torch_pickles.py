"""Pickles of tensors as torch.save writes them, made without PyTorch."""

import pickle


def tensor_pickle(elements: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """Returns the pickle of {'w': a tensor in storage '0'}, in opcodes of protocol 2."""
    def put(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP
    storage = b'(' + put('storage') + b'ctorch\nFloatStorage\n' + put('0') + put('cpu') + put(elements) + b'tQ'
    arguments = b'(' + storage + put(offset) + put(shape) + put(strides) + b'\x89ccollections\nOrderedDict\n)Rt'
    return b'\x80\x02}' + put('w') + b'ctorch._utils\n_rebuild_tensor_v2\n' + arguments + b'Rs.'
