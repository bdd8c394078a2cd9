"""Options that commands share: their one-line mistakes, and what they open."""

import argparse
import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import options as cli_options


def _parsed(add, *words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add(parser)
    return parser.parse_args(words)


def test_figures_are_written_where_a_path_is_given(tmp_path, capsys):
    cli_options.write_json(None, {'a': 1})
    cli_options.write_json(tmp_path / 'figures.json', {'a': 1.5})
    assert json.loads((tmp_path / 'figures.json').read_text()) == {'a': 1.5} and len(list(tmp_path.iterdir())) == 1
    cli_options.print_json({'ä': [1]})
    assert json.loads(capsys.readouterr().out) == {'ä': [1]}


def test_defaults_of_shared_options():
    assert vars(_parsed(cli_options.add_model)) == {'model': None, 'reader': None, 'retriever': None, 'no_verify': False,
                                                     'no_compilation_cache': False}
    assert vars(_parsed(cli_options.add_index, '--index', 'i')) == {'index': 'i', 'store': None, 'force': False, 'needs_index': True}
    assert vars(_parsed(cli_options.add_search, '--also', 'j', 'k')) == {'searcher': None, 'also': ['j', 'k'], 'searches': True}
    options = _parsed(lambda parser: cli_options.add_gin(parser, required=True), '--gin_file', 'a', '--gin_file', 'b')
    assert options.gin_file == ['a', 'b'] and options.takes_gin
    with pytest.raises(argparse.ArgumentError, match='invalid choice'):
        _parsed(cli_options.add_search, '--searcher', 'exat')


def test_a_command_alone_joins_nobody(monkeypatch):
    monkeypatch.setattr('atlas_jax.runtime.hosts.initialize', lambda: pytest.fail('joined'))
    cli_options.join_hosts(argparse.Namespace(multihost=False))


def test_a_model_is_named_once():
    for model, reader in ((None, None), ('a', 'b')):
        with pytest.raises(errors.ConfigError):
            cli_options.load_model(argparse.Namespace(model=model, reader=reader, retriever=reader, no_compilation_cache=False))


def test_a_missing_index_is_named(tmp_path):
    options = argparse.Namespace(index=str(tmp_path / 'nowhere'), store=None, force=False, also=[])
    with pytest.raises(errors.UserError, match='nowhere'):
        cli_options.open_indexes(options)


def test_summaries_in_the_help_begin_small_and_end_without_a_stop():
    shown = cli.parser().format_help()
    assert 'train a' in shown.lower() and '    answer' in shown
    parser = cli.Parser(prog='x')
    commands = parser.add_subparsers()
    cli_options.command(commands, 'go', print, 'Go there.', 'x go')
    cli_options.group(commands, 'more', 'Do more.', 'x more that')
    shown = parser.format_help()
    assert 'go there\n' in shown and 'do more\n' in shown and parser.parse_args(['go', '--verbose']).verbose
