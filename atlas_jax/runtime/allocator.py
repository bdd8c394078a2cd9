"""Settings of glibc's allocator, which must be set before the process starts. They save a third of
a CPU step (docs/design.md, measured facts).
"""

import os
import platform
import sys
from collections.abc import Mapping

KEEP = 'ATLAS_JAX_KEEP_ALLOCATOR'

# The process keeps freed memory, in huge pages, so that a step does not fault every page in again.
SETTINGS = {
    'MALLOC_MMAP_MAX_': '0',
    'MALLOC_TRIM_THRESHOLD_': str(16 << 30),
    'MALLOC_TOP_PAD_': str(256 << 20),
}
TUNABLE = 'glibc.malloc.hugetlb=1'


def tuned_environment(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Returns the environment with the allocator's settings added, or None to leave it unchanged.

    It is left unchanged if it has one of the settings (the user's, or ours after a restart), or if
    ATLAS_JAX_KEEP_ALLOCATOR is set to anything but 0. Other GLIBC_TUNABLES are kept.
    """
    if environment.get(KEEP, '0') not in ('', '0') or any(name in environment for name in SETTINGS):
        return None
    tunables = [part for part in environment.get('GLIBC_TUNABLES', '').split(':') if part]
    # The user's own choice of huge pages stays.
    if not any(part.startswith('glibc.malloc.hugetlb=') for part in tunables):
        tunables.append(TUNABLE)
    return {**environment, **SETTINGS, 'GLIBC_TUNABLES': ':'.join(tunables)}


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without these settings, for programs that are compared with ours."""
    tunables = [
        part for part in environment.get('GLIBC_TUNABLES', '').split(':')
        if part and part != TUNABLE]
    plain = {
        name: value
        for name, value in environment.items()
        if name not in SETTINGS and name != 'GLIBC_TUNABLES'}
    return {**plain, 'GLIBC_TUNABLES': ':'.join(tunables)} if tunables else plain


def restart_tuned(verbose: bool = False) -> None:
    """Restarts this command in the tuned environment; returns if that is not possible or not
    wanted.

    It needs Linux with glibc. Call it before importing jax: the process starts from the beginning.
    """
    if not sys.platform.startswith('linux') or platform.libc_ver(
    )[0] != 'glibc' or not sys.executable:
        return
    environment = tuned_environment(os.environ)
    if environment is None:
        return
    if verbose:
        print(f'atlas-jax: restarting with glibc allocator settings for speed; {KEEP}=1 switches '
              'this off', file=sys.stderr)
    # exec replaces the process and would lose buffered output.
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
