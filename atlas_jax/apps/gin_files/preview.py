"""Values of gin files without importing what they name, so that commands can look at a run's files
before they wait for jax.
"""

import functools
from collections.abc import Sequence
from typing import Any

from atlas_jax.apps.gin_files import checker as gin_check
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.gin_files import values as gin_values


class Preview(gin_check.Checker):
    """Checks files, syntax and macros, and imports nothing. Names and types are not checked.

    A class is known by its last name, such as TrainData.
    """

    def values_of(self, name: str) -> dict[str, Any]:
        """Returns the bound parameters of the class or function `name`. References stay
        gin_values.Reference.
        """
        return {parameter: self._without_macros(binding.value)
                for (owner, parameter), binding in self._bindings.items()
                if owner == f'/{name}'}  # no gin scope before the slash

    def knows(self, binding: str) -> bool:
        """Returns whether the `NAME=value` of a command line sets a macro, class or function of
        these files.
        """
        owner, _, parameter = binding.partition('=')[0].rpartition('.')
        if not owner:
            return parameter in self._macro_names()
        return any(known == f'/{owner.rpartition(".")[2]}' for known, _ in self._bindings)


def read(files: Sequence[str], bindings: Sequence[str] = (), imports: Sequence[str] = (),
         folders: Sequence[str] = (), *, complete: bool = True) -> Preview:
    """Reads the files, then the bindings, as `parse` does.

    Raises ConfigError: a mistake that shows without importing anything.
    """
    found = Preview(functools.partial(gin_parse.find_file, folders=folders),
                    gin_parse.known_files(), imports, load=False)
    for file in files:
        found.check_file(file)
    found.check_bindings(bindings)
    if complete:
        found.finish()
    return found


def name_of(value: Any) -> str | None:
    """Returns the last name of the class that a value refers to; None if it is no reference."""
    return value.selector.rpartition('.')[2] if isinstance(value, gin_values.Reference) else None
