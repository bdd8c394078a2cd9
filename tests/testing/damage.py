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
