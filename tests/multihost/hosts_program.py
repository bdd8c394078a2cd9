"""What hosts_test.py runs in every process."""

import json
import pathlib
import sys
import time

import jax
import numpy as np

from atlas_jax import partitioning
from atlas_jax.runtime import hosts, watch

hosts.initialize()
mesh = partitioning.make_mesh()
process, count = jax.process_index(), jax.process_count()
if sys.argv[1] == 'arrays':
    rows = np.arange(count * 2 * 5 * 3).reshape(-1, 3)
    sharding = partitioning.sharding(mesh, 'streams')
    placed = hosts.place({'rows': rows}, {'rows': sharding})
    local = hosts.from_local(rows[hosts.local_rows(sharding, len(rows))], sharding, len(rows))
    np.testing.assert_array_equal(hosts.to_host(placed)['rows'], rows)
    np.testing.assert_array_equal(hosts.to_host(local), rows)
    found = hosts.same_everywhere(np.arange(7) % 3 == jax.process_index())  # other values in each process
    np.testing.assert_array_equal(found, np.arange(7) % 3 == 0)
    np.testing.assert_array_equal(hosts.to_host(hosts.place(local, partitioning.replicated(mesh))), rows)
    np.testing.assert_array_equal(hosts.own_rows(local), rows[hosts.local_rows(sharding, len(rows))])
    assert hosts.own_rows(hosts.place(rows, partitioning.replicated(mesh))).shape == rows.shape
    assert hosts.gather(np.array([process, 7])).tolist() == [[0, 7], [1, 7]]
    assert hosts.gather_bytes(b'ab' * process) == [b'', b'ab']
    print('equal', count, jax.device_count())
elif sys.argv[1] == 'found':
    from tests.multihost import searching  # it takes longer to import than the others to run
    print('FOUND', json.dumps(searching.found(pathlib.Path(sys.argv[2]), partitioning.make_mesh((1, 2, 2)))))
else:
    with watch.Watch(hang_seconds=3.0, dead_seconds=3.0) as watching:
        for position in range(1, 1000):
            if process == 1 and position == 9:
                if sys.argv[1] == 'dies':
                    import os
                    os._exit(9)
                time.sleep(60)
            watching.beat(position)
            jax.block_until_ready(hosts.place(np.ones(4), partitioning.replicated(mesh)))
            jax.experimental.multihost_utils.sync_global_devices(str(position))
            time.sleep(0.2)
