"""Compiles steps. Everything that holds a StepSpec, or another Layout, is compiled here only
(tests/house).

Steps must be traced on the spec's mesh, which a caller could forget. Without it layers see no mesh,
gathers happen in the wrong places, and the attention kernel cannot be partitioned over several TPU
chips.
"""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax

from atlas_jax import partitioning
from atlas_jax.runtime import notes
from atlas_jax.steps.spec import Layout

# A step's executable is large: a run has one, an evaluation a few.
_KEPT_PROGRAMS = 32
# Options of the TPU's compiler: weights are gathered while other operations run (docs/tpu.md has
# the gains).
_TPU_OPTIONS = {
    'xla_enable_async_all_gather': True, 'xla_tpu_prefer_async_allgather_to_allreduce': True}


@functools.lru_cache(maxsize=_KEPT_PROGRAMS)
def compile_step(program: Callable[..., Any], spec: Layout, *static: Hashable,
                 donate: Sequence[int] = (),
                 out_shardings: Callable[..., Any] | None = None) -> Any:
    """Returns the jitted function `(*arguments) -> program(spec, *static, *arguments)`, traced on
    the spec's mesh.

    The same arguments return the same function, so nothing compiles twice. The program's name is
    the outermost scope of its operations.

    Args:
      program: a module's function of the spec, then `static`, then arrays.
      spec: static side of the step, with the mesh.
      static: further arguments that are fixed when the program is traced.
      donate: positions of arguments (after `static`) whose buffers the step may overwrite; a tuple.
      out_shardings: `(spec, *static)` to the layout of the results; None leaves it to the compiler.
    """
    @functools.wraps(program)
    def on_the_mesh(*arguments: Any) -> Any:
        with partitioning.on_mesh(spec.mesh, spec.lower_for), jax.named_scope(program.__name__):
            return program(spec, *static, *arguments)

    # jit would read the program's signature, which starts with the spec.
    del on_the_mesh.__wrapped__
    layout = {} if out_shardings is None else {'out_shardings': out_shardings(spec, *static)}
    return jax.jit(on_the_mesh, donate_argnums=donate, compiler_options=_options(spec), **layout)


class FirstThatFits:
    """A step in several forms that compute the same. It uses the first that fits the devices'
    memory.

    The first call compiles it, for arguments of these shapes and layouts only.
    """

    def __init__(self, option: str, forms: Mapping[str, Any]):
        """Takes the jitted function of each value of `option`, the preferred one first."""
        self._option, self._forms = option, dict(forms)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Calls the step. Raises JaxRuntimeError: no form fits, or it does not compile for another
        reason.
        """
        if self._compiled is None:
            self._compiled = self._first(arguments)
        return self._compiled(*arguments)

    def _first(self, arguments: Sequence[Any]) -> Any:
        *others, last = self._forms.items()
        for value, form in others:
            try:
                return form.lower(*arguments).compile()
            except jax.errors.JaxRuntimeError as error:
                # The program is the same in every process, and so is the compiler's error.
                if 'RESOURCE_EXHAUSTED' not in str(error):
                    raise
            # Each try takes minutes.
            notes.say(f'{self._option} {value} does not fit the devices; the next is compiled')
        return last[1].lower(*arguments).compile()


def first_that_fits(spec: Layout, computing_again: Callable[[str], Any]) -> Any:
    """Returns the step that `computing_again` makes for spec.remat; for several names the first
    that fits the devices.
    """
    # Making forms costs nothing: the first call compiles.
    if len(spec.remat) == 1:
        return computing_again(*spec.remat)
    return FirstThatFits('remat', {remat: computing_again(remat) for remat in spec.remat})


def _options(spec: Layout) -> dict[str, bool] | None:
    # An abstract mesh has no platform, and other compilers refuse unknown options.
    if isinstance(spec.mesh, jax.sharding.AbstractMesh) or spec.mesh.size == 1:
        return None
    return _TPU_OPTIONS if spec.mesh.devices.flat[0].platform == 'tpu' else None
