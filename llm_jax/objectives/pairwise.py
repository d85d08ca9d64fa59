"""What objectives on pairs of completions share.

Rows 2i and 2i + 1 of a batch are the chosen and the rejected completion of one
prompt, each as `Causal` reads it; `mask_BT` marks the completion's tokens.
`ref_logp_B`, where the data carries it, is the reference's log-probability of
each completion; else the role "reference" is asked.

Dimension key: B rows; Q pairs (B = 2 Q); T positions; 2 = (chosen, rejected).
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles, Scores
from llm_jax.ops import weights
from llm_jax.ops.metrics import Mean


class Pairs(NamedTuple):
  """What a loss knows of Q pairs; log-probabilities in nats."""

  policy_Q2: Any  # sums over the tokens of each completion
  length_Q2: jax.Array  # tokens of each completion, as floats
  reference_Q2: Any = None  # no gradient goes into it
  # -log p of chosen completions, alone and with their prompts; scaled so that
  # the mean over pairs of the global batch is the mean over its tokens.
  nll_Q: Any = None
  nll_all_Q: Any = None
  columns_Q2: Mapping[str, jax.Array] = {}  # what `columns` made
  margin_Q: Any = None  # by how much the chosen one is better, if it is known

  @property
  def mean_Q2(self) -> jax.Array:
    """Log-probability a token of each completion."""
    return self.policy_Q2 / jnp.maximum(self.length_Q2, 1)


class Terms(NamedTuple):
  """What a loss says of Q pairs."""

  loss_Q: jax.Array
  reward_Q2: jax.Array  # implicit, in units of the loss's logits


class Pairwise(Objective):
  """An objective whose loss is a mean over the pairs of the global batch.

  A loss is a frozen dataclass that says `terms`. What it must know of the
  whole batch it writes by `columns`.
  """

  reads: ClassVar[tuple[str, ...]] = ("pairs",)
  rows_together: ClassVar[int] = 2  # of which no microbatch has only some

  @abc.abstractmethod
  def terms(self, pairs: Pairs) -> Terms:
    """Loss and implicit rewards of each pair."""

  @property
  def needs_reference(self) -> bool:
    """Whether `terms` reads the reference's log-probabilities."""
    return True

  @property
  def needs_policy(self) -> bool:
    """Whether `columns` reads `logp_B`, at the price of a forward."""
    return False

  @property
  def needs_prompts(self) -> bool:
    """Whether `terms` reads `nll_all_Q`."""
    return False

  def asked(self, batch: Batch) -> jax.Array:
    """Those of completions, and of prompts if need be."""
    prompts = "prompt_BT" in batch and self.needs_prompts
    return (
      batch["mask_BT"] | batch["prompt_BT"] if prompts else batch["mask_BT"]
    )

  def columns(self, batch: Batch) -> dict[str, jax.Array]:
    """[B] columns made from the whole batch, for `terms`; no gradient.

    The batch has `logp_B` and `ref_logp_B`, the policy's and the reference's
    log-probabilities of completions, where they are asked for.
    """
    del batch
    return {}

  def annotate(self, forward: Forward, roles: Roles, batch: Batch) -> Batch:
    """Asks the reference, unless the data carries its log-probabilities."""
    batch = dict(batch)
    if self.needs_reference and "ref_logp_B" not in batch:
      scores = forward["reference"](roles["reference"], batch)
      batch["ref_logp_B"] = completion_logp(scores, batch)
    if self.needs_policy:
      scores = forward["policy"](roles["policy"], batch)
      batch["logp_B"] = completion_logp(scores, batch)
    return jax.lax.stop_gradient(batch)

  def rewards(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """Implicit ones, [B], in units of the loss's logits."""
    batch = self.weigh(self.annotate(forward, roles, batch))
    scores = forward["policy"](roles["policy"], batch)
    return self.terms(gather(scores, batch)).reward_Q2.reshape(-1)

  def weigh(self, batch: Batch) -> Batch:
    """Each pair counts once; pairs without any completion do not count."""
    there_Q = by_pair(batch["mask_BT"]).any((1, 2))
    num_pairs = jnp.maximum(there_Q.sum(), 1)
    float_ = jnp.result_type(float)
    out = {**batch, "weight_B": by_row(there_Q.astype(float_) / num_pairs)}
    chosen_BT = batch["mask_BT"] * _is_chosen(batch)
    out["nll_weight_BT"] = weights.token_mean(chosen_BT) * num_pairs
    if "prompt_BT" in batch:
      all_BT = chosen_BT + batch["prompt_BT"] * _is_chosen(batch)
      out["nll_all_weight_BT"] = weights.token_mean(all_BT) * num_pairs
    columns = self.columns(out)
    return out | {f"{_OWN}{name}_B": x_B for name, x_B in columns.items()}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over pairs of weight times loss, and what is reported."""
    scores = forward["policy"](roles["policy"], batch, key=key)
    pairs = gather(scores, batch)
    terms = self.terms(pairs)
    weight_Q = by_pair(batch["weight_B"])[:, 0]
    there_Q = weight_Q > 0
    reward_Q2 = jax.lax.stop_gradient(terms.reward_Q2)
    margin_Q = reward_Q2[:, 0] - reward_Q2[:, 1]
    mean = lambda x_Q: Mean.of(x_Q.astype(terms.loss_Q.dtype), there_Q)
    metrics = {
      "accuracy": mean(margin_Q > 0),
      "margin": mean(margin_Q),
      "reward_chosen": mean(reward_Q2[:, 0]),
      "reward_rejected": mean(reward_Q2[:, 1]),
      "logp_chosen": mean(pairs.policy_Q2[:, 0]),
      "logp_rejected": mean(pairs.policy_Q2[:, 1]),
      "nll": Mean.of(-scores.logp_BT, batch["mask_BT"] * _is_chosen(batch)),
      "tokens": Mean.sum(batch["mask_BT"].sum().astype(scores.logp_BT.dtype)),
    }
    return (weight_Q * terms.loss_Q).sum(), metrics


_OWN = "pairwise_"  # begins the names of columns that losses made


def completion_logp(scores: Scores, batch: Batch) -> jax.Array:
  """Log-probability of each row's completion, [B] in nats."""
  return (scores.logp_BT * batch["mask_BT"]).sum(-1)


def known(batch: Batch) -> Pairs:
  """The pairs of a batch before its loss: what `columns` may read."""
  names = ("logp_B", "ref_logp_B", "margin_B")
  policy_B, reference_B, margin_B = map(batch.get, names)
  length_B = batch["mask_BT"].sum(-1)
  return Pairs(
    policy_Q2=None if policy_B is None else by_pair(policy_B),
    length_Q2=by_pair(length_B.astype(jnp.result_type(float))),
    reference_Q2=None if reference_B is None else by_pair(reference_B),
    margin_Q=None if margin_B is None else by_pair(margin_B)[:, 0],
  )


def gather(scores: Scores, batch: Batch) -> Pairs:
  """The pairs of a batch that was weighed, as the policy scores them."""
  nll = lambda name: by_pair((-batch[name] * scores.logp_BT).sum(-1))[:, 0]
  columns = {
    name.removeprefix(_OWN).removesuffix("_B"): by_pair(x)
    for name, x in batch.items()
    if name.startswith(_OWN)
  }
  whole = "nll_all_weight_BT" in batch
  return known(batch)._replace(
    policy_Q2=by_pair(completion_logp(scores, batch)),
    nll_Q=nll("nll_weight_BT"),
    nll_all_Q=nll("nll_all_weight_BT") if whole else None,
    columns_Q2=columns,
  )


def by_pair(x_B: jax.Array) -> jax.Array:
  """[B, ...] -> [Q, 2, ...]."""
  if x_B.shape[0] % 2:
    raise ValueError(
      f"--batch_size={x_B.shape[0]}: must be even, two rows are one pair"
    )
  return x_B.reshape(-1, 2, *x_B.shape[1:])


def by_row(x_Q: jax.Array) -> jax.Array:
  """[Q] -> [B], the same for both rows of a pair."""
  return jnp.repeat(x_Q, 2)


def _is_chosen(batch: Batch) -> jax.Array:
  B = batch["mask_BT"].shape[0]
  return (jnp.arange(B) % 2 == 0)[:, None]
