"""Values of gin files before anything is imported, so that commands can look at a run's files before they wait for jax."""

import functools
from collections.abc import Sequence
from typing import Any

from atlas_jax.gin_files import check as gin_check
from atlas_jax.gin_files import parse as gin_parse
from atlas_jax.gin_files import values as gin_values


class Preview(gin_check.Checker):
    """A checker that imports nothing: files, syntax and macros are checked, names and types are not.

    A class is known by its last name, such as TrainData: what it is shows only once its module is imported.
    """

    def values_of(self, name: str) -> dict[str, Any]:
        """Returns the parameters that are bound of the class or function of this name; references are gin_values.Reference."""
        return {parameter: self._without_macros(binding.value) for (owner, parameter), binding in self._bindings.items()
                if owner == f'/{name}'}  # without a scope

    def knows(self, binding: str) -> bool:
        """Returns whether a `NAME=value` of a command line sets a macro of these files, or a class or function that they bind."""
        owner, _, parameter = binding.partition('=')[0].rpartition('.')
        if not owner:
            return parameter in self._macro_names()
        return any(known == f'/{owner.rpartition(".")[2]}' for known, _ in self._bindings)

    def _import_trusted(self, modules: Any) -> None:
        """Leaves modules alone."""

    def _module_of(self, statement: Any, place: str) -> Any:
        return None

    def _resolve(self, selector: str, symbols: dict[str, Any], dynamic: bool, place: str) -> tuple[str, Any]:
        return selector.rpartition('.')[2], None

    def _require_options(self, full_name: str, configurable: Any, place: str) -> None:
        """Takes every name."""

    def _annotation(self, statement: Any, full_name: str, configurable: Any, place: str) -> Any:
        return None


def read(files: Sequence[str], bindings: Sequence[str] = (), imports: Sequence[str] = (), folders: Sequence[str] = (), *,
         complete: bool = True) -> Preview:
    """Reads the files, then the bindings, as parse does. Raises ConfigError: as parse, of what shows without an import."""
    found = Preview(functools.partial(gin_parse.find_file, folders=folders), gin_parse.known_files(), imports)
    for file in files:
        found.check_file(file)
    found.check_bindings(bindings)
    if complete:
        found.finish()
    return found


def name_of(value: Any) -> str | None:
    """Returns the class that a value refers to, by its last name; None for any other value."""
    return value.selector.rpartition('.')[2] if isinstance(value, gin_values.Reference) else None
