"""Rotary positions of a part of a head, and with frequencies that are scaled for longer texts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.ops import platforms, positions

PLACES = np.array([[0, 1, 2, 3, 4], [7, 30, 2, 100, 5]])


@pytest.mark.parametrize('target', ['cpu', 'tpu'])
def test_a_part_of_a_head_is_rotated_by_scaled_frequencies(target, monkeypatch):
  """As complex numbers, values and the gradient, which turns back."""
  monkeypatch.setattr(platforms, 'target', lambda: target)
  x, dy = np.random.default_rng(0).normal(size=(2, 2, 5, 3, 12)).astype(np.float32)
  width, scales, amplitude = 8, np.array([1.0, 0.7, 0.5, 0.25]), 1.3
  turn = amplitude * np.exp(1j * PLACES[:, :, None, None] * scales * 50.0 ** (-2 * np.arange(4) / width))

  def turned(x, turn):
    pairs = (x[..., :4] + 1j * x[..., 4:8]) * turn
    return np.concatenate([pairs.real, pairs.imag, x[..., 8:]], axis=-1)

  rotate = lambda x: positions.rotate(x, jnp.asarray(PLACES), 50.0, width, scales, amplitude)
  found, gradient = jax.vjp(rotate, jnp.asarray(x))
  np.testing.assert_allclose(found, turned(x, turn), atol=1e-4)
  np.testing.assert_allclose(gradient(jnp.asarray(dy))[0], turned(dy, turn.conj()), atol=1e-4)


def test_all_of_a_head_is_the_default():
  x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
  expected = positions.rotate(x, jnp.asarray(PLACES), 50.0)
  np.testing.assert_array_equal(positions.rotate(x, jnp.asarray(PLACES), 50.0, 8, np.ones(4), 1.0), expected)


def test_linear_scaling_divides_positions():
  scales = positions.frequency_scales('linear', 8, 50.0, 4.0)
  x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
  found = positions.rotate(x, jnp.asarray(PLACES), 50.0, None, scales)
  np.testing.assert_allclose(found, positions.rotate(x, jnp.asarray(PLACES) / 4, 50.0), atol=1e-5)


@pytest.mark.parametrize('kind,rotations', [('llama3', (1.0, 4.0)), ('yarn', (1.0, 32.0))])
def test_what_turns_often_stays_and_what_turns_seldom_is_divided(kind, rotations):
  width, theta, factor, length = 64, 10_000.0, 8.0, 4096
  scales = positions.frequency_scales(kind, width, theta, factor, length, rotations)
  turns = length * theta ** (-2 * np.arange(width // 2) / width) / (2 * math.pi)
  slow, fast = rotations
  near = 1 if kind == 'llama3' else theta ** (2 / width)  # the bounds of yarn are rounded outwards, by a pair at most
  assert (scales[turns > fast * near] == 1).all() and (scales[turns < slow / near] == 1 / factor).all()
  between = (turns < fast / near) & (turns > slow * near)
  assert between.sum() > 3 and (np.diff(scales) <= 0).all() and (np.diff(scales[between]) < 0).all()
  line = turns if kind == 'llama3' else np.arange(width // 2)
  slope = np.diff(scales[between]) / np.diff(line[between])
  np.testing.assert_allclose(slope, slope[0])


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize('kind', ['linear', 'llama3', 'yarn'])
@pytest.mark.parametrize('width,theta,length', [(64, 500_000.0, 8192), (128, 10_000.0, 4096), (8, 10_000.0, 64)])
def test_scaled_frequencies_are_those_of_transformers(kind, width, theta, length):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  rotations = {'linear': None, 'llama3': (1.0, 4.0), 'yarn': (1.0, 32.0)}[kind]
  theirs = {'rope_type': kind, 'rope_theta': theta, 'factor': 8.0, 'original_max_position_embeddings': length}
  if kind == 'llama3':
    theirs |= {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
  config = transformers.LlamaConfig(
    hidden_size=4 * width, num_attention_heads=4, max_position_embeddings=8 * length, rope_parameters=theirs
  )
  frequencies, amplitude = ROPE_INIT_FUNCTIONS[kind](config, device='cpu')
  scales = positions.frequency_scales(kind, width, theta, 8.0, length, rotations)
  plain = theta ** (-2 * np.arange(width // 2) / width)
  np.testing.assert_allclose(plain * scales, frequencies.numpy(), rtol=2e-6)
  assert amplitude == pytest.approx(positions.yarn_amplitude(8.0) if kind == 'yarn' else 1.0)
