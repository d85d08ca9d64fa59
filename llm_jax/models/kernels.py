"""Which kernel computes attention, and on which devices it runs.

Dimension key: B sequences; T query positions; S key positions; N query heads;
K key/value heads; H head width.
"""

from collections.abc import Callable
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.config import TransformerConfig
from llm_jax.ops import attention as ops
from llm_jax.ops import context as context_ops

# Who sees whom: earlier positions; of the same document, too; and what all
# documents of a row see besides; anything else; what a cache holds.
Kind = Literal["causal", "packed", "shared", "other", "cache"]
Kernel = Literal["blocks", "masked", "cudnn", "context"]


class Call(NamedTuple):
  """What the choice of a kernel depends on, beside the settings."""

  platform: str  # cpu, gpu or tpu
  dtype: str
  width: int  # of a head
  queries: int  # positions
  kind: Kind
  context: int = 1  # devices that the positions are cut over


def choose(config: TransformerConfig, call: Call) -> Kernel:
  """The kernel for a call; ValueError where the one that is named cannot.

    blocks   XLA, a block of queries at a time; any device, dtype and width
    masked   XLA, all logits at once; what a cache holds, and odd masks
    cudnn    GPUs; half precision and small even heads
    context  blocks, of rows whose positions are cut over devices

  One token at a time is always read by `masked`.
  """
  named, way = config.attention, config.context_attention
  if call.context > 1 and call.kind not in ("other", "cache"):
    if named == "cudnn":
      raise ValueError(
        f"--model.attention={named}: not with --mesh.context={call.context},"
        " whose devices see other places of a row; auto or xla can"
      )
    return "context"
  if call.context > 1 and call.kind == "other" and way == "ring":
    raise ValueError(
      "--model.context_attention=ring: not with keys of an adapter, nor with a"
      " soft prompt and --model.window; gather can"
    )
  if call.queries > 1 and named in ("auto", "cudnn"):
    reason = _not_cudnn(call)
    if reason is None:
      return "cudnn"
    if named == "cudnn":
      raise ValueError(f"--model.attention=cudnn: {reason}; auto or xla can")
  return "masked" if call.kind in ("other", "cache") else "blocks"


def _not_cudnn(call: Call) -> str | None:
  """Why cuDNN's flash attention cannot; None where it can."""
  if call.platform != "gpu":
    return f"needs a GPU, this machine has {call.platform}"
  if call.dtype not in ("bfloat16", "float16"):
    return f"needs --model.dtype=bfloat16, not {call.dtype}"
  if call.width % 8 or call.width > 128:
    return f"needs heads of a width of 8, 16, ... 128, not {call.width}"
  return None


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_B1TS: jax.Array | None,
  config: TransformerConfig,
  kind: Kind,
  segment_BT: jax.Array | None = None,
) -> jax.Array:
  """Attention by the kernel that `choose` names.

  Args:
    q_BTNH: queries.
    k_BSKH: keys.
    v_BSKH: values.
    mask_B1TS: who sees whom; None if `kind` is "causal".
    config: its window, and which kernel.
    kind: what sort of mask it is.
    segment_BT: documents, if `kind` is "packed" or "shared".

  Returns:
    o_BTNH.
  """
  sizes = axes.sizes()
  context, T = sizes.get("context", 1), q_BTNH.shape[1]
  call = Call(
    axes.platform(),
    q_BTNH.dtype.name,
    q_BTNH.shape[-1],
    T,
    kind,
    1 if T % context else context,
  )
  kernel = choose(config, call)
  window = config.window
  if kernel == "masked":
    if mask_B1TS is None:
      mask_B1TS = ops.causal_mask(T, window)
    return ops.attention(q_BTNH, k_BSKH, v_BSKH, mask_B1TS)
  if kernel == "blocks":
    return ops.causal_attention(q_BTNH, k_BSKH, v_BSKH, window, segment_BT)
  if kernel == "context":

    def cut(q: jax.Array, k: jax.Array, v: jax.Array, s: jax.Array | None):
      return context_ops.causal_attention(
        *(q, k, v, window, s),
        axis="context",
        size=context,
        way=config.context_attention,
      )

    return on_mesh(cut, q_BTNH, k_BSKH, v_BSKH, segment_BT, "BT")
  return on_mesh(_cudnn(window), q_BTNH, k_BSKH, v_BSKH, mask_B1TS, "B___")


def _cudnn(window: int | None) -> Callable[..., jax.Array]:
  def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array):
    plain = mask is None
    return jax.nn.dot_product_attention(
      *(q, k, v),
      mask=mask,
      is_causal=plain,
      local_window_size=(window - 1, 0) if plain and window else None,
      implementation="cudnn",
    )

  return attention


def on_mesh(
  kernel: Callable[..., jax.Array],
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  rest: jax.Array | None,
  suffix: str,
) -> jax.Array:
  """kernel(q, k, v, rest) on every device, of the part that it holds.

  Rows, heads and positions are cut as `axes.KEY` says, `rest` as its suffix.
  """
  sizes = axes.sizes()
  if math.prod(sizes.values()) == 1:
    return kernel(q_BTNH, k_BSKH, v_BSKH, rest)
  k_BSKH, v_BSKH = (
    _with_enough_heads(x, q_BTNH.shape[2], sizes) for x in (k_BSKH, v_BSKH)
  )
  spec = lambda x, s: axes.spec(s, "activation", x.shape, sizes)
  place = spec(q_BTNH, "BTNH")
  given = [q_BTNH, k_BSKH, v_BSKH]
  places = [place, *(spec(x, "BTKH") for x in given[1:])]
  if rest is not None:
    given.append(rest)
    places.append(spec(rest, suffix))
  return jax.shard_map(
    lambda q, k, v, rest=None: kernel(q, k, v, rest),
    in_specs=tuple(places),
    out_specs=place,
    axis_names=set(sizes),
    check_vma=False,
  )(*given)


def _with_enough_heads(
  x_BSKH: jax.Array, num_queries: int, sizes: dict[str, int]
) -> jax.Array:
  """Key or value heads repeated until they can be cut as queries are.

  A device then has those of its own queries, and no others.
  """
  cuts, K = sizes.get("tensor", 1), x_BSKH.shape[2]
  if num_queries % cuts:
    return x_BSKH
  return jnp.repeat(x_BSKH, math.lcm(K, cuts) // K, axis=2)
