"""The command restarts itself with allocator settings, once, and only if that is wanted."""

import os
import platform
import subprocess
import sys

import pytest

from atlas_jax.runtime import allocator

PROGRAM = """
import os, sys
from atlas_jax.runtime import allocator
allocator.restart_tuned(verbose=True)
print(os.getpid(), os.environ.get('MALLOC_MMAP_MAX_'), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])
"""


def test_settings_are_added_and_other_tunables_kept():
    environment = allocator.tuned_environment({'PATH': 'p', 'GLIBC_TUNABLES': 'glibc.malloc.arena_max=2'})
    assert environment['PATH'] == 'p' and environment['MALLOC_MMAP_MAX_'] == '0'
    assert environment['GLIBC_TUNABLES'] == 'glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1'
    assert allocator.tuned_environment(environment) is None  # a second start changes nothing: no endless loop


@pytest.mark.parametrize('environment', [{allocator.KEEP: '1'}, {'MALLOC_TOP_PAD_': '5'}, {'MALLOC_MMAP_MAX_': '65536'}])
def test_the_users_settings_stay(environment):
    assert allocator.tuned_environment(environment) is None


def test_a_tunable_of_the_users_wins():
    environment = allocator.tuned_environment({allocator.KEEP: '0', 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=2'})
    assert environment['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=2'


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
@pytest.mark.parametrize('keep', ['0', '1'])
def test_the_same_process_starts_anew_with_the_same_arguments(keep):
    clean = {name: value for name, value in os.environ.items() if name not in allocator.SETTINGS and name != 'GLIBC_TUNABLES'}
    started = subprocess.Popen([sys.executable, '-c', PROGRAM, 'a b', '--c'], env=clean | {allocator.KEEP: keep}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, complaint = started.communicate(timeout=60)
    wanted = ('0', 'glibc.malloc.hugetlb=1') if keep == '0' else ('None', 'None')
    assert output.split('\n')[0] == f"{started.pid} {wanted[0]} {wanted[1]} ['a b', '--c']"
    assert complaint.count(allocator.KEEP) == (1 if keep == '0' else 0)


def test_a_plain_environment_has_none_of_the_settings_and_all_else():
    own = {'PATH': '/bin', 'GLIBC_TUNABLES': 'glibc.malloc.arena_max=1'}
    assert allocator.plain_environment(allocator.tuned_environment(own)) == own
    assert allocator.plain_environment(allocator.tuned_environment({'PATH': '/bin'})) == {'PATH': '/bin'}
