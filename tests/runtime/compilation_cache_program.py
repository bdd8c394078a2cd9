"""Runs the command line in a new process, and prints the requests and hits of JAX's cache. compilation_cache_test.py starts it.

Arguments: the arguments of atlas-jax.
"""

import collections
import json
import sys

import jax

from atlas_jax.apps.cli import main as cli

events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition('/')[2]]))
code = cli.main(sys.argv[1:])
print('COUNTS', json.dumps({name: events[name] for name in ('compile_requests_use_cache', 'cache_hits', 'cache_misses')}))
sys.exit(code)
