"""Damage to files, as disks and copies do it."""

import contextlib
import pathlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def flipped_bit(path: pathlib.Path, bit: int) -> Iterator[None]:
    """Flips one bit of a file inside the block."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(content)


def random_bits(folder: pathlib.Path, count: int, seed: int = 0, pattern: str = '*') -> list[tuple[pathlib.Path, int]]:
    """Draws (file, bit), each bit of the folder's visible files alike; none if no file matches."""
    files = [path for path in sorted(folder.rglob(pattern)) if path.is_file() and not path.name.startswith('.')]
    if not files:
        return []
    sizes = [8 * path.stat().st_size for path in files]
    generator = random.Random(seed)
    return [(files[at], generator.randrange(sizes[at])) for at in generator.choices(range(len(files)), sizes, k=count)]


def every_damage(folder: pathlib.Path, seed: int = 0):
    """Yields (kind of damage, file) for flips, cuts and the deletion of every file."""
    generator = random.Random(seed)
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        whole = path.read_bytes()
        flips = {0, len(whole) // 2, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(5))} if whole else ()
        for place in sorted(flips):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1:])
            yield f'flip at {place}', path
        for size in sorted({0, len(whole) // 3, max(len(whole) - 1, 0)} - {len(whole)}):
            path.write_bytes(whole[:size])
            yield f'cut to {size}', path
        path.write_bytes(whole + b'x')
        yield 'longer', path
        path.unlink()
        yield 'deleted', path
        path.write_bytes(whole)
