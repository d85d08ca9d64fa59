"""Attention on a TPU: JAX's splash kernel.

It computes in blocks that stay in fast memory, skips those that nobody sees,
and makes its own backward pass.

Dimension key: B sequences; T query positions; S key positions; N query heads;
K key/value heads; H head width.
"""

from typing import Any

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from llm_jax.ops import context

LANES = 128  # positions of a block are a multiple
BLOCK = 512  # and at most these


def make(
  num_heads: int,
  length: int,
  window: int | None = None,
  *,
  cuts: int = 1,
  dealt: bool = False,
  interpret: bool = False,
) -> Any:
  """The kernel for rows of this length, as a tree of arrays.

  Args:
    num_heads: query heads of a device.
    length: of a row, in positions.
    window: how far a query sees, itself included; None = everything before.
    cuts: devices that the queries of a row are cut over; `specs` says how the
      tree is then cut.
    dealt: whether they have places that `context.deal` gave them; not with a
      window.
    interpret: run without a TPU, slowly.
  """
  shape = (length, length)
  mask: splash.Mask
  if window is None:
    mask = splash.CausalMask(shape, shard_count=cuts)
    if dealt:
      mask.q_sequence = context.dealt(length, cuts).astype(np.int32)
  else:
    mask = splash.LocalMask(shape, (window - 1, 0), 0, shard_count=cuts)
  b, s = block(length // cuts), block(length)
  sizes = splash.BlockSizes(
    block_q=b,
    block_kv=s,
    block_kv_compute=s,
    block_q_dkv=b,
    block_kv_dkv=s,
    block_kv_dkv_compute=s,
    block_q_dq=b,
    block_kv_dq=s,
  )
  return splash.make_splash_mha(
    splash.MultiHeadMask([mask] * num_heads),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=cuts,
    interpret=interpret,
  )


def specs(kernel: Any, axis: str | None) -> Any:
  """Of a kernel's arrays, how the mesh axis that cuts queries cuts them."""
  mesh = jax.sharding.get_abstract_mesh()
  # Inside a shard_map over other axes jax does not tell the shape of a shard.
  free = (AxisType.Auto,) * len(mesh.axis_names)
  mesh = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=free)
  return kernel.manual_sharding_spec(NamedSharding(mesh, P(None, axis)))


def block(length: int) -> int:
  """Positions taken at once: the most that divide a length, up to `BLOCK`."""
  sizes = range(min(BLOCK, length), 0, -LANES)
  return next((size for size in sizes if length % size == 0), LANES)


def attention(
  kernel: Any,
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  query_segment_BT: Any = None,
  key_segment_BS: Any = None,
) -> jax.Array:
  """O_BTNH by a kernel of `make`; who shares a segment sees each other."""
  q_BNTH, k_BKSH, v_BKSH = (
    x.swapaxes(1, 2)
    for x in (q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BSKH, v_BSKH)
  )
  if query_segment_BT is None:
    o_BNTH = jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH)
  else:
    segments = splash.SegmentIds(query_segment_BT, key_segment_BS)
    o_BNTH = jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, segments)
  return o_BNTH.swapaxes(1, 2)
