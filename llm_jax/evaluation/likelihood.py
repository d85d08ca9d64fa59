"""How well a model predicts a split: loss, perplexity, bits per byte."""

from collections.abc import Callable, Iterable
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.contracts import Batch, Score

Totals = dict[str, Any]


def totals(
  score: Score, variables: Any, batch: Batch, token_bytes: jax.Array
) -> Totals:
  """Sums over one batch; pure, to be compiled."""
  scores = score(variables, batch, hits=True)
  mask_BT = batch["mask_BT"]
  bytes_BT = jnp.asarray(token_bytes)[batch["target_BT"]]
  return {
    "nats": -jnp.where(mask_BT, scores.logp_BT, 0).sum(),
    "hits": (scores.hit_BT & mask_BT).sum(),
    "tokens": mask_BT.sum(),
    "bytes": (bytes_BT * mask_BT).sum(),
  }


def evaluate(
  total_of: Callable[[Any, Batch], Totals],
  variables: Any,
  batches: Iterable[Batch],
  per_byte: str = "bits_per_byte",
) -> dict[str, float]:
  """Adds up batches in float64.

  Args:
    total_of: compiled `totals`.
    variables: of the model.
    batches: with the targets that count in `mask_BT`.
    per_byte: what bits a byte are called; those of a text of which only some
      tokens are told are not those of the text.

  Returns:
    loss        nats a token
    perplexity  exp(loss)
    bits_per_byte  total nats / ln 2 / UTF-8 bytes that the targets stand for
    token_accuracy  share of targets that were the most likely token
    tokens      targets counted
  """
  sums = {"nats": 0.0, "hits": 0.0, "tokens": 0.0, "bytes": 0.0}
  for batch in batches:
    for name, value in jax.device_get(total_of(variables, batch)).items():
      sums[name] += float(np.float64(value))
  if not sums["tokens"]:
    raise ValueError("there is no token to evaluate on")
  found = summary(sums["nats"], sums["hits"], sums["tokens"], sums["bytes"])
  return {per_byte if k == "bits_per_byte" else k: x for k, x in found.items()}


def summary(
  nats: float, hits: float, tokens: float, num_bytes: float
) -> dict[str, float]:
  """The measures, from totals."""
  loss = nats / tokens
  return {
    "loss": loss,
    "perplexity": math.exp(min(loss, 700)),
    "bits_per_byte": nats / math.log(2) / max(num_bytes, 1),
    "token_accuracy": hits / tokens,
    "tokens": tokens,
  }
