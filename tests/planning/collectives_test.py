"""Traffic read off a program's text: loops by their conditions, switches by their dearest branch, async pairs once."""

import pytest

from atlas_jax.planning import collectives

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


def test_every_kind_is_counted_once_a_trip():
    moved = collectives.collective_bytes(TEXT, 8)
    array = 96 * 32 * 2
    assert moved['all-gather'] == pytest.approx(24 * array * 7 / 8)
    assert moved['reduce-scatter'] == pytest.approx(24 * array * 7 / 8 + 5 * 4)
    assert moved['all-reduce'] == pytest.approx(2 * 40 / 2)
    assert moved['collective-permute'] == 40
    assert moved['all-to-all'] == 0


@pytest.mark.parametrize('groups, share', [("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 3 / 4), ("mesh['axis_0'=8] {'axis_0'}", 7 / 8),
                                           ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 7 / 8), ('{{0,4},{1,5},{2,6},{3,7}}', 1 / 2),
                                           ('[2,4]<=[8]', 3 / 4)])
def test_groups_in_every_notation(groups, share):
    moved = collectives.collective_bytes(TEXT.replace('[1,8]<=[8]', groups), 8)
    assert moved['all-gather'] == pytest.approx(24 * 96 * 32 * 2 * share)


def test_a_stated_trip_count_wins():
    text = TEXT.replace('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert collectives.collective_bytes(text, 8)['all-gather'] == pytest.approx(3 * 96 * 32 * 2 * 7 / 8)
