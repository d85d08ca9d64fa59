"""What an objective says of a split is what it says of one batch."""

import jax
import numpy as np
import pytest

from llm_jax.evaluation.objective import Teller
from llm_jax.objectives import dpo, separate, transport, unreferenced
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.ranking import Ranking
from tests.objectives import table

ROWS, PART, T, V = 24, 8, 6, 5
FORWARD = dict.fromkeys(("policy", "reference"), table.scores)
OBJECTIVES = [
  dpo.DPO(beta=0.3),
  unreferenced.SFT(),
  unreferenced.CPO(),
  unreferenced.ORPO(),
  unreferenced.Sum(),
  separate.BCO(),
  transport.AOT(),
  KTO(desirable=0.0, undesirable=2.0),
  Ranking(completions=4, center=0.1),
]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def drawn():
  """Roles, and a batch whose parts differ in how much there is in them."""
  r = np.random.default_rng(0)
  table_of = lambda: {"w": r.normal(size=(V, V)), "p": r.normal(size=(T, V))}
  ids = r.integers(0, V, (ROWS, T + 1)).astype(np.int32)
  size_B = np.where(np.arange(ROWS) < PART, 1, r.integers(1, T, ROWS))
  mask_BT = np.arange(T) > T - 1 - size_B[:, None]
  mask_BT[-4:] = False  # a split's last batch is not full
  rank_B = r.integers(0, 3, ROWS).astype(np.int32)
  rank_B[:4] = 0  # ties only
  return {"policy": table_of(), "reference": table_of()}, {
    "tokens_BT": ids[:, :-1],
    "target_BT": ids[:, 1:],
    "mask_BT": mask_BT,
    "prompt_BT": ~mask_BT & (r.random((ROWS, T)) < 0.5),
    # All completions of the first part are liked.
    "label_B": np.repeat(
      (np.arange(ROWS // 2) % 2 == 0) | (np.arange(ROWS // 2) < PART // 2), 2
    ).astype(np.float32),
    "margin_B": r.random(ROWS),
    "rank_B": rank_B,
  }


def teller(objective):
  return Teller(objective, FORWARD, lambda batch: batch)


@pytest.mark.parametrize(
  "objective", OBJECTIVES, ids=lambda o: type(o).__name__
)
def test_parts_are_as_one_batch(objective):
  roles, batch = drawn()
  parts = [
    {name: x[at : at + PART] for name, x in batch.items()}
    for at in range(0, ROWS, PART)
  ]
  value, _, metrics = table.step(objective, roles, batch)
  tell = teller(objective)
  got, _ = tell(roles, parts)
  np.testing.assert_allclose(got["loss"], value, rtol=1e-12)
  assert got.keys() - {"loss"} == metrics.keys()
  for name, want in metrics.items():
    np.testing.assert_allclose(got[name], want, rtol=1e-12, err_msg=name)
  # Mutant: each part weighed by itself, and as much as it has examples.
  each = [tell(roles, [part])[0]["loss"] for part in parts]
  share = [part["mask_BT"].any(-1).sum() for part in parts]
  wrong = np.average(each, weights=share)
  same = isinstance(objective, dpo.DPO)  # a mean over pairs and no more
  assert (abs(wrong - value) < 1e-12) == same


@pytest.mark.parametrize("objective", [dpo.DPO(), KTO()], ids=["dpo", "kto"])
def test_parts_may_be_of_several_widths(objective):
  roles, batch = drawn()
  batch["mask_BT"][:, -2:] = False
  batch["mask_BT"][:, 0] = True
  parts = [
    {name: x[at : at + PART] for name, x in batch.items()}
    for at in range(0, ROWS, PART)
  ]
  cut = {
    name: x[:, :-2] if name.endswith("_BT") else x
    for name, x in parts[1].items()
  }
  tell = teller(objective)
  want, rows = tell(roles, parts, True)
  got, others = tell(roles, [parts[0], cut, parts[2]], True)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-12, err_msg=name)
  jax.tree.map(np.testing.assert_allclose, others, rows)
  # Mutant: what is cut away counted.
  batch["mask_BT"][PART : 2 * PART, -2:] = True
  wrong, _ = tell(roles, parts)
  assert abs(wrong["loss"] - got["loss"]) > 1e-6


def test_a_split_without_any_example_is_refused():
  roles, batch = drawn()
  batch["mask_BT"][:] = False
  with pytest.raises(ValueError, match="no example to evaluate on"):
    teller(dpo.DPO())(roles, [batch])
