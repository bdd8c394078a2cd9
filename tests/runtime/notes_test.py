"""Notes: on which stream, how often, and by which process."""

import subprocess
import sys

import jax

from atlas_jax.runtime import notes


def test_a_note_goes_to_the_stream_that_was_named(capsys):
    notes.say('a')
    notes.say('b', to_stdout=True)
    assert capsys.readouterr() == ('b\n', 'a\n')


def test_the_same_note_is_said_once(capsys):
    notes.say_once.cache_clear()
    for text in ('a', 'b', 'a'):
        notes.say_once(text)
    assert capsys.readouterr() == ('', 'a\nb\n')


def test_other_processes_are_silent(capsys, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    notes.say_once.cache_clear()
    notes.say('a')
    notes.say_once('a')
    assert not notes.is_first() and capsys.readouterr() == ('', '')
    notes.say_once.cache_clear()


def test_a_note_does_not_import_jax():
    program = 'import sys\nfrom atlas_jax.runtime import notes\nnotes.say_once("a")\nassert "jax" not in sys.modules'
    assert subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stderr == 'a\n'
