"""Costs of a compiled text: bytes by kind and group, trips, covered collectives, cycles, and memory traffic."""

import itertools

import pytest

from atlas_jax.apps.planning import compiled, slices

TEXT = """\
HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%condition (state: (s32[], bf16[96,32])) -> pred[] {
  %bound = s32[]{:T(128)} constant(24)
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}

%body (state: (s32[], bf16[96,32])) -> (s32[], bf16[96,32]) {
  %gather = (bf16[12,32]{1,0}, bf16[96,32]{1,0}) all-gather-start(%part), replica_groups=[1,8]<=[8], dimensions={0}
  %done = bf16[96,32]{1,0} all-gather-done(%gather)
  %scattered = bf16[12,32]{1,0} fusion(%gradient), kind=kCustom, calls=%all-reduce-scatter.1
}

%all-reduce-scatter.1 (gradient: bf16[96,32]) -> bf16[12,32] {
  %reduced = bf16[96,32]{1,0} all-reduce(%gradient), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice = bf16[12,32]{1,0} dynamic-slice(%reduced, %place, %zero), dynamic_slice_sizes={12,32}
}

%cheap (x: f32[10]) -> f32[10] {
  ROOT %same = f32[10]{0} copy(%x)
}

%dear (x: f32[10]) -> f32[10] {
  ROOT %permuted = f32[10]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %loop = (s32[], bf16[96,32]) while(%start), condition=%condition, body=%body
  %chosen = f32[10]{0} conditional(%which, %x, %x), branch_computations={%cheap, %dear}
  %total = f32[10]{0} all-reduce(%chosen), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %scattered = f32[5]{0} reduce-scatter(%total), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}, to_apply=%add
}
"""


def _rates(clock: float = 1.0, slices: int = 1) -> compiled.Rates:
    return compiled.Rates(clock, flops_a_cycle=1000.0, memory_bytes=1e9, network_bytes=0.5, slices=slices)


def _cost(text: str, devices: int = 8, rate: float = 1.0, clock: float = 1.0, branch: int = 0) -> compiled.Cost:
    return compiled.cost(text, devices, lambda group: rate, _rates(clock), branch)


def test_every_kind_is_counted_once_a_trip():
    moved, array = _cost(TEXT, branch=1).moved, 96 * 32 * 2
    assert moved['all-gather'] == pytest.approx(24 * array * 7 / 8)
    assert moved['reduce-scatter'] == pytest.approx(24 * array * 7 / 8 + 5 * 4)
    assert moved['all-reduce'] == pytest.approx(2 * 40 / 2)
    assert moved['collective-permute'] == 40
    assert moved['all-to-all'] == 0
    assert _cost(TEXT, branch=0).moved['collective-permute'] == 0


@pytest.mark.parametrize('groups, first', [("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", (0, 1, 2, 3)),
                                           ("mesh['axis_0'=8] {'axis_0'}", tuple(range(8))),
                                           ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4)), ('{{0,4},{1,5},{2,6},{3,7}}', (0, 4)),
                                           ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", tuple(range(8))),
                                           ('[2,4]<=[8]', (0, 1, 2, 3)), ('[4,2]<=[2,4]T(1,0)', (0, 4))])
def test_groups_in_every_notation(groups, first):
    asked = []
    text = TEXT.replace('[1,8]<=[8]', groups)
    moved = compiled.cost(text, 8, lambda group: asked.append(group) or 1.0, _rates()).moved
    assert moved['all-gather'] == pytest.approx(24 * 96 * 32 * 2 * (len(first) - 1) / len(first)) and first in asked


def test_a_stated_trip_count_wins():
    text = TEXT.replace('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert _cost(text).moved['all-gather'] == pytest.approx(3 * 96 * 32 * 2 * 7 / 8)


def _schedule(*lines: str) -> str:
    return 'ENTRY %main (x: f32[10]) -> f32[10] {\n' + '\n'.join(f'  {line}' for line in lines) + '\n}'


_PRODUCT = '%product{} = f32[10]{{0:S(1)}} fusion(%x), kind=kOutput, calls=%none, backend_config={{"estimated_cycles":"{}"}}'
_START = '%start{0} = (f32[5]{{0}}, f32[10]{{0}}) all-gather-start(%x), replica_groups={{{{0,1}}}}, dimensions={{0}}'
_DONE = '%done{0} = f32[10]{{0}} all-gather-done(%start{0})'


# A gather of 20 bytes at 1 byte a second, beside a product of the given seconds.
@pytest.mark.parametrize('cycles, exposed', [(30, 0), (20, 0), (8, 12), (0, 20)])
def test_work_between_start_and_end_covers_a_collective(cycles, exposed):
    found = _cost(_schedule(_START.format(0), _PRODUCT.format(0, cycles), _DONE.format(0)))
    assert (found.cycles, found.exposed_seconds, found.link_seconds, found.asynchronous['all-gather']) == (cycles, exposed, 20, 20)


def test_links_carry_one_collective_after_another():
    # Both begin at once; the second ends after 40 seconds.
    found = _cost(_schedule(_START.format(0), _START.format(1), _PRODUCT.format(0, 25), _DONE.format(0), _DONE.format(1)))
    assert found.link_seconds == 40 and found.exposed_seconds == 15


def test_what_is_not_asynchronous_is_not_covered():
    line = '%whole = f32[10]{0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}'
    found = _cost(_schedule(_PRODUCT.format(0, 30), line, _PRODUCT.format(1, 30)))
    assert found.cycles == 60 and found.exposed_seconds == 20 and not found.asynchronous['all-gather']


_SEND = ('%send{0} = (f32[5,2]{{1,0}}, u32[], token[]) send(%x, %after), channel_id={0}, is_host_transfer=true, frontend_attributes='
         '{{_xla_host_transfer_rendezvous="{1}_{0}",_xla_megascale_target="{{1,2}}x{{0:3}}",_xla_megascale_transfer_type="{1}"}}')
_RECEIVE = _SEND.replace('send', 'recv').replace('(%x, %after)', '(%after)')
_RECEIVED = '%ended{0} = (f32[5,2]{{1,0}}, token[]) recv-done(%recv{0}), channel_id={0}, is_host_transfer=true'


# Three slices, .5 bytes a second: a sum of 40 bytes sends 2 * 2 / 3 of them, any other part goes to both other slices.
@pytest.mark.parametrize('kind, sent', [('ALL_REDUCE', 160 / 3), ('ALL_GATHER', 80)])
@pytest.mark.parametrize('cycles', [0, 100, 200])
def test_transfers_between_slices_take_the_network(kind, sent, cycles):
    lines = [_SEND.format(1, kind), _RECEIVE.format(1, kind), _PRODUCT.format(0, cycles), _RECEIVED.format(1)]
    found = compiled.cost(_schedule(*lines), 8, lambda group: 1.0, _rates(slices=3))
    assert found.network_bytes == pytest.approx(sent) and sum(found.moved.values()) == 0
    assert found.exposed_seconds == pytest.approx(max(2 * sent - cycles, 0)) and found.link_seconds == 0


def test_the_network_carries_one_transfer_after_another():
    lines = [each.format(number, 'ALL_REDUCE') for each in (_SEND, _RECEIVE) for number in (1, 2)]
    found = compiled.cost(_schedule(*lines, _RECEIVED.format(2), _RECEIVED.format(1)), 8, lambda group: 1.0, _rates(slices=2))
    assert found.network_bytes == 80 and found.exposed_seconds == 160


def test_sorts_are_estimated():
    # 16 columns of 256 values and places: 36 stages of a bitonic network. The best 8 of them take 6 + 2 * 4.
    line = '%sorted = (f32[16,256]{1,0}, s32[16,256]{1,0}) sort(%values, %places), dimensions={1}, to_apply=%less'
    assert _cost(_schedule(line)).cycles == 2 * 36 * 16 * 256 / 1024
    top = ['%values = f32[16,256]{1,0} parameter(0)',
           '%best = (f32[16,8]{1,0}, s32[16,8]{1,0}) custom-call(%values), custom_call_target="TopK"']
    assert _cost(_schedule(*top)).cycles == 2 * 14 * 16 * 256 / 1024


_REDUCED = """\
%reduced (rows: bf16[4096,96], queries: f32[8,96]) -> f32[128,8] {
  %rows = bf16[4096,96]{1,0} parameter(0)
  %queries = f32[8,96]{1,0} parameter(1)
  %scores = f32[4096,8]{0,1} convolution(%rows, %queries), dim_labels=bf_oi->bf, operand_precision={highest,highest}
  ROOT %best = (f32[128,8]{0,1}, s32[128,8]{0,1}) custom-call(%scores, %scores), custom_call_target="PartialReduce"
}

"""


@pytest.mark.parametrize('stated, cycles', [('', 6 * 2 * 4096 * 96 * 8 / 1000), (', backend_config={"estimated_cycles":"77"}', 77)])
def test_a_product_without_an_estimate_takes_its_flops(stated, cycles):
    fused = '%out = (f32[128,8]{0,1}, s32[128,8]{0,1}) fusion(%all, %asked), kind=kOutput, calls=%reduced' + stated
    arguments = ['%all = bf16[4096,96]{1,0} parameter(0)', '%asked = f32[8,96]{1,0} parameter(1)']
    assert _cost(_REDUCED + _schedule(*arguments, fused)).cycles == pytest.approx(cycles)


_FUSED = """\
%sliced (stacked: f32[24,10], other: f32[10]) -> f32[10] {
  %stacked = f32[24,10]{1,0} parameter(0)
  %other = f32[10]{0} parameter(1)
  %mine = f32[1,10]{1,0} dynamic-slice(%stacked, %layer, %zero), dynamic_slice_sizes={1,10}
  ROOT %sum = f32[10]{0} add(%mine, %other)
}

%updated (stacked: f32[24,10], other: f32[1,10]) -> f32[24,10] {
  %stacked = f32[24,10]{1,0} parameter(0)
  %other = f32[1,10]{1,0} parameter(1)
  ROOT %new = f32[24,10]{1,0} dynamic-update-slice(%stacked, %other, %layer, %zero)
}

"""


def test_a_slice_inside_an_inner_fusion_reads_a_part():
    outer = """\
%outer (stacked: f32[24,10], other: f32[10]) -> f32[10] {
  %all = f32[24,10]{1,0} parameter(0)
  %row = f32[10]{0} parameter(1)
  ROOT %inner = f32[10]{0} fusion(%all, %row), kind=kLoop, calls=%sliced
}

"""
    lines = ['%all = f32[24,10]{1,0} parameter(0)', '%row = f32[10]{0} parameter(1)', '%out = f32[10]{0} fusion(%all, %row), calls=%outer']
    assert _cost(_FUSED + outer + _schedule(*lines)).memory_bytes == 3 * 40


def test_memory_counts_what_is_read_and_written():
    stacked, row = '%all = f32[24,10]{1,0} parameter(0)', '%row = f32[10]{0} parameter(1)'
    read = _cost(_FUSED + _schedule(stacked, row, '%out = f32[10]{0} fusion(%all, %row), kind=kLoop, calls=%sliced'))
    assert read.memory_bytes == 3 * 40  # one layer's row, the other operand, the result
    written = _cost(_FUSED + _schedule(stacked, '%row = f32[1,10]{1,0} parameter(1)',
                                       '%out = f32[24,10]{1,0} fusion(%all, %row), kind=kLoop, calls=%updated'))
    assert written.memory_bytes == 2 * 40  # the row, to its place
    on_chip = _cost(_schedule('%row = f32[10]{0:T(128)S(3)} parameter(0)', '%out = f32[10]{0:T(128)} copy(%row)'))
    assert on_chip.memory_bytes == 40


# Bytes a second of a group, with links of 50 GB/s.
@pytest.mark.parametrize('topology, spanned, links', [
    ('v4:4x4x4', ((4, 1), (1, 1), (1, 1)), 2),  # a closed ring sends both ways
    ('v4:4x4x4', ((1, 1), (4, 1), (4, 1)), 4),
    ('v4:4x4x4', ((2, 1), (1, 1), (1, 1)), 1),  # half of a side is open
    ('v4:4x4x4', ((2, 2), (1, 1), (1, 1)), 1),  # every other chip: two rings share the links
    ('v4:2x2x4', ((1, 1), (1, 1), (4, 1)), 1),  # smaller than a cube: no side is closed
    ('v4:2x2x2', ((2, 1), (2, 1), (1, 1)), 2),
    ('v5e:8x16', ((1, 1), (16, 1)), 2),
    ('v5e:8x16', ((8, 1), (1, 1)), 1),
])
def test_links_of_a_group(topology, spanned, links):
    slice_ = slices.parse(topology)
    group = list(itertools.product(*(range(0, count * stride, stride) for count, stride in spanned)))
    assert slice_.bandwidth(group) == links * 50e9


def test_a_group_that_is_no_box_has_one_link():
    assert slices.parse('v4:4x4x4').bandwidth([(0, 0, 0), (1, 1, 0), (2, 3, 1)]) == 50e9
