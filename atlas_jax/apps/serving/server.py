"""Runs a server: takes its port before anything is loaded, and stops after finishing its requests.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from atlas_jax import errors
from atlas_jax.apps.serving import app as app_lib
from atlas_jax.apps.serving import batching

_TURN_SECONDS = 5e-4
_REMEDIES = {
    errno.EADDRINUSE: 'another program uses this port; give another one with --port, or stop that '
                      'program',
    errno.EACCES: 'you may not use this port; give one above 1023 with --port',
    errno.EADDRNOTAVAIL: 'this machine has no such address; give one of its own with --host'}


def bind(host: str, port: int) -> socket.socket:
    """Takes the port, so that no other program has it when the models are loaded; 0 takes a free
    one.

    Raises ConfigError: the port or address is not available.
    """
    where = f'{host}:{port}'
    # getaddrinfo would use it modulo 65536.
    if port > 65535:
        raise errors.ConfigError(f'{where}: a port is from 0 to 65535')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise errors.ConfigError(f'{where}: no address of a machine; give one with --host, such '
                                 'as 127.0.0.1') from error
    try:
        # Allows a port that a server has just left, while the system still remembers its
        # connections.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        remedy = _REMEDIES.get(error.errno or 0, 'give another one with --host and --port')
        raise errors.ConfigError(f'{where}: {os.strerror(error.errno or 0)}: {remedy}') from error
    return bound


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a server bound to this host."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == 'localhost'


class _Server(uvicorn.Server):
    """A server that exits with status 0 after a signal; uvicorn would raise the signal again."""

    def stop(self, now: bool = True) -> None:
        """Finishes running requests and ends, if `now` is true."""
        self.should_exit |= now

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops on SIGTERM and SIGINT; a second signal does not wait for running requests."""
        def on_signal(number: int, frame: object) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {
            number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(service: app_lib.Service, bound: socket.socket, hosts: Sequence[str] = (),
        announce: Callable[[str], None] = print) -> None:
    """Serves until SIGTERM or SIGINT, then finishes running requests within the limits.

    Args:
      service: the service.
      bound: the socket that `bind` returned.
      hosts: the server's host names besides localhost and IP addresses.
      announce: called with the server's address.

    Raises UserError: a mistake that shows only when the first question is answered, such as a
    missing package that a searcher needs.
    """
    config = uvicorn.Config(app_lib.make(service, hosts), log_level='warning', access_log=False,
                            lifespan='off', server_header=False,
                            timeout_graceful_shutdown=int(service.limits.drain_seconds))
    server = _Server(config)
    # Python's threads switch after this time: requests and responses need little time and should
    # not wait long for the computing thread.
    sys.setswitchinterval(_TURN_SECONDS)
    service.batcher.start()
    # First in the queue: it is computed while the first requests arrive.
    [warmed] = service.batcher.submit(batching.Alone(service.warm_up), [None], float('inf'))
    warmed.add_done_callback(lambda future: server.stop(future.exception() is not None))
    host, port = bound.getsockname()[:2]
    announce(f'http://{f"[{host}]" if ":" in host else host}:{port}')
    asyncio.run(server.serve([bound]))
    service.batcher.stop()
    warmed.result()
