"""Policy gradients without a critic: completions of a prompt are compared.

Methods differ in what a completion is compared with, in how its tokens weigh
and in the ratio that is clipped; each is a `Group` with its own choices.

Dimension key: B completions, those of a prompt side by side; T positions.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch
from llm_jax.objectives.policy import Policy
from llm_jax.objectives.ppo import penalised
from llm_jax.ops import returns


@dataclasses.dataclass(frozen=True)
class Group(Policy):
  """Advantages from the scores of a prompt's K completions."""

  completions: int = field(8, "K, drawn for each prompt", low=1)
  against: Literal["group", "others", "nothing"] = field(
    "group",
    "what a score is compared with: the mean of the prompt's, the mean of its"
    " others, or nothing",
  )
  scale: bool = field(True, "divide by the standard deviation of the prompt's")
  penalty: Literal["none", "k1", "k2", "k3"] = field(
    "none", "estimator of KL that is taken from rewards; none = only the loss's"
  )
  tokenwise: bool = field(
    False, "what is taken counts from its token on, not for the completion"
  )
  whiten: bool = field(False, "advantages of mean 0, variance 1 over the batch")

  def __post_init__(self) -> None:
    if self.completions < 2 and self.against != "nothing":
      raise ValueError(
        f"--objective.completions={self.completions}: a score has no others to"
        f" be compared with; 2 or more, or --objective.against=nothing"
      )

  @property
  def needs_reference(self) -> bool:
    return self.kl > 0 or self.penalty != "none"

  def credit(self, batch: Batch) -> Batch:
    """Advantages of every token."""
    mask_BT, score_B = batch["mask_BT"], batch["score_B"]
    taken_BT = jnp.zeros_like(batch["old_logp_BT"])
    if self.penalty != "none":
      taken_BT = penalised(batch, self.penalty)
    reward_B = score_B + taken_BT.sum(-1)
    if not self.tokenwise:
      score_B = reward_B
    if self.against == "group":
      score_B = returns.over_group(score_B, self.completions, scale=self.scale)
    elif self.against == "others":
      score_B = returns.leave_one_out(score_B, self.completions)
    advantage_BT = jnp.broadcast_to(score_B[:, None], mask_BT.shape)
    if self.tokenwise:
      advantage_BT += jnp.cumsum(taken_BT[:, ::-1], -1)[:, ::-1]
    if self.whiten:
      advantage_BT = returns.whiten(advantage_BT, mask_BT)
    return {
      **batch,
      "advantage_BT": jnp.where(mask_BT, advantage_BT, 0),
      "non_score_reward_B": taken_BT.sum(-1),
      "rlhf_reward_B": reward_B,
    }


def grpo(completions: int = 8) -> Group:
  """Group relative policy optimisation. arXiv:2402.03300, eq. 3 and 4."""
  return Group(completions=completions, mean="sequence", kl=0.04)


def dr_grpo(completions: int = 8) -> Group:
  """GRPO without its two biases. arXiv:2503.20783, section 3.2."""
  return Group(completions=completions, mean="constant", scale=False)


def dapo(completions: int = 16) -> Group:
  """Each token counts the same, and may rise further. arXiv:2503.14476, eq. 8.

  Its dynamic sampling is `--rollouts.drawings` (10, say), its penalty for long
  completions `--shaping.overlong` (a fifth of the limit, say, with
  `--shaping.missing_eos=keep`).
  """
  return Group(completions=completions, clip_high=0.28)


def gspo(completions: int = 8) -> Group:
  """One ratio a completion. arXiv:2507.18071, eq. 5; clips of section 5.1."""
  return Group(
    completions=completions,
    mean="sequence",
    ratio="sequence",
    clip=3e-4,
    clip_high=4e-4,
  )


def rloo(completions: int = 4) -> Group:
  """REINFORCE, leave one out. arXiv:2402.14740, eq. 8.

  The KL is taken from the score of a completion as a whole.
  """
  return Group(
    completions=completions,
    against="others",
    penalty="k1",
    mean="constant",
  )


def reinforce_pp() -> Group:
  """REINFORCE++: the batch is the baseline. arXiv:2501.03262, section 3."""
  return Group(
    completions=1,
    against="nothing",
    penalty="k1",
    tokenwise=True,
    whiten=True,
  )
