"""Which kernel computes attention, and on which devices it runs.

Dimension key: B sequences; T query positions; S key positions; N query heads;
K key/value heads; H head width.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax import axes
from llm_jax.models.config import TransformerConfig
from llm_jax.ops import attention as ops
from llm_jax.ops import context as context_ops
from llm_jax.ops import splash

# Who sees whom: earlier positions; of the same document, too; and what all
# documents of a row see besides; anything else; what a cache holds.
Kind = Literal["causal", "packed", "shared", "other", "cache"]
Kernel = Literal["blocks", "masked", "context", "cudnn", "splash"]


class Call(NamedTuple):
  """What the choice of a kernel depends on, beside the settings."""

  platform: str  # cpu, gpu or tpu
  dtype: str
  width: int  # of a head
  queries: int  # positions
  kind: Kind
  context: int = 1  # devices that the positions are cut over

  @property
  def whole(self) -> bool:
    """Whether it is of rows that see what came before, and no more."""
    return self.kind not in ("other", "cache")


def choose(config: TransformerConfig, call: Call) -> Kernel:
  """The kernel for a call; ValueError where the one that is named cannot.

    blocks   XLA, a block of queries at a time; any device, dtype and width
    masked   XLA, all logits at once: of what a cache holds, and of odd masks
    context  XLA, as blocks, of rows whose positions are cut over devices
    cudnn    GPUs: half precision, small even heads; with a mask, if need be
    splash   TPUs: rows of a multiple of 128, which documents may share

  What a cache holds is read by none of the last two for a single token, and
  never by splash, whatever is named.
  """
  named, cut = config.attention, call.context > 1
  cannot = {
    "cudnn": _not_cudnn(config, call),
    "splash": _not_splash(config, call),
  }
  reads = "splash" if call.kind == "cache" else None  # which is not for it
  if call.queries > 1 and named in cannot and named != reads:
    if cannot[named] is None:
      return "cudnn" if named == "cudnn" else "splash"
    raise ValueError(f"--model.attention={named}: {cannot[named]}")
  if call.queries > 1 and named == "auto":
    if cannot["cudnn"] is None:
      return "cudnn"
    if cannot["splash"] is None:
      return "splash"
  if call.whole and cut and config.attention_softcap:
    raise ValueError(
      f"--mesh.context={call.context}: not with --model.attention_softcap"
    )
  if call.whole:
    return "context" if cut else "blocks"
  if cut and call.kind == "other" and config.context_attention == "ring":
    raise ValueError(
      "--model.context_attention=ring: not with keys of an adapter, nor with a"
      " soft prompt and --model.window; gather can"
    )
  return "masked"


def _not_cudnn(config: TransformerConfig, call: Call) -> str | None:
  """Why cuDNN's flash attention cannot; None where it can."""
  if odd := _not_plain(config):
    return odd
  if call.platform != "gpu":
    return f"needs a GPU, not {call.platform}; auto or xla run anywhere"
  if call.dtype not in ("bfloat16", "float16"):
    return f"needs --model.dtype=bfloat16, not {call.dtype}"
  if call.width % 8 or call.width > 128:
    return f"needs heads of width 8, 16, ... 128, not {call.width}"
  if call.whole and call.context > 1:
    return f"not with --mesh.context={call.context}; auto or xla can"
  return None


def _not_plain(config: TransformerConfig) -> str | None:
  """Why no kernel can that knows of masks only."""
  if config.attention_softcap:
    return "not with --model.attention_softcap; auto or xla can"
  if config.positions == "relative":
    return "not with --model.positions=relative; auto or xla can"
  return None


def _not_splash(config: TransformerConfig, call: Call) -> str | None:
  """Why the splash kernel cannot; None where it can."""
  if odd := _not_plain(config):
    return odd
  if call.platform != "tpu":
    return f"needs a TPU, not {call.platform}; auto or xla run anywhere"
  if call.dtype not in ("bfloat16", "float32"):
    return f"needs --model.dtype=bfloat16 or float32, not {call.dtype}"
  if call.kind not in ("causal", "packed"):
    return "not with keys that an adapter brings; auto or xla can"
  least = call.context * splash.LANES
  if call.queries % least or call.queries % call.context**2:
    return f"needs rows of a multiple of {least} positions, not {call.queries}"
  if call.context > 1 and config.context_attention == "ring":
    return "goes with --model.context_attention=gather, not with ring"
  return None


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_B1TS: jax.Array | None,
  config: TransformerConfig,
  kind: Kind,
  window: int | None = None,
  segment_BT: jax.Array | None = None,
  bias_BNTS: jax.Array | None = None,
) -> jax.Array:
  """Attention by the kernel that `choose` names.

  Args:
    q_BTNH: queries.
    k_BSKH: keys.
    v_BSKH: values.
    mask_B1TS: who sees whom; None if `kind` is "causal".
    config: which kernel, and a cap on the logits.
    kind: what sort of mask it is.
    window: how far a query sees, itself included.
    segment_BT: documents, if `kind` is "packed" or "shared".
    bias_BNTS: added to the logits, if `kind` is "other" or "cache".

  Returns:
    o_BTNH.
  """
  T, N, H = q_BTNH.shape[1:]
  sizes, softcap = axes.sizes(), config.attention_softcap
  context = sizes.get("context", 1)
  if T % context:  # each device has all of them
    context = 1
  call = Call(axes.platform(), q_BTNH.dtype.name, H, T, kind, context)
  kernel = choose(config, call)
  if kernel == "masked":
    assert mask_B1TS is not None
    return ops.attention(
      *(q_BTNH, k_BSKH, v_BSKH, mask_B1TS),
      softcap=softcap,
      bias_BNTS=bias_BNTS,
    )
  if kernel == "blocks":
    return ops.causal_attention(
      q_BTNH, k_BSKH, v_BSKH, window, segment_BT, softcap
    )
  if kernel == "cudnn":
    return on_mesh(_cudnn(window), q_BTNH, k_BSKH, v_BSKH, (mask_B1TS, "B___"))
  cuts = sizes.get("tensor", 1)
  if kernel == "context":
    run = functools.partial(
      context_ops.causal_attention,
      window=window,
      axis="context",
      size=context,
      way=config.context_attention,
    )
    return on_mesh(run, q_BTNH, k_BSKH, v_BSKH, (segment_BT, "BT"), cut=True)
  # Halves of a device's positions are dealt if they are of whole blocks.
  half = 2 * context * splash.LANES
  dealt = context > 1 and window is None and T % half == 0
  blocks = splash.make(
    *(N if N % cuts else N // cuts, T, window), cuts=context, dealt=dealt
  )
  return on_mesh(
    _splash(context, dealt),
    *(q_BTNH, k_BSKH, v_BSKH),
    (segment_BT, "BT"),
    (blocks, splash.specs(blocks, "context" if context > 1 else None)),
    cut=context > 1,
  )


def _cudnn(window: int | None) -> Callable[..., jax.Array]:
  def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Any):
    plain = mask is None
    return jax.nn.dot_product_attention(
      *(q, k, v),
      mask=mask,
      is_causal=plain,
      local_window_size=(window - 1, 0) if plain and window else None,
      implementation="cudnn",
    )

  return attention


def _splash(size: int, dealt: bool) -> Callable[..., jax.Array]:
  def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segment: Any, blocks: Any
  ):
    own, others = (q, segment), (k, v, segment)
    if size > 1:
      whole = lambda x: jax.lax.all_gather(x, "context", axis=1, tiled=True)
      others = jax.tree.map(whole, others)
    if dealt:
      own = jax.tree.map(lambda x: context_ops.deal(x, "context", size), own)
    o = splash.attention(blocks, own[0], *others[:2], own[1], others[2])
    return context_ops.undeal(o, "context", size) if dealt else o

  return attention


def on_mesh(
  kernel: Callable[..., jax.Array],
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  *rest: tuple[Any, Any],
  cut: bool = False,
) -> jax.Array:
  """kernel(q, k, v, *rest) on every device, of the part that it holds.

  Rows and heads are cut as `axes.KEY` says.

  Args:
    kernel: of arrays that are one device's.
    q_BTNH: queries.
    k_BSKH: keys.
    v_BSKH: values.
    *rest: whatever else, with its suffix, or with a tree of placements.
    cut: whether positions are cut, too.

  Returns:
    o_BTNH.
  """
  sizes = axes.sizes()
  if math.prod(sizes.values()) == 1:
    return kernel(q_BTNH, k_BSKH, v_BSKH, *(x for x, _ in rest))
  k_BSKH, v_BSKH = (
    _with_enough_heads(x, q_BTNH.shape[2], sizes) for x in (k_BSKH, v_BSKH)
  )

  def spec(x: Any, place: Any) -> Any:
    if x is None or not isinstance(place, str):
      return place if x is not None else None
    found = axes.spec(place, "activation", x.shape, sizes)
    names = [n if isinstance(n, tuple) else (n,) * bool(n) for n in found]
    # What is not named is summed over in the backward pass, if only by itself.
    idle = (n for n in sizes if sizes[n] == 1 and n not in sum(names, ()))
    return PartitionSpec((*names[0], *idle), *names[1:])

  T = "T" if cut else "_"
  query, key = f"B{T}NH", f"B{T}KH"
  given = [(q_BTNH, query), (k_BSKH, key), (v_BSKH, key), *rest]
  return jax.shard_map(
    kernel,
    in_specs=tuple(spec(x, place) for x, place in given),
    out_specs=spec(q_BTNH, query),
    axis_names=set(sizes),
    check_vma=False,
  )(*(x for x, _ in given))


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
