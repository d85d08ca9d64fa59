"""Rewards of rows are what the losses report of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evaluation import objective as by_objective
from llm_jax.evaluation import pairs
from llm_jax.objectives import dpo, separate, unreferenced
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.ranking import Ranking
from tests.objectives import table


def given(logp_B, batch, *, key=None):
  """As `table.given`, with an output at every position."""
  scores = table.given(logp_B, batch)
  mask_BT = batch["mask_BT"]
  output_BTO = jnp.broadcast_to(
    logp_B[batch["row_B"], None, None], (*mask_BT.shape, 1)
  )
  return scores._replace(output_BTO=output_BTO)


FORWARD = dict.fromkeys(("policy", "reference"), given)
LENGTHS = [2, 3, 1, 2, 3, 3, 2, 0]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def logps():
  r = np.random.default_rng(0)
  return {k: -np.abs(r.normal(size=8)) * 5 for k in ("policy", "reference")}


def tell(objective, roles, batch):
  teller = by_objective.Teller(objective, FORWARD, lambda batch: batch)
  return teller(roles, [batch])[0]


OBJECTIVES = [
  dpo.DPO(beta=0.3),
  dpo.IPO(),
  dpo.DPO(divergence="js"),
  separate.BCO(),
  unreferenced.SimPO(),
  unreferenced.Sum(),
  Ranking(),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_pairs_by_rewards_are_as_the_loss_reports_them(objective):
  batch, roles = table.rows_of(LENGTHS[:6]), logps()
  rows = by_objective.completions(objective, FORWARD, roles, batch)
  found = by_objective.gather([rows], 2)
  told = tell(objective, roles, batch)
  got = pairs.measure(found)
  for name in ("accuracy", "margin"):
    np.testing.assert_allclose(got[name], told[name], rtol=1e-9)
  # Mutant: rewards of rows, the second of a pair first.
  turned = found._replace(reward_GK=found.reward_GK[:, ::-1])
  assert abs(pairs.measure(turned)["margin"] - told["margin"]) > 1e-3


def test_kto_has_rewards_of_pairs_and_of_what_is_carried():
  batch, roles = table.rows_of(LENGTHS), logps()
  want = 0.3 * (roles["policy"] - roles["reference"])
  want[-1] = 0  # no completion
  got = KTO(beta=0.3).rewards(FORWARD, roles, batch)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  carried = {**batch, "ref_logp_B": np.append(roles["reference"][:-1], 0)}
  got = KTO(beta=0.3).rewards({"policy": given}, roles, carried)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  # Mutant: beta forgotten.
  assert abs(KTO(beta=1.0).rewards(FORWARD, roles, batch) - want).max() > 0.1


def test_rankings_and_rows_without_a_completion():
  rank_B = np.array([0, 1, 1, -1, 0, 2, 1, -1], np.int32)
  batch = {**table.rows_of([2, 3, 1, 0, 3, 3, 2, 0]), "rank_B": rank_B}
  objective = Ranking(completions=4)
  rows = by_objective.completions(objective, FORWARD, logps(), batch)
  found = by_objective.gather([rows], 4)
  assert found.rank_GK.tolist() == rank_B.reshape(2, 4).tolist()
  assert found.length_GK.tolist() == [[2, 3, 1, 0], [3, 3, 2, 0]]
  told = tell(objective, logps(), batch)
  got = pairs.measure(found)
  np.testing.assert_allclose(got["margin"], told["margin"])
  np.testing.assert_allclose(got["accuracy"], told["accuracy"])


def test_text_has_none():
  assert Causal().rewards(FORWARD, {}, {}) is None
  assert by_objective.completions(Causal(), FORWARD, {}, {}) is None
