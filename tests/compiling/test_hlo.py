"""Exchanges and cycles in the text of compiled programs."""

from ldm_jax.compiling import hlo

TEXT = """\
HloModule m

%cond (c: (s32[], f32[4])) -> pred[] {
  %c = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(50)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = f32[4]{0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1}}
  %f = f32[4]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"10"}
}

%fused (f: f32[4]) -> f32[4] {
  %g = f32[4]{0} negate(%f)
}

%all-reduce-scatter.5 (g: f32[64]) -> f32[8] {
  %g2 = f32[64]{0} all-reduce(%g), channel_id=9, replica_groups=[1,8]<=[8]
  ROOT %slice = f32[8]{0} dynamic-slice(%g2, %i)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %h = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.5
  %w = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body
  %r = (f32[10]{0}, bf16[6]{0}) all-reduce(%a, %b), channel_id=1, replica_groups=[1,8]<=[8]
  %s = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}
  %d = f32[32]{0} all-gather-done(%s), channel_id=2
  %q = f32[4]{0} reduce-scatter(%y), replica_groups=mesh['a'=2,'b'=4] {'b'}, channel_id=5
  ROOT %o = f32[4]{0} fusion(%w), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""


def test_exchanges_are_counted_by_kind_with_loops_and_groups():
    found = {c.kind: c for c in hlo.collectives(TEXT, 8)}
    assert {kind: (c.count, c.num_bytes) for kind, c in found.items()} == {
        "all-reduce": (1, 52),
        "all-gather": (1, 128),
        "reduce-scatter": (2, 64 + 256),
        "collective-permute": (50, 800),
    }
    assert found["all-reduce"].sent_bytes == 2 * 52 * 7 // 8
    assert found["all-gather"].sent_bytes == 128 * 7 // 8
    assert found["reduce-scatter"].sent_bytes == 64 * 3 // 4 + 256 * 7 // 8
    assert found["collective-permute"].sent_bytes == 800


def test_cycles_count_loops_by_their_length():
    assert hlo.cycles(TEXT) == 50 * 10 + 7
