"""From the last activations to log-probabilities of given tokens.

Logits of all positions never exist at once in float32: positions are taken in
chunks, whose logits are made again in the backward pass, and of positions that
nobody asks about there may be none.

Dimension key: B sequences; T positions; C chunk; D residual; V vocabulary.
"""

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Scores
from llm_jax.models import asked
from llm_jax.ops.matmul import matmul

LOGIT_BYTES = 128 * 2**20  # of one chunk of float32 logits, by default
# kernel_DV, special_GD, bias_V
Weights = tuple[jax.Array, jax.Array | None, jax.Array | None]
_PARTS = 16  # chunks, at least, where only some positions are asked about


def logits(
  x_BTD: jax.Array,
  kernel_DV: jax.Array,
  softcap: float | None,
  special_GD: jax.Array | None = None,
  bias_V: jax.Array | None = None,
) -> jax.Array:
  """Logits in float32 or wider. Soft-cap: arXiv:2408.00118, eq. 1.

  `special_GD`, if given, is added to the head of the first G tokens.
  """
  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  if x_BTD.dtype == wide:
    logits_BTV = matmul(x_BTD, kernel_DV)
  else:
    logits_BTV = jnp.matmul(x_BTD, kernel_DV, preferred_element_type=wide)
  if special_GD is not None:
    added_BTG = jnp.matmul(x_BTD.astype(wide), special_GD.astype(wide).T)
    others = kernel_DV.shape[1] - len(special_GD)
    no_pad = [(0, 0)] * (x_BTD.ndim - 1)
    logits_BTV += jnp.pad(added_BTG, [*no_pad, (0, others)])
  if bias_V is not None:
    logits_BTV += bias_V.astype(wide)
  if softcap:
    logits_BTV = softcap * jnp.tanh(logits_BTV / softcap)
  return logits_BTV


def outputs(
  x_BTD: jax.Array, kernel_DO: jax.Array, bias_O: jax.Array | None = None
) -> jax.Array:
  """Numbers said of each position, [B, T, O], in float32 or wider."""
  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  output_BTO = jnp.matmul(x_BTD.astype(wide), kernel_DO.astype(wide))
  return output_BTO if bias_O is None else output_BTO + bias_O.astype(wide)


def token_scores(
  x_BTD: jax.Array,
  kernel_DV: jax.Array,
  target_BT: jax.Array,
  *,
  softcap: float | None = None,
  chunk: int = 0,
  entropy: bool = False,
  hits: bool = False,
  special_GD: jax.Array | None = None,
  bias_V: jax.Array | None = None,
  asked_BT: jax.Array | None = None,
  temperature: float = 1.0,
) -> Scores:
  """Log p(target) and the log-normaliser at each position, in nats.

    logp_t = l_t[y_t] - log sum_v exp(l_t[v])

  Args:
    x_BTD: activations after the last norm.
    kernel_DV: the head.
    target_BT: tokens to score.
    softcap: cap on the logits' size.
    chunk: positions taken at once; 0 = as many as fit `LOGIT_BYTES`.
    entropy: also give the entropy of the distribution.
    hits: also say whether the target is the most likely token.
    special_GD: see `logits`.
    bias_V: added to the logits.
    temperature: logits are divided by it, after the cap.
    asked_BT: positions that are wanted; of others the scores are 0. Not with
      `hits`, which are of all positions.
  """

  def score(
    x_BCD: jax.Array,
    weights: Weights,
    target_BC: jax.Array,
    dims: str = "BT",
  ) -> Scores:
    kernel_DV, special_GD, bias_V = weights
    l_BCV = logits(x_BCD, kernel_DV, softcap, special_GD, bias_V) / temperature
    row = dims[0] if len(x_BCD) > 1 else "_"
    l_BCV = axes.constrain(l_BCV, f"{row}{dims[1]}V")
    top_BC1 = jax.lax.stop_gradient(l_BCV.max(-1, keepdims=True))
    exp_BCV = jnp.exp(l_BCV - top_BC1)
    sum_BC = exp_BCV.sum(-1)
    logz_BC = jnp.log(sum_BC) + top_BC1[..., 0]
    # A comparison, not a gather: it fuses, and works on a cut vocabulary.
    v = jax.lax.broadcasted_iota(target_BC.dtype, l_BCV.shape, 2)
    picked_BC = jnp.where(v == target_BC[..., None], l_BCV, 0).sum(-1)
    h_BC = logz_BC - (exp_BCV * l_BCV).sum(-1) / sum_BC if entropy else None
    hit_BC = (l_BCV.argmax(-1) == target_BC) if hits else None
    return Scores(picked_BC - logz_BC, logz_BC, h_BC, hit_BC)

  B, T, _ = x_BTD.shape
  weights = kernel_DV, special_GD, bias_V
  devices, parts = axes.cuts("B"), _parts(T)
  chunk = chunk or _chunk_that_fits(B, T, kernel_DV.shape[1])
  each = -(-chunk // parts)  # of a chunk, from each part of a row
  if asked_BT is not None and not hits and B % devices == 0:
    rows = B // devices
    some = max(1, min(rows * each, -(-rows * T // parts // _PARTS)))
    return asked.scores(
      score, x_BTD, weights, target_BT, asked_BT, (devices, parts), some
    )
  if chunk >= T:
    return score(x_BTD, weights, target_BT)
  if devices * parts > 1 and B % devices == 0:
    rows = B // devices
    return asked.every(
      score, x_BTD, weights, target_BT, (devices, parts), rows * each
    )
  n = -(-T // parts // each)
  pad = n * each - T // parts

  def cut(a: jax.Array) -> jax.Array:
    a = a.reshape(B, parts, T // parts, *a.shape[2:])
    a = jnp.pad(a, [(0, 0), (0, 0), (0, pad)] + [(0, 0)] * (a.ndim - 3))
    a = jnp.moveaxis(a.reshape(B, parts, n, each, *a.shape[3:]), 2, 0)
    return a.reshape(n, B, parts * each, *a.shape[4:])

  _, scores = jax.lax.scan(
    jax.checkpoint(lambda _, s: (None, score(s[0], weights, s[1]))),
    None,
    (cut(x_BTD), cut(target_BT)),
  )

  def paste(a: jax.Array) -> jax.Array:
    a = jnp.moveaxis(a.reshape(n, B, parts, each), 0, 2)
    return a.reshape(B, parts, n * each)[..., : T // parts].reshape(B, T)

  return jax.tree.map(paste, scores)


def _parts(T: int) -> int:
  """Into how many the positions of a row are cut over devices.

  A chunk has some of each, so that every device has a part of every chunk.
  """
  parts = axes.cuts("T")
  return 1 if T % parts else parts


def _chunk_that_fits(B: int, T: int, V: int) -> int:
  rows, parts = -(-B // axes.cuts("B")), _parts(T)
  chunks = -(-rows * T // parts * V * 4 // LOGIT_BYTES)
  return -(-T // parts // max(chunks, 1)) * parts
