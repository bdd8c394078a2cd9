"""`atlas-jax serve`: serves a project over HTTP."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.apps.project.project_folder import Project
    from atlas_jax.apps.serving import app

_TOKEN = 'ATLAS_JAX_TOKEN'
_MOST_TOGETHER = 64


def add_commands(commands) -> None:
    """Adds `serve`."""
    parser = cli_options.command(commands, 'serve', _serve,
                                 'Serve a project over HTTP, with a page to ask it in a browser.',
                                 'atlas-jax serve my-project')
    parser.add_argument('project', metavar='PROJECT', help='folder that `atlas-jax new` wrote')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to listen at (default 127.0.0.1: this machine only)')
    parser.add_argument('--port', type=arguments.count, default=8000, metavar='N',
                        help='port (default 8000; 0 takes a free one)')
    parser.add_argument('--token', metavar='TEXT',
                        help='token that clients need to change passages (default: '
                             f'${_TOKEN}, or one that is made and printed)')
    for what in ('model', 'index'):
        arguments.file(parser, f'--{what}', f'a further {what}; may be repeated', 'NAME=DIR',
                       action='append', default=[])
    cli_options.add_n_context(parser)
    arguments.number(parser, '--batch_size', 'most questions computed together', 16)
    parser.add_argument('--allowed_host', action='append', default=[], metavar='NAME',
                        help='a name that browsers may call this server by, besides localhost and '
                             'IP addresses; may be repeated')
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)


def _serve(options: argparse.Namespace) -> None:
    server = _server()
    from atlas_jax.apps.project import project_folder
    project = project_folder.open_project(options.project)
    project.require(*project_folder.ANSWERING)
    models = {'project': str(project.model),
              **arguments.named_folders('--model', options.model, ('project',))}
    indexes = {'project': str(project.index),
               **arguments.named_folders('--index', options.index, ('project',))}
    for path in models.values():
        file_checks.check_model_folder(path)
    for path in indexes.values():
        file_checks.check_index(path)
    if options.batch_size > _MOST_TOGETHER:
        raise errors.ConfigError(f'--batch_size {options.batch_size}: at most {_MOST_TOGETHER} '
                                 'questions are computed together')
    # All users of the machine can see a flag in the list of processes, but not the variable.
    token = options.token if options.token is not None else os.environ.get(_TOKEN)
    if token is not None and not token.strip():
        raise errors.ConfigError(f'the token is empty; leave --token and ${_TOKEN} out to have '
                                 'one made')
    # The port first: a port in use is reported before the long loading.
    bound = server.bind(options.host, options.port)
    with bound:
        if not server.is_loopback(options.host):
            print(f'atlas-jax: {options.host} is reached from other machines: questions need no '
                  'token, and nothing is encrypted; put a proxy with TLS and a login before it',
                  file=sys.stderr, flush=True)
        service = _service(options, project, models, indexes, token or secrets.token_urlsafe(16))

        def say_address(address: str) -> None:
            made = '' if token else f'\ntoken for changes: {service.token}'
            print(f'{project.path}: {address}{made}', flush=True)

        server.run(service, bound, [*options.allowed_host, options.host], say_address)


def _server() -> Any:
    """Returns the module that serves. Raises ConfigError: its packages are missing."""
    try:
        from atlas_jax.apps.serving import server
    except ImportError as error:
        raise errors.ConfigError(f'{error.name or "a package"} is missing; pip install '
                                 '"atlas-jax[serve]"') from error
    return server


def _service(options: argparse.Namespace, project: 'Project', models: dict[str, str],
             indexes: dict[str, str], token: str) -> 'app.Service':
    """Loads models and indexes.

    Raises UserError: one of them is damaged, or another model built the project's index.
    """
    cli_options.keep_programs(options)
    from atlas_jax.answering import api
    from atlas_jax.apps.serving import app, holdings, request_limits
    held = holdings.Holdings({name: api.Atlas.load(path) for name, path in models.items()},
                             {name: api.Index.open(path) for name, path in indexes.items()},
                             project.searcher, options.n_context,
                             proposed_questions(project))
    # Further models have their own indexes, so only the project's index is checked.
    held.indexes['project'].check(held.models['project'])
    return app.Service(held, token,
                       dataclasses.replace(request_limits.Limits(), together=options.batch_size))


def proposed_questions(project: 'Project', most: int = 3) -> tuple[str, ...]:
    """Returns questions that the page proposes: held-out ones first, because the others were
    trained on.
    """
    from atlas_jax.io import jsonl, untrusted
    questions: list[str] = []
    for name in ('test.jsonl', 'train.jsonl'):
        # A project may have no such file. The server needs none of them.
        with contextlib.suppress(errors.UserError):
            rows = jsonl.read(untrusted.inside(project.path / 'questions', name), ('question',))
            questions += [row['question'] for _, row in itertools.islice(rows, most)]
    return tuple(question for question in questions
                 if isinstance(question, str) and 0 < len(question) <= 200)[:most]
