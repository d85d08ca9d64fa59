"""Layers in stages: each stage's devices hold some, and rows pass through all.

Rows are cut into m microbatches. In turn t, of m + p - 1, stage s of p works
on microbatch t - s and hands it on, so all stages work at once but in the
first and last p - 1 turns (GPipe, arXiv:1811.06965, section 2.3). Where there
is no such microbatch it works on one that nobody reads. The backward pass is
that of the loop, in the opposite order.

Dimension key: B sequences; T positions; D residual width; L layers; M
microbatches; b sequences of one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax import axes
from llm_jax.ops.microbatches import cut, paste

AXIS = "stage"
Layer = Callable[
  [Any, jax.Array, Any, jax.Array, jax.Array], tuple[jax.Array, Any]
]


def num_stages() -> int:
  """Stages of the mesh that a program is made for."""
  return axes.sizes().get(AXIS, 1)


def bubble(stages: int, microbatches: int) -> float:
  """Share of a step's time in which a stage has nothing to do.

  (p - 1) / (m + p - 1)
  """
  return (stages - 1) / (microbatches + stages - 1)


def run(
  layer: Layer,
  weights_L: Any,
  x_BTD: jax.Array,
  shared: Any,
  *,
  microbatches: int,
  unroll: int = 1,
  remat: bool = False,
) -> tuple[jax.Array, Any]:
  """x_BTD after all layers, computed in the stages of the mesh at hand.

  Args:
    layer: (its weights, x_bTD, shared, number of the layer, number of the
      microbatch) -> x_bTD, and arrays of leading dim b that it tells.
    weights_L: of all layers, each leaf with a leading dim L.
    x_BTD: what the first layer reads.
    shared: what all layers read. Leaves of leading dim B go with their rows.
    microbatches: m; row r is in microbatch r mod m, so none changes devices.
    unroll: layers per turn of the loop over a stage's layers.
    remat: keep only what a stage is handed in each turn for the backward pass.

  Returns:
    x_BTD, and what the layers tell, with leading dims L and B.
  """
  p, m, B = num_stages(), microbatches, len(x_BTD)
  L = len(jax.tree.leaves(weights_L)[0])
  check(p, m, L, B)
  leaves, tree = jax.tree.flatten(shared)
  goes = [x.ndim > 0 and len(x) == B for x in leaves]
  leaves = [
    cut(x, m) if it_goes else x for x, it_goes in zip(leaves, goes, strict=True)
  ]

  def stage(at: jax.Array, i: jax.Array, here: tuple, x_bTD: jax.Array) -> Any:
    weights, leaves = here
    pick = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
    shared = tree.unflatten(
      pick(x) if it_goes else x for x, it_goes in zip(leaves, goes, strict=True)
    )

    def one(x_bTD: jax.Array, its: tuple) -> tuple[jax.Array, Any]:
      weights, number = its
      return layer(weights, x_bTD, shared, number, i)

    numbers = at * (L // p) + jnp.arange(L // p)
    turns = unroll or L // p
    return jax.lax.scan(one, x_bTD, (weights, numbers), unroll=turns)

  if remat:
    stage = jax.checkpoint(stage, prevent_cse=False)

  def turns(weights: Any, x_MbTD: jax.Array, leaves: Any) -> tuple:
    at = jax.lax.axis_index(AXIS)

    def turn(got_bTD: jax.Array, its: tuple) -> tuple[jax.Array, Any]:
      t, new_bTD = its
      x_bTD = jnp.where(at == 0, new_bTD, got_bTD)
      y_bTD, told = stage(at, _which(t, at, m), (weights, leaves), x_bTD)
      return jax.lax.ppermute(y_bTD, AXIS, _onward(p)), (y_bTD, told)

    # Not zeros: whatever a bubble computes has to be finite.
    first_bTD = x_MbTD[0]
    ends = jnp.broadcast_to(first_bTD, (p - 1, *first_bTD.shape))
    steps = jnp.arange(m + p - 1), jnp.concatenate([x_MbTD, ends])
    _, said = jax.lax.scan(turn, first_bTD, steps)
    y_MbTD, told = jax.tree.map(lambda x: _done(x, at, m), said)
    return jnp.where(at == p - 1, y_MbTD, 0)[None], told

  by_layer, whole = PartitionSpec(AXIS), PartitionSpec()
  y_pMbTD, told = jax.shard_map(
    turns,
    in_specs=(by_layer, whole, whole),
    out_specs=(by_layer, PartitionSpec(None, AXIS)),
    axis_names={AXIS},
    check_vma=False,
  )(weights_L, cut(x_BTD, m), leaves)
  # The last stage's, for all; what comes back for it, each has already.
  y_MbTD = jax.lax.reduce_sum(y_pMbTD, (0,))
  y_BTD = paste(y_MbTD)
  told = jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 2).reshape(L, B, *x.shape[3:]), told
  )
  return axes.constrain(y_BTD, "BTD"), told


def check(stages: int, microbatches: int, layers: int, rows: int) -> None:
  """ValueError where layers or rows cannot be cut so."""
  if layers % stages:
    raise ValueError(
      f"--mesh.stage={stages}: does not divide --model.num_layers={layers}"
    )
  if rows % microbatches:
    raise ValueError(
      f"--model.stage_microbatches={microbatches}: does not divide the {rows}"
      " rows that are computed at once"
    )


def _which(turn: jax.Array, stage: jax.Array, m: int) -> jax.Array:
  """The microbatch that a stage works on; in a bubble, any."""
  return jnp.clip(turn - stage, 0, m - 1)


def _onward(stages: int) -> list[tuple[int, int]]:
  """Who hands to whom."""
  return [(s, s + 1) for s in range(stages - 1)]


def _done(of_turns: jax.Array, stage: jax.Array, m: int) -> jax.Array:
  """Of what a stage says in each turn, all but its bubbles."""
  return jax.lax.dynamic_slice_in_dim(of_turns, stage, m)
