"""A server from its port to its end: bound before anything is loaded, stopped when what is under way is done."""

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
from atlas_jax.serving import app as app_lib
from atlas_jax.serving import batching

_TURN_SECONDS = 5e-4
_REMEDIES = {errno.EADDRINUSE: 'another program uses this port; give another one with --port, or stop that program',
             errno.EACCES: 'you may not use this port; give one above 1023 with --port',
             errno.EADDRNOTAVAIL: 'this machine has no such address; give one of its own with --host'}


def bind(host: str, port: int) -> socket.socket:
    """Takes the port, so that nobody else has it when the models are loaded; 0 takes a free one. Raises ConfigError: it cannot be had."""
    where = f'{host}:{port}'
    # getaddrinfo would take it modulo 65536.
    if port > 65535:
        raise errors.ConfigError(f'{where}: a port is from 0 to 65535')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise errors.ConfigError(f'{where}: no address of a machine; give one with --host, such as 127.0.0.1') from error
    try:
        # A port that a server has just left is free, although the system still remembers its connections.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        remedy = _REMEDIES.get(error.errno or 0, 'give another one with --host and --port')
        raise errors.ConfigError(f'{where}: {os.strerror(error.errno or 0)}: {remedy}') from error
    return bound


def is_loopback(host: str) -> bool:
    """Returns whether nothing but this machine reaches a server that is bound to this host."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == 'localhost'


class _Server(uvicorn.Server):
    """A server that ends with 0 when it was asked to stop: uvicorn would raise the signal once more."""

    def stop(self, now: bool = True) -> None:
        """Has the server finish what is under way and end, where `now`."""
        self.should_exit |= now

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops on SIGTERM and SIGINT; a second one does not wait for what is under way."""
        def on_signal(number: int, frame: object) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(service: app_lib.Service, bound: socket.socket, hosts: Sequence[str] = (), said: Callable[[str], None] = print) -> None:
    """Serves until SIGTERM or SIGINT; what is under way then is finished, for as long as the limits allow.

    Raises UserError: what shows only when the first question is answered, such as a package that a searcher needs.

    Args:
      service: what is served.
      bound: of `bind`.
      hosts: names that the server is known by, besides localhost and addresses.
      said: takes the line that names the address.
    """
    config = uvicorn.Config(app_lib.make(service, hosts), log_level='warning', access_log=False, lifespan='off', server_header=False,
                            timeout_graceful_shutdown=int(service.limits.drain_seconds))
    server = _Server(config)
    # Python's threads take turns of this length: requests and responses need little, and should not wait long for the thread that computes.
    sys.setswitchinterval(_TURN_SECONDS)
    service.batcher.start()
    # The first of all that waits: it is computed while the first requests come.
    [warmed] = service.batcher.submit(batching.Alone(service.warm_up), [None], float('inf'))
    warmed.add_done_callback(lambda future: server.stop(future.exception() is not None))
    host, port = bound.getsockname()[:2]
    said(f'http://{f"[{host}]" if ":" in host else host}:{port}')
    asyncio.run(server.serve([bound]))
    is_done = service.batcher.stop(service.limits.drain_seconds)
    if warmed.done():
        warmed.result()
    if not is_done:
        # Nothing stops a program that is computed or compiled, and the interpreter's own end would abort in it.
        print(f'atlas-jax: what is computed has not ended within {service.limits.drain_seconds:.0f} s; the server ends without it',
              file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(0)
