"""Kernels in 8 or 4 bits, with one scale for each block of inputs.

Dimension key: I dims contracted; O dims made.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import qwix

Kind = Literal["int8", "nf4"]
BLOCK = 64  # inputs that share a scale (QLoRA, arXiv:2305.14314, section 3)


def quantise(kernel: jax.Array, kind: Kind, dims: tuple[int, ...]) -> Any:
  """A kernel as codes and scales; see `dequantise`.

  int8 rounds to 255 even steps; nf4 to the 16 quantiles of a normal
  distribution of QLoRA, appendix E.

  Args:
    kernel: [..., I, O]; other dims have scales of their own.
    kind: of codes.
    dims: the dims contracted. The last of them is cut into blocks of `BLOCK`,
      or is one block where that does not divide it.
  """
  *rest, last = dims
  block = BLOCK if kernel.shape[last] % BLOCK == 0 else kernel.shape[last]
  others = [d for d in range(kernel.ndim) if d != last]
  return qwix.quantize(
    kernel,
    jnp.int8 if kind == "int8" else "nf4",
    channelwise_axes=others,
    tiled_axes={last: block},
    scale_dtype=jnp.promote_types(kernel.dtype, jnp.float32),
  )


def dequantise(quantised: Any, dtype: jnp.dtype) -> jax.Array:
  """The kernel that codes and scales stand for."""
  return qwix.dequantize(quantised).astype(dtype)
