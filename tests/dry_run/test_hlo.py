"""What collectives move, read from programs whose traffic is known by hand."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmjax.dry_run import hlo


@pytest.fixture(scope='module')
def mesh():
  return jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))


def program(mesh, function, shape, given, wanted, times=1):
  given, wanted = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (given, wanted))
  if times > 1:
    one = function
    function = lambda x: jax.lax.scan(lambda x, _: (one(x), None), x, None, length=times)[0]
  jitted = jax.jit(function, in_shardings=given, out_shardings=wanted)
  return jitted.lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().as_text()


def test_a_sum_over_devices_is_one_all_reduce(mesh):
  text = program(mesh, lambda x: x.sum(axis=0), (8, 100), ('x',), ())
  assert hlo.collectives(text) == {'all-reduce': hlo.Traffic(1, 400, 400)}


def test_gathering_moves_the_whole_array(mesh):
  text = program(mesh, lambda x: x * 2, (16, 10), ('x',), ())
  assert hlo.collectives(text) == {'all-gather': hlo.Traffic(1, 640, 640)}


def test_a_program_without_communication(mesh):
  assert hlo.collectives(program(mesh, lambda x: x * 2, (16, 10), ('x',), ('x',))) == {}


def test_the_body_of_a_loop_counts_as_often_as_it_runs(mesh):
  centred = lambda x: x - jax.lax.with_sharding_constraint(x.sum(axis=0), NamedSharding(mesh, PartitionSpec()))
  text = program(mesh, centred, (8, 100), ('x',), ('x',), times=5)
  assert hlo.collectives(text) == {'all-reduce': hlo.Traffic(5, 5 * 400, 5 * 400)}


# As the TPU's compiler writes it: layouts with parentheses, tuples, a loop whose trips stand in its condition.
TPU_TEXT = """
HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %c = f32[]{:T(128)} add(%a, %b)
}

%condition (p: (s32[], bf16[2,512])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(8)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], bf16[2,512])) -> (s32[], bf16[2,512]) {
  %p = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[2,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %r = (bf16[2,512]{1,0:T(8,128)(2,1)}, bf16[2,512]{1,0:T(8,128)}) all-reduce(%x, %x), channel_id=1, to_apply=%add
  %y = bf16[2,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%r), index=0
  ROOT %t = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)}) tuple(%i, %y)
}

ENTRY %main (x: bf16[2,512]) -> f32[64] {
  %x = bf16[2,512]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)}) tuple(%zero, %x)
  %w = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)}) while(%t), condition=%condition, body=%body
  %piece = f32[8]{0:T(128)} constant({...})
  %s = (f32[8]{0:T(128)}, f32[64]{0:T(128)}) all-gather-start(%piece), dimensions={0}
  ROOT %g = f32[64]{0:T(128)} all-gather-done(%s)
}
"""


def test_text_of_a_tpu_program():
  size = 8 * 2 * 2 * 512 * 2
  assert hlo.collectives(TPU_TEXT) == {'all-gather': hlo.Traffic(1, 256, 0), 'all-reduce': hlo.Traffic(8, size, size)}


@pytest.mark.parametrize(
  'type_,size', [('pred[3]', 3), ('s4[6]{0:E(4)}', 3), ('f8e4m3fn[5]', 5), ('()', 0), ('(f32[2], u32[])', 12)]
)
def test_bytes_of_types(type_, size):
  assert hlo.bytes_of(type_) == size


RING = """
HloModule jit_step

%condition (p: (bf16[8,64], u32[])) -> pred[] {
  %p = (bf16[8,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) parameter(0)
  %limit = u32[]{:T(128)} constant(8)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (bf16[8,64], u32[])) -> (bf16[8,64], u32[]) {
  %p = (bf16[8,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %x = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=0
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %s = (bf16[8,64]{1,0}, bf16[8,64]{1,0}) collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %y = bf16[8,64]{1,0:T(8,128)(2,1)} collective-permute-done(%s)
  %n = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (bf16[8,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) tuple(%y, %n)
}

%begin (a: bf16[4,64]) -> bf16[8,64] {
  %a = bf16[4,64]{1,0} parameter(0)
  ROOT %g = bf16[8,64]{1,0} all-gather(%a), channel_id=2, backend_config={"async_collective_fusion_config":{}}
}

%end (a: bf16[4,64]) -> bf16[8,64] {
  %a = bf16[4,64]{1,0} parameter(0)
  ROOT %g = bf16[8,64]{1,0} all-gather(%a), channel_id=2, backend_config={"async_collective_fusion_config":{}}
}

ENTRY %main (x: bf16[8,64], a: bf16[4,64]) -> bf16[8,64] {
  %x = bf16[8,64]{1,0} parameter(0)
  %a = bf16[4,64]{1,0} parameter(1)
  %b = bf16[8,64]{1,0} fusion(%a), kind=kCustom, calls=%begin, backend_config={"estimated_cycles":"100"}
  %e = bf16[8,64]{1,0} fusion(%a), kind=kCustom, calls=%end, backend_config={"estimated_cycles":"11"}
  %zero = u32[]{:T(128)} constant(0)
  %t = (bf16[8,64]{1,0}, u32[]{:T(128)}) tuple(%x, %zero)
  %w = (bf16[8,64]{1,0}, u32[]{:T(128)}) while(%t), condition=%condition, body=%body
  %one = bf16[8,64]{1,0} all-reduce(%x), channel_id=2, to_apply=%add
  %other = bf16[8,64]{1,0} all-reduce(%one), channel_id=2, to_apply=%add
  ROOT %r = bf16[8,64]{1,0} get-tuple-element(%w), index=0
}
"""


def test_a_ring_counts_by_two_and_parts_of_a_collective_count_once():
  """Both are asynchronous: nothing waits for them. The two sums are synchronous, whatever channel they share."""
  size = 2 * 8 * 64
  traffic = {'all-gather': hlo.Traffic(1, size), 'all-reduce': hlo.Traffic(2, 2 * size, 2 * size)}
  traffic['collective-permute'] = hlo.Traffic(4, 4 * size)
  assert hlo.collectives(RING) == traffic
  assert hlo.estimated_cycles(RING) == 111


def test_products_are_counted_with_the_trips_of_their_loop():
  w = jnp.ones((16, 16))
  one = lambda x, _: (jax.lax.dot_general(x, w, (((1,), (0,)), ((), ()))), None)
  looped = jax.jit(lambda x: jax.lax.scan(one, x, None, length=3)[0])
  assert hlo.dot_flops(looped.lower(jnp.ones((8, 16))).compile().as_text()) == 3 * 2 * 8 * 16 * 16


@pytest.mark.parametrize(
  'left,right,result,attributes,products',
  [
    ('8,2048,64', '64,256,1', '8,2048,256', 'window={size=1}, dim_labels=0bf_io0->0bf', 8 * 2048 * 64 * 256),
    # four heads as the places of a window that meets one number, and padding on both sides of it
    (
      *('8,2048,1,64', '4,64,32,1', '8,2048,4,32'),
      'window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, dim_labels=0b1f_1io0->0b1f',
      8 * 2048 * 4 * 64 * 32,
    ),
    # rows and heads as places that are far apart, each of which meets its own number
    (
      *('6144,4,64,128', '6144,4,128,32', '6144,4,64,32'),
      'window={size=6144x4 stride=6143x3 lhs_dilate=6144x4}, dim_labels=01bf_01io->01bf',
      6144 * 4 * 64 * 128 * 32,
    ),
  ],
)
def test_a_convolution_counts_what_is_not_padding(left, right, result, attributes, products):
  text = f"""
ENTRY %main (l: bf16[{left}], r: bf16[{right}]) -> bf16[{result}] {{
  %l = bf16[{left}]{{0}} parameter(0)
  %r = bf16[{right}]{{0}} parameter(1)
  ROOT %o = bf16[{result}]{{0}} convolution(%l, %r), {attributes}
}}
"""
  assert hlo.dot_flops(text) == 2 * products


def test_hits_are_those_of_going_through_all_places():
  values = ((-7, -4, 0, 3), (1, 2, 3, 4), (1, 5), (1, 6, 13), (1, 2, 4))
  for start, step, count, length, every in itertools.product(*values):
    places = (start + i * step for i in range(count))
    expected = sum(0 <= at < length and at % every == 0 for at in places)
    assert hlo._hits(start, step, count, length, every) == expected
