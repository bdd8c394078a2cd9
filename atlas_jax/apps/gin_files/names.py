"""The names in gin files: which modules a file may import, and which class or function a name
means.
"""

import dataclasses
import difflib
import importlib
import inspect
import types
from collections.abc import Iterable
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.gin_files import t5x_names
from atlas_jax.apps.gin_files import values as gin_values

DYNAMIC_REGISTRATION = '__gin__.dynamic_registration'
_OWN = 'atlas_jax'


@dataclasses.dataclass
class Scope:
    """The names that one file can use.

    Attributes:
      symbols: the modules that it imported, by the name that each is bound to.
      dynamic: True once the file switched on gin's dynamic registration. Before that, names are
        looked up among those of earlier files.
    """

    symbols: dict[str, Any] = dataclasses.field(default_factory=dict)
    dynamic: bool = False


class Names:
    """Finds the class or function that a name in a gin file means.

    Attributes:
      configurables: the classes and functions named so far, by full name, such as
        atlas_jax.train.RunConfig.
    """

    def __init__(self, imports: Iterable[str] = (), load: bool = True):
        """Imports the modules that the user trusts.

        Args:
          imports: modules that files may import besides atlas_jax.
          load: False imports nothing. Import statements are still checked; any other name is
            accepted and known by its last part.

        Raises:
          ConfigError: a module of `imports` cannot be imported.
        """
        self.configurables: dict[str, Any] = {}
        self._roots, self._load = (_OWN, *imports), load
        for name in imports if load else ():
            try:
                importlib.import_module(name)
            except Exception as error:  # the user's own module may raise anything
                raise errors.ConfigError(
                    f'--gin_import {name}: {type(error).__name__}: {error}') from error

    def add_import(self, statement: Any, scope: Scope, place: str) -> None:
        """Imports what one import statement names. Raises ConfigError: the file may not import it.
        """
        # `from __gin__ import …` is a switch of gin's parser; `import __gin__…` would import a
        # module of the working directory.
        if (statement.module == DYNAMIC_REGISTRATION and statement.is_from
                and not statement.alias):
            scope.dynamic = True
            return
        name, shown = statement.module, f'{place}: {statement.format()}'
        if not self._may_use(name):
            if name.split('.')[0] in t5x_names.MODULES:
                raise errors.ConfigError(f'{shown}: a gin file of T5X; include one of runs/*.gin '
                                         f'here and set its macros ({t5x_names.PAGE})')
            raise errors.ConfigError(f'{shown}: gin files may import only {_OWN}; if you trust '
                                     f'the module, add --gin_import {name}')
        # atlas_jax.__main__ is the command itself.
        if any(part.startswith('_') for part in name.split('.')):
            raise errors.ConfigError(f'{shown}: there is nothing to bind in this module')
        module = None
        if self._load:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise errors.ConfigError(f'{shown}: {error}') from error
            # `import a.b` binds `a`; `from a import b` and `import a.b as b` bind the module.
            if not (statement.is_from or statement.alias):
                module = importlib.import_module(name.split('.')[0])
        scope.symbols[statement.bound_name()] = module

    def resolve(self, selector: str, scope: Scope, place: str) -> tuple[str, Any]:
        """Returns the full name and the class or function that a selector means; (last part, None)
        without loading.

        Raises ConfigError: the name is unknown, or a file may not use it.
        """
        if not self._load:
            return selector.rpartition('.')[2], None
        if not scope.dynamic:
            return self._named_before(selector, place)
        found = self._imported(selector, scope, place)
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            raise errors.ConfigError(f'{place}: "{selector}" is neither a class nor a function')
        full_name = f'{found.__module__}.{found.__qualname__}'
        if not self._may_use(str(found.__module__)):
            raise errors.ConfigError(f'{place}: "{selector}" is {full_name}, which is not of '
                                     f'{" or ".join(self._roots)}')
        self.configurables[full_name] = found
        return full_name, found

    def _named_before(self, selector: str, place: str) -> tuple[str, Any]:
        # The command line imports nothing: gin finds a class by the end of its full name.
        matches = {name: found for name, found in self.configurables.items()
                   if f'.{name}'.endswith(f'.{selector}')}
        if len(matches) == 1:
            return next(iter(matches.items()))
        if matches:
            raise errors.ConfigError(f'{place}: "{selector}" could be any of '
                                     f'{", ".join(matches)}; give more of it')
        parts = selector.count('.') + 1
        ends = {'.'.join(name.split('.')[-parts:]) for name in self.configurables}
        raise errors.ConfigError(f'{place}: unknown name "{selector}"'
                                 f'{did_you_mean(selector, ends)}')

    def _imported(self, selector: str, scope: Scope, place: str) -> Any:
        first, *rest = selector.split('.')
        if first not in scope.symbols:
            raise errors.ConfigError(f'{place}: unknown name "{selector}": no import gives '
                                     f'"{first}"{did_you_mean(first, scope.symbols)}')
        found = scope.symbols[first]
        # Part by part, so that the message names the first one that is wrong.
        for name in rest:
            public = [member for member in dir(found) if not member.startswith('_')]
            if name not in public:
                raise errors.ConfigError(f'{place}: unknown name "{selector}"'
                                         f'{did_you_mean(name, public)}')
            # A module also holds the modules that it imports. Through those a file could reach
            # every function of Python.
            if not (isinstance(found, types.ModuleType) and self._may_use(found.__name__)):
                raise errors.ConfigError(f'{place}: "{selector}" goes through '
                                         f'{getattr(found, "__name__", name)}, which is no module '
                                         f'of {" or ".join(self._roots)}')
            found = getattr(found, name)
        return found

    def _may_use(self, module: str) -> bool:
        return any(f'{module}.'.startswith(f'{root}.') for root in self._roots)


def require_options(full_name: str, configurable: Any, place: str) -> None:
    """Raises ConfigError: `@full_name` is of atlas_jax and no options dataclass. Calling such a
    class or function could do anything; creating a frozen dataclass only stores values.
    """
    parameters = getattr(configurable, '__dataclass_params__', None)
    is_options = inspect.isclass(configurable) and parameters is not None and parameters.frozen
    if full_name.startswith(f'{_OWN}.') and not is_options:
        raise errors.ConfigError(f'{place}: @{full_name} is no class of options (docs/gin.md); '
                                 'values may refer only to these')


def annotation_of(statement: Any, configurable: Any, place: str) -> Any:
    """Returns the type annotation of the parameter that a statement binds; None if the class is not
    loaded.

    Raises ConfigError: the class or function has no such parameter.
    """
    if configurable is None:
        return None
    names = gin_values.parameter_names(configurable)
    if statement.arg_name not in names and '**' not in names:
        near = did_you_mean(statement.arg_name, names) or f'; it has {", ".join(names)}'
        raise errors.ConfigError(f'{place}: {statement.selector} has no parameter '
                                 f'"{statement.arg_name}"{near}')
    return gin_values.hints_of(configurable).get(statement.arg_name)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `; did you mean "x"?` with the closest candidate, or '' if none is close."""
    # Below difflib's default of 0.6: one wrong letter weighs more in a short name.
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ''
