"""Plans: the memory, work and time of one step on TPUs (compiled) or GPUs (by formula)."""

import dataclasses

GIB = 2**30
# Where memory goes on a TPU; a plan for GPUs has a working set in place of temporaries.
PARTS = ('parameters', 'optimizer', 'index', 'codes', 'gradients', 'activations', 'temporaries')
NOT_COUNTED = ('copies and scratch of XLA, buffers of NCCL and cuDNN, fragmentation',
               'kernels below their peak, activations read and written, launches, the host')


@dataclasses.dataclass(frozen=True)
class Plan:
    """The needs of one step. Memory and traffic are those of one chip or GPU, `flops` of all.

    Attributes:
      kind: the step, one of workload.STEPS.
      topology, chips: name and number of the chips or GPUs.
      mesh_shape: (data, fsdp, model).
      accumulation_steps: micro-batches of an update; 1 for a step that does not train.
      batch_size: examples of a micro-batch, or of a batch of questions.
      fits: True if the step needs at most `hbm_limit_gib`.
      hbm_gib_per_chip: GiB that the step needs.
      hbm_limit_gib: GiB that programs may use.
      hbm_parts: GiB by part.
      flops: one call at typical lengths. A call is an update, a batch of questions, or a pack of
        passages on every host.
      flops_at_limit: the same with every passage at its limit.
      compute_seconds: `flops` at the peak rate.
      link_seconds: time of bytes over links; see the subclasses.
      memory_seconds: time of bytes that are read and written, at the memory's rate; see the
        subclasses.
      step_seconds_roofline: the longest of computing, moving and reading, as if they overlapped. No
        program is faster.
      items_per_second: examples, questions or passages at the roofline.
      mfu_bound: the best share of the peak that the model's own FLOPs, without recomputation, can
        reach.
    """

    kind: str
    topology: str
    chips: int
    mesh_shape: tuple[int, int, int]
    accumulation_steps: int
    batch_size: int
    fits: bool
    hbm_gib_per_chip: float
    hbm_limit_gib: float
    hbm_parts: dict[str, float]
    flops: float
    flops_at_limit: float
    compute_seconds: float
    link_seconds: float
    memory_seconds: float
    step_seconds_roofline: float
    items_per_second: float
    mfu_bound: float

    @property
    def typical_fraction(self) -> float:
        """FLOPs at typical lengths, as a share of those with every passage at its limit."""
        return self.flops / self.flops_at_limit


@dataclasses.dataclass(frozen=True)
class TpuPlan(Plan):
    """The needs of a step that was compiled for a slice.

    `hbm_parts` has the PARTS. Gradients and activations are counted on the program; temporaries are
    the rest of the compiler's total. In a step that answers, activations are the passages' keys and
    values. Where a search runs before the step as a program of its own, the parts are those of the
    program that needs more, with everything beside it. `link_seconds` sends the bytes over the
    links of their groups, one collective after another. `memory_seconds` covers everything that the
    compiled program reads and writes; `compiler_seconds` contains it.

    Attributes:
      remat: layers that the backward pass computes again (StepConfig.remat); 'none' for a step that
        does not train.
      step_seconds_expected: time of the compiled schedule: the compiler's estimate, kernels at the
        peak rate, and the collectives that nothing covers; at least the roofline.
      compiler_seconds: the compiler's own cycles, without collectives and kernels.
      kernel_seconds: FLOPs of kernels at the peak rate.
      collective_seconds: the collectives' bytes over all links of a chip.
      network_seconds: bytes that a chip sends to other slices over the data-centre network; 0 on
        one slice.
      exposed_seconds: seconds on links and network in which nothing else runs.
      reading_seconds: the least that must be read: decoder weights, keys and values for every token
        of an answer; the index for a search.
      mfu: share of the peak that FLOPs on real tokens reach at the expected speed; for a step that
        trains.
      collective_bytes: bytes by kind of collective.
      asynchronous_bytes: bytes of them that move while other operations run, by kind.
      compile_seconds: measured when the step was compiled; a cached plan keeps it.
      host_gib: GiB on each host by name, where the host reads the passages' tokens: ids on its
        disk, and their places in its memory.
      scan_seconds: a scan of codes for a batch, at the peak rate of the matrix units or of the
        memory, whichever is slower; included in the other seconds.
      refresh_seconds: embedding the whole index again once, by the compiled schedule; 0 for a run
        without refreshes, and for one that does not fit.
    """

    remat: str
    step_seconds_expected: float
    compiler_seconds: float
    kernel_seconds: float
    collective_seconds: float
    network_seconds: float
    exposed_seconds: float
    reading_seconds: float
    mfu: float
    collective_bytes: dict[str, float]
    asynchronous_bytes: dict[str, float]
    compile_seconds: float
    host_gib: dict[str, float] = dataclasses.field(default_factory=dict)
    scan_seconds: float = 0.0
    refresh_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class GpuPlan(Plan):
    """The needs of a step by formula.

    `hbm_parts` has the PARTS except temporaries, and `working set`: memory for one layer while it
    is computed, and a second copy of the keys and values that answers read. `link_seconds` gathers
    weights and sends gradients, over NVLink within a host and over the network between hosts.
    `memory_seconds` is the least that is read and written: weights, gradients and moments of an
    update; decoder weights, keys and values for every token of an answer; the index for a search.

    Attributes:
      attention: the encoders' attention, 'cuDNN' or 'plain'.
      step_seconds_apart: the sum of computing, links and memory, as if nothing overlapped.
      moved_bytes: bytes that a GPU sends.
      by: always 'formula': nothing was compiled and nothing has run.
      not_counted: parts of memory and of time that are left out.
    """

    attention: str
    step_seconds_apart: float
    moved_bytes: float
    by: str = 'formula'
    not_counted: tuple[str, ...] = NOT_COUNTED
