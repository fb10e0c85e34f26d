"""What collectives move, read from programs whose traffic is known by hand."""

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
  assert hlo.collectives(text) == {'all-reduce': hlo.Traffic(1, 400)}


def test_gathering_moves_the_whole_array(mesh):
  text = program(mesh, lambda x: x * 2, (16, 10), ('x',), ())
  assert hlo.collectives(text) == {'all-gather': hlo.Traffic(1, 640)}


def test_a_program_without_communication(mesh):
  assert hlo.collectives(program(mesh, lambda x: x * 2, (16, 10), ('x',), ('x',))) == {}


def test_the_body_of_a_loop_counts_as_often_as_it_runs(mesh):
  centred = lambda x: x - jax.lax.with_sharding_constraint(x.sum(axis=0), NamedSharding(mesh, PartitionSpec()))
  text = program(mesh, centred, (8, 100), ('x',), ('x',), times=5)
  assert hlo.collectives(text) == {'all-reduce': hlo.Traffic(5, 5 * 400)}


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
  traffic = {'all-gather': hlo.Traffic(1, 256), 'all-reduce': hlo.Traffic(8, 8 * 2 * 2 * 512 * 2)}
  assert hlo.collectives(TPU_TEXT) == traffic


@pytest.mark.parametrize(
  'type_,size', [('pred[3]', 3), ('s4[6]{0:E(4)}', 3), ('f8e4m3fn[5]', 5), ('()', 0), ('(f32[2], u32[])', 12)]
)
def test_bytes_of_types(type_, size):
  assert hlo.bytes_of(type_) == size
