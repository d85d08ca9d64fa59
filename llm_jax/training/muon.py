"""Muon's direction: momentum with its singular values brought to about one.

Dimension key: L layers; I dims contracted; O dims made.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax import axes

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_TINY = 1e-30  # keeps a zero matrix zero


def is_hidden(suffix: str) -> bool:
  """Whether a parameter is a matrix of every layer ("LDF", "LNHD")."""
  return suffix.startswith("L") and is_matrix(suffix)


def is_matrix(suffix: str) -> bool:
  """Whether a parameter, seen in one layer, maps between two spaces.

  One of them is the residual stream (D, or E in a table) or an adapter's (R);
  the bias of the query heads, "NH", has two dims and is a vector.
  """
  dims = suffix.lstrip("LM")
  return len(dims) >= 2 and any(letter in dims for letter in "DER")


def orthogonalise(suffixes: Any) -> optax.GradientTransformation:
  """Each layer's matrices M -> 0.2 sqrt(max(I, O)) U V^T, where M = U S V^T.

  Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the factor gives
  updates Adam's size, arXiv:2502.16982, eq. 4.

  Args:
    suffixes: tree of suffixes; updates that are masked or None stay so.
  """

  def one(suffix: str, x: Any) -> Any:
    if x is None or isinstance(x, optax.MaskedNode):
      return x
    x_LIO = _as_matrices(suffix, x)
    scale = 0.2 * max(x_LIO.shape[1:]) ** 0.5
    return (scale * newton_schulz(x_LIO)).reshape(x.shape)

  return optax.stateless(
    lambda updates, params: jax.tree.map(one, suffixes, updates)
  )


def newton_schulz(x_LIO: jax.Array) -> jax.Array:
  """U S' V^T for each U S V^T, with S' between 0.68 and 1.21.

    X <- a X + b (X X^T) X + c (X X^T)^2 X,  five times, from X / |X|

  A singular value below 1 / 600 of the norm |X| = |S| comes out smaller.
  """
  wide = x_LIO.shape[1] <= x_LIO.shape[2]
  x = x_LIO if wide else x_LIO.swapaxes(1, 2)
  norm_L11 = jnp.sqrt((x * x).sum((1, 2), keepdims=True))
  x = x / jnp.maximum(norm_L11, _TINY)
  a, b, c = _COEFFICIENTS
  for _ in range(_STEPS):
    xx = x @ x.swapaxes(1, 2)
    x = a * x + (b * xx + c * xx @ xx) @ x
  return x if wide else x.swapaxes(1, 2)


def _as_matrices(suffix: str, x: jax.Array) -> jax.Array:
  """[L, I, O]. One side is a single dim: the first, or else the last.

  L counts the matrices, with experts L M of them.
  """
  first = axes.num_stacked(suffix)
  stacked = math.prod(x.shape[:first])
  if suffix[first] in "DR":
    return x.reshape(stacked, x.shape[first], -1)
  return x.reshape(stacked, -1, x.shape[-1])
