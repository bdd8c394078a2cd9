"""Measures a run: profiles a few steps, and reports device time by part, utilisation and memory.

A profile (.xplane.pb) holds the operations that ran and the compiled programs (HloProto), in which
every operation names its scopes: `transpose(jvp(read))/...` is the backward pass of `read`. So
nothing is compiled again, and profiles from a TPU can be read anywhere. The formats are tsl's
xplane.proto and xla's hlo.proto; comments below give their field numbers.
"""

import bisect
import collections
import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from atlas_jax.io import atomic
from atlas_jax.report import html
from atlas_jax.runtime import accelerators
from atlas_jax.training import contrastive_step, train_step

# Profiled steps, counted from the start of this process; the first ones compile.
FIRST_STEP, STEPS = 3, 3
PARTS = {'train_step': train_step.PARTS, 'contrastive_step': contrastive_step.PARTS}
OTHER = 'other'  # operations of the program under no part's name
_CONTROL = ('while', 'conditional', 'call')  # operations inside them have their own events
_NS = 1e-9


class Profile:
    """Writes a profile of a few steps for xprof, and beside it the device time of each part.

    A context manager.

    Attributes:
      folder: The folder to write; None profiles nothing.
    """

    def __init__(self, folder: str | None, program: str = 'train_step'):
        """`program` is the name of the jitted function."""
        self.folder, self._program, self._seen, self._running = folder, program, 0, False

    def __enter__(self) -> 'Profile':
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A context manager around the dispatch of a step.

        `wait` must wait until earlier steps have ended, so that a profile holds whole steps.
        """
        self._seen += 1
        if self.folder is None or self._seen >= FIRST_STEP + STEPS:
            if self._running:
                wait()
            self._stop()
            yield
            return
        # Started late: a profile with a compilation is large and says little about steps.
        if self._seen == FIRST_STEP:
            wait()
            options = jax.profiler.ProfileOptions()
            # No Python calls: tracing them takes time, and has crashed with many threads.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self.folder, profiler_options=options)
            self._running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=number):
            yield

    def _stop(self) -> None:
        if self._running and self.folder is not None:
            self._running = False
            jax.profiler.stop_trace()
            # Every process profiles its own host; one table is enough.
            if jax.process_index() == 0:
                lines = '\n'.join(_device_time_lines(self.folder, self._program))
                print(f'{self.folder}: a profile of {STEPS} steps; look at it with xprof --logdir '
                      f'{self.folder}\n{lines}', flush=True)


def _device_time_lines(folder: str, program: str) -> list[str]:
    try:
        found = device_time(pathlib.Path(folder), PARTS[program], program, jax.local_device_count())
    except (ValueError, OSError) as error:  # a bad profile must not end the run
        return [f'{folder}: where the time went is not known: {error}']
    found.write(pathlib.Path(folder))
    return found.lines()


def utilisation(flops: float, seconds: float) -> dict[str, float]:
    """Returns TFLOP/s of all devices, and `mfu`, the share of their bfloat16 peak if it is known.

    Args:
      flops: FLOPs of the models, without padding and recomputation.
      seconds: Wall time.
    """
    found = {'tflops_per_second': round(flops / seconds / 1e12, 4)}
    peak = accelerators.peak_flops(jax.devices()[0].device_kind)
    return found if peak is None else found | {
        'mfu': round(flops / seconds / peak / jax.device_count(), 4)}


def memory() -> dict[str, float]:
    """Returns current and peak GiB of this process's first device; empty without counters."""
    # On CPUs memory_stats returns None.
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {'hbm_gib': 'bytes_in_use', 'hbm_peak_gib': 'peak_bytes_in_use'}
    return {name: round(stats[key] / 2**30, 3) for name, key in names.items() if key in stats}


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """Seconds of operations by part, summed over this host's devices and threads.

    Attributes:
      seconds: Part -> seconds of all steps, in the order of the parts; OTHER is last.
      steps: Number of runs of the program.
      devices: Devices of this host.
    """

    seconds: dict[str, float]
    steps: int
    devices: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in the total."""
        total = sum(self.seconds.values()) or 1.0
        return {name: seconds / total for name, seconds in self.seconds.items()}

    def lines(self) -> list[str]:
        """Returns a table, a line a part: seconds per step and device, and the share."""
        calls = max(self.steps * self.devices, 1)
        width = max(len('device time'), *(len(name) for name in self.seconds))
        return [
            f'{"device time":{width}}  s a step  share',
            *(f'{name:{width}}  {seconds / calls:8.4f}  {self.shares[name]:5.0%}'
              for name, seconds in self.seconds.items())]

    def write(self, folder: pathlib.Path) -> None:
        """Writes device_time.json and device_time.html. Raises DiskFullError."""
        calls = max(self.steps * self.devices, 1)
        by_step = {name: seconds / calls for name, seconds in self.seconds.items()}
        atomic.write_json(
            folder / 'device_time.json',
            dataclasses.asdict(self) | {'seconds_a_step': by_step, 'shares': self.shares})
        html.write_page(
            folder / 'device_time.html', 'Where the step\'s time goes',
            html.paragraph(f'{self.steps} steps on {self.devices} devices of one host; forward and '
                           'backward pass of each part together.'),
            html.bar_chart('Device time', 'seconds a step of a device', by_step),
            html.table(('part', 'seconds a step', 'share'),
                       [(name, by_step[name], share) for name, share in self.shares.items()]))


def device_time(folder: pathlib.Path, parts: Sequence[str], program: str,
                devices: int) -> DeviceTime:
    """Returns the device time in the newest profile under `folder`.

    Args:
      folder: The folder passed to jax.profiler.start_trace.
      parts: Names of scopes; an operation belongs to the innermost one.
      program: Name of the jitted function.
      devices: Devices of the host that made the profile.

    Raises:
      FileNotFoundError: there is no profile.
      ValueError: the program did not run in the profile.
    """
    files = sorted(folder.glob('plugins/profile/*/*.xplane.pb'),
                   key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'{folder}: no profile (plugins/profile/*/*.xplane.pb)')
    return device_time_of_bytes(files[-1].read_bytes(), parts, program, devices)


def device_time_of_bytes(data: bytes, parts: Sequence[str], program: str,
                         devices: int) -> DeviceTime:
    """Returns the device time in the content of an .xplane.pb file; see `device_time`.

    Raises ValueError: the program did not run.
    """
    module = f'jit_{program}'
    scopes = _scopes(data, module, parts)
    seconds, runs = dict.fromkeys((*parts, OTHER), 0.0), set()
    for run, operation, duration in _operations(data, module):
        runs.add(run)
        if (part := scopes.get(operation, OTHER)) is not None:
            seconds[part] += duration
    if not runs:
        raise ValueError(f'the profile holds no operation of {program}')
    return DeviceTime(seconds, len(runs), devices)


def part_of(op_name: str, parts: Sequence[str]) -> str | None:
    """Returns the innermost part in an operation's name, or None.

    A name is, for example, jit(step)/transpose(jvp(read))/while/body/dot_general.
    """
    named = [word for word in re.split(r'[/()]', op_name) if word in parts]
    return named[-1] if named else None


def _operations(data: bytes, module: str) -> Iterator[tuple[Any, str, float]]:
    """Yields (run, operation, seconds) of every operation of the program."""
    for plane in jax.profiler.ProfileData.from_serialized_xspace(data).planes:
        lines = {line.name: line for line in plane.lines}
        # On a TPU, events have the names of their instructions; the line of modules names programs.
        if 'XLA Ops' in lines:
            programs = sorted((event.start_ns, event.start_ns + event.duration_ns, event.name)
                              for event in lines['XLA Modules'].events)
            starts = [start for start, _, _ in programs]
            for event in lines['XLA Ops'].events:
                at = bisect.bisect_right(starts, event.start_ns) - 1
                # Programs are named like jit_step(123).
                if (at >= 0 and event.start_ns < programs[at][1]
                        and programs[at][2].split('(')[0] == module):
                    yield at, event.name.split(' = ')[0].lstrip('%'), event.duration_ns * _NS
            continue
        for event in (event for line in plane.lines for event in line.events):
            stats = dict(event.stats)
            if stats.get('hlo_module') == module and 'hlo_op' in stats:
                yield stats.get('run_id'), stats['hlo_op'], event.duration_ns * _NS


def _scopes(data: bytes, module: str, parts: Sequence[str]) -> dict[str, str | None]:
    """Returns operation -> part, for all compiled forms of the program in the profile.

    Operations that only run others, such as loops, have None. Operations without a name, such as
    the compiler's copies, belong to the most common part of their loop body or branch.
    """
    found: dict[str, str | None] = {}
    for name, computations in _programs(data):
        if name != module:
            continue
        for index, instructions in enumerate(computations):
            own = {instruction: part_of(op_name, parts) for instruction, _, op_name in instructions}
            commonest = collections.Counter(
                part for part in own.values() if part is not None).most_common(1)
            # The last computation is the whole program.
            around = commonest[0][0] if commonest and index < len(computations) - 1 else OTHER
            found |= {instruction: None if opcode in _CONTROL else own[instruction] or around
                      for instruction, opcode, _ in instructions}
    return found


def _programs(data: bytes) -> Iterator[tuple[str, list[list[tuple[str, str, str]]]]]:
    """Yields (name, computations) of the compiled programs in a profile.

    A computation is a list of instructions (name, opcode, op_name).
    """
    for plane in _all(_fields(data), 1):  # XSpace.planes
        fields = _fields(plane)
        if _text(fields, 2) != '/host:metadata':
            continue
        for entry in _all(fields, 4):  # XPlane.event_metadata, a map: key 1, value 2
            for stat in _all(_fields(_all(_fields(entry), 2)[0]), 5):  # XEventMetadata.stats
                for program in _all(_fields(stat), 6):  # XStat.bytes_value, an HloProto
                    for module in _all(_fields(program), 1):  # HloProto.hlo_module
                        fields_of_module = _fields(module)
                        yield (_text(fields_of_module, 1),
                               [_instructions(each) for each in _all(fields_of_module, 3)])


def _instructions(computation: memoryview) -> list[tuple[str, str, str]]:
    found = []
    for instruction in _all(_fields(computation), 2):  # HloComputationProto.instructions
        # name 1, opcode 2, metadata 7: OpMetadata, whose op_name is 2
        fields = _fields(instruction)
        found.append((_text(fields, 1), _text(fields, 2),
                      next((_text(_fields(metadata), 2) for metadata in _all(fields, 7)), '')))
    return found


def _fields(message: bytes | memoryview) -> list[tuple[int, Any]]:
    """Returns the fields of a protobuf message as (number, value).

    Bytes become views and varints integers; fixed-width fields are left out.
    """
    data, at = memoryview(message), 0
    found: list[tuple[int, Any]] = []
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            found.append((key >> 3, value))
        elif kind == 2:
            size, at = _varint(data, at)
            found.append((key >> 3, data[at:at + size]))
            at += size
        elif kind in (1, 5):  # fixed width, 64 and 32 bits
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f'not a protobuf message: wire type {kind}')
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _all(fields: list[tuple[int, Any]], number: int) -> list[Any]:
    return [value for field, value in fields if field == number]


def _text(fields: list[tuple[int, Any]], number: int) -> str:
    return next((bytes(value).decode() for field, value in fields if field == number), '')
