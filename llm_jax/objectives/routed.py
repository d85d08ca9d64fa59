"""What training a mixture of experts adds to any objective.

Dimension key: B sequences; T positions; L layers.
"""

import dataclasses
from typing import Any

import jax

from llm_jax.contracts import Batch, Forward, Metrics, Roles, Score, Scores
from llm_jax.objectives.around import Around
from llm_jax.ops import weights
from llm_jax.ops.metrics import Largest, Mean
from llm_jax.ops.routing import real_tokens, Routing

_ROLES = ("policy", "value")  # that train
_TOKENS = "tokens_BT"


@dataclasses.dataclass(frozen=True)
class Routed(Around):
  """The objective, and what keeps the use of experts even.

    loss = the objective's
           + sum_l mean_b (balance * balance_lb + z_loss * z_lb)

  over layers and rows, see `ops/routing.tell`; as Switch does, each layer adds
  its own (arXiv:2101.03961, section 2.2). It counts whatever forward of a model
  that trains the objective asks for, and none that only annotates: the mean is
  over the rows that `loss` asks about. Rows that are padding throughout do not
  count.
  """

  balance: float
  z_loss: float

  def weigh(self, batch: Batch) -> Batch:
    out = dict(self.objective.weigh(batch))
    for name in [n for n in batch if n.endswith(_TOKENS)]:  # and others beside
      begin = name.removesuffix(_TOKENS)
      its = {
        n.removeprefix(begin): x
        for n, x in batch.items()
        if n.startswith(begin)
      }
      real_BT = real_tokens(its)
      if not begin and (moved_B := self.moved_by(batch)) is not None:
        real_BT &= moved_B[:, None]
      out[f"{begin}routed_BT"] = weights.sequence_mean(real_BT)
    return out

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    heard: list[tuple[str, jax.Array, Routing]] = []

    def listening(role: str, score: Score) -> Any:
      def scores(variables: Any, rows: Batch, **how: Any) -> Scores:
        found = score(variables, rows, **how)
        assert found.routing is not None
        heard.append((role, rows["routed_BT"], found.routing))
        return found._replace(routing=None)

      return scores

    listened = {
      role: listening(role, score) if role in _ROLES else score
      for role, score in forward.items()
    }
    loss, metrics = self.objective.loss(listened, roles, batch, key)
    for role, weight_BT, routing in heard:
      weight_B = weight_BT.sum(1)
      term_LB = self.balance * routing.balance_LB + self.z_loss * routing.z_LB
      loss += (weight_B * term_LB.sum(0)).sum()
      begin = "" if role == "policy" else f"{role}_"
      for name, mean in _told(routing, weight_BT > 0, weight_B).items():
        name = f"{begin}{name}"
        old = metrics.get(name)
        metrics = {**metrics, name: mean if old is None else old + mean}
    return loss, metrics


def _told(
  routing: Routing, real_BT: jax.Array, weight_B: jax.Array
) -> dict[str, Mean]:
  of_rows = lambda x_LB: Mean.of(x_LB.mean(0), weight_B)
  load_LM = routing.load_LBM.sum(1)
  return {
    "balance": of_rows(routing.balance_LB),
    "router_z": of_rows(routing.z_LB),
    "router_entropy": of_rows(routing.entropy_LB),
    # The share of tokens that go to the busiest expert, mean over layers.
    "busiest_expert": Largest(load_LM, real_BT.sum().astype(load_LM.dtype)),
  }
