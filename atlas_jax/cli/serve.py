"""`atlas-jax serve`: a project over HTTP."""

import argparse
import contextlib
import itertools
import os
import secrets
import sys
from typing import Any

from atlas_jax import errors
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options

_TOKEN = 'ATLAS_JAX_TOKEN'


def add_commands(commands) -> None:
    """Adds `serve`."""
    parser = cli_options.command(commands, 'serve', _serve, 'Serve a project over HTTP, with a page to ask it in a browser.',
                                 'atlas-jax serve my-project')
    parser.add_argument('project', metavar='PROJECT', help='folder of `atlas-jax new`')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen at (default 127.0.0.1: this machine alone)')
    parser.add_argument('--port', type=cli_options.count, default=8000, metavar='N', help='port (default 8000; 0 takes a free one)')
    parser.add_argument('--token', metavar='TEXT',
                        help=f'what changes of passages need (default: ${_TOKEN}, or one that is made and printed)')
    parser.add_argument('--model', action='append', default=[], metavar='NAME=DIR', help='a further model; may be repeated')
    parser.add_argument('--index', action='append', default=[], metavar='NAME=DIR', help='a further index; may be repeated')
    parser.add_argument('--n_context', type=cli_options.positive, metavar='N', help='passages to read (default: as trained)')
    parser.add_argument('--batch_size', type=cli_options.positive, default=16, metavar='N',
                        help='most questions computed together (default 16)')
    parser.add_argument('--allowed_host', action='append', default=[], metavar='NAME',
                        help='a name that browsers may call this server by, besides localhost and addresses; may be repeated')
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)


def _serve(options: argparse.Namespace) -> None:
    server = _server()
    from atlas_jax.project import folder
    project = folder.open_project(options.project)
    project.require(*folder.ANSWERING)
    models = {'project': str(project.model), **named(options.model, '--model')}
    indexes = {'project': str(project.index), **named(options.index, '--index')}
    for path in models.values():
        inputs.check_model_folder(path)
    for path in indexes.values():
        inputs.check_index(path)
    if options.batch_size > 64:
        raise errors.ConfigError(f'--batch_size {options.batch_size}: at most 64 questions are computed together')
    # A flag is seen by all users of the machine in its list of processes; the variable is not.
    token = options.token if options.token is not None else os.environ.get(_TOKEN)
    if token is not None and not token.strip():
        raise errors.ConfigError(f'the token is empty; leave --token and ${_TOKEN} out to have one made')
    # The port first: loading takes long, and a port in use is told at once.
    bound = server.bind(options.host, options.port)
    with bound:
        _warn(options.host, server.is_loopback(options.host))
        service = _service(options, project, models, indexes, token or secrets.token_urlsafe(16))

        def said(address: str) -> None:
            print(f'{project.path}: {address}' + ('' if token else f'\ntoken for changes: {service.token}'), flush=True)

        server.run(service, bound, [*options.allowed_host, options.host], said)


def _server() -> Any:
    """Returns the module that serves. Raises ConfigError: its packages are missing."""
    try:
        from atlas_jax.serving import server
    except ImportError as error:
        raise errors.ConfigError(f'{error.name or "a package"} is missing; pip install "atlas-jax[serve]"') from error
    return server


def _service(options: argparse.Namespace, project: Any, models: dict[str, str], indexes: dict[str, str], token: str) -> Any:
    """Loads models and indexes. Raises UserError: one of them is damaged, or no model built an index."""
    cli_options.keep_programs(options)
    import dataclasses

    from atlas_jax import api
    from atlas_jax.serving import app, holdings, limits
    cli_options.keep_programs(options)
    held = holdings.Holdings({name: api.Atlas.load(path) for name, path in models.items()},
                             {name: api.Index.open(path) for name, path in indexes.items()}, project.searcher, options.n_context,
                             examples(project))
    # A further model has its own index, so each need not fit all; the project's own must.
    held.indexes['project'].check(held.models['project'])
    return app.Service(held, token, dataclasses.replace(limits.Limits(), together=options.batch_size))


def examples(project: Any, most: int = 3) -> tuple[str, ...]:
    """Returns questions of a project that a page may propose: held-out ones, since the others were trained on."""
    from atlas_jax.io import jsonl, untrusted
    found: list[str] = []
    for name in ('test.jsonl', 'train.jsonl'):
        # No questions were given, or none held out; nothing else depends on these files here.
        with contextlib.suppress(errors.UserError):
            rows = jsonl.read(untrusted.inside(project.path / 'questions', name), ('question',))
            found += [row['question'] for _, row in itertools.islice(rows, most)]
    return tuple(question for question in found if isinstance(question, str) and 0 < len(question) <= 200)[:most]


def named(given: list[str], flag: str) -> dict[str, str]:
    """Returns the folders of NAME=DIR by their names. Raises ConfigError: no name, or one that is taken."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition('=')
        if not (name and equals and path):
            raise errors.ConfigError(f'{flag} {text}: expected NAME=DIR')
        if name in found or name == 'project':
            raise errors.ConfigError(f'{flag} {text}: the name {name} is taken; "project" is the project\'s own')
        found[name] = path
    return found


def _warn(host: str, is_loopback: bool) -> None:
    if not is_loopback:
        print(f'atlas-jax: {host} is reached from other machines: questions need no token, and nothing is encrypted; put a proxy with TLS '
              'and a login before it', file=sys.stderr, flush=True)
