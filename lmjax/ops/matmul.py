"""The matrix product of linear layers. Legend: D inputs, F outputs, M rows: all leading axes of an array together."""

import jax
import jax.numpy as jnp


def matmul(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
  """`x @ kernel` over the last axis of x, with a backward pass for CPU.

  The gradient of the kernel that JAX derives is the transpose of `dy^T x`, for which XLA's CPU backend copies dy
  into its transposed layout first; asked for `x^T dy` it copies nothing. With it, a training step of a GPT of width
  384 (batch 16 x 256, float32, 2 cores of an AMD EPYC) took 0.89 times as long. Other backends choose their own
  layouts.
  """
  return _matmul(x.reshape(-1, x.shape[-1]), kernel_DF).reshape(*x.shape[:-1], kernel_DF.shape[-1])


@jax.custom_vjp
def _matmul(x_MD, kernel_DF):
  return x_MD @ kernel_DF


def _forward(x_MD, kernel_DF):
  return x_MD @ kernel_DF, (x_MD, kernel_DF)


def _backward(kept, dy_MF):
  x_MD, kernel_DF = kept
  return dy_MF @ kernel_DF.T, jnp.einsum('MD,MF->DF', x_MD, dy_MF)


_matmul.defvjp(_forward, _backward)
