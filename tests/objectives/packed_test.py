"""Packed rows say what rows of one completion each say, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.evaluation import objective as by_objective
from llm_jax.evaluation import pairs
from llm_jax.objectives import dpo, separate, unreferenced
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.ranking import Ranking
from llm_jax.objectives.transport import AOT
from llm_jax.ops import slots
from tests import small
from tests.objectives import table

# Units in each packed row; of any G, so many rows that few shapes are compiled.
PLANS = {
  1: [[5, 0], [3], [1, 4, 6], [2, 7], [8], [9, 11], [10], [12]],
  2: [[5, 0], [3], [1, 4, 6], [2, 7]],
  4: [[3, 0], [1, 4, 2]],
}
ROWS, SLOTS, T, V = 8, 3, 24, 5
OBJECTIVES = [
  dpo.DPO(beta=0.7, logp="mean", divergence="js"),
  dpo.IPO(),
  separate.APO(),
  separate.BCO(beta=0.7),
  AOT(beta=0.7, pairing="unpaired"),
  unreferenced.SimPO(),
  unreferenced.ORPO(),
  unreferenced.Sum((AOT(), unreferenced.CPO(), dpo.DPO()), (0.5, 1.0, 2.0)),
  Ranking(center=0.1),
  Ranking(completions=4, center=0.1),
  Classification(weights=(1.0, 2.0)),
]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


@functools.cache
def alone(G=2, vocabulary=V):
  """Rows of one completion each; those added behind them are none."""
  r = np.random.default_rng(0)
  units = sum(map(len, PLANS[G]))
  B = units * G
  size_B = r.integers(2, 8, B)  # three of them at most are a row of T
  begin_B = r.integers(1, size_B)
  if G > 2:  # the last row of a unit of four is none
    size_B[G - 1 :: G] = begin_B[G - 1 :: G] = 0
  at_T, there = np.arange(T), np.arange(T) < size_B[:, None]
  rank_B = np.tile([0, 1, 1, -1][:G] if G > 2 else np.arange(G), units)
  ids = r.integers(0, vocabulary, (B, T + 1)).astype(np.int32)
  batch = {
    "tokens_BT": ids[:, :-1] * there,
    "target_BT": ids[:, 1:] * there,
    "mask_BT": there & (at_T >= begin_B[:, None]),
    "prompt_BT": at_T < begin_B[:, None],
    "margin_B": np.repeat(r.random(units), G),
    "class_B": r.integers(0, 2, B).astype(np.int32),
    "rank_B": rank_B.astype(np.int32),
    "row_B": np.arange(B),
  }
  return padded(batch, ROWS * SLOTS)


def padded(batch, rows):
  """With rows that are none."""
  more = rows - len(batch["mask_BT"])
  pad = lambda x: np.pad(x, [(0, more), *[(0, 0)] * (x.ndim - 1)])
  return {name: pad(x) for name, x in batch.items()}


def together(batch, G):
  """The same in packed rows, one behind another."""
  out = {
    k: np.zeros((ROWS, T if k.endswith("_BT") else SLOTS), x.dtype)
    for k, x in batch.items()
  }
  out = {k if k.endswith("_BT") else f"{k}S": x for k, x in out.items()}
  for k in ("segment_BT", "position_BT"):
    out[k] = np.zeros((ROWS, T), np.int32)
  for row in range(ROWS):
    units, at = PLANS[G][row // G], 0
    for s in range(SLOTS):
      b = (units[s] if s < len(units) else units[0]) * G + row % G
      for k in (k for k in batch if k.endswith("_B")):
        out[f"{k}S"][row, s] = batch[k][b]
      if s >= len(units):
        continue
      n = int((batch["mask_BT"] | batch["prompt_BT"])[b].sum())
      for k in (k for k in batch if k.endswith("_BT")):
        out[k][row, at : at + n] = batch[k][b, :n]
      out["segment_BT"][row, at : at + n] = s + 1
      out["position_BT"][row, at : at + n] = np.arange(n)
      at += n
  return out


def scores(variables, batch, *, key=None, outputs=1):
  """As `table.scores`, of positions within a document."""
  tokens_BT = batch["tokens_BT"]
  position_BT = batch.get("position_BT", jnp.arange(tokens_BT.shape[1])[None])
  logits_BTV = variables["w"][tokens_BT] + variables["p"][position_BT]
  logp_BTV = jax.nn.log_softmax(logits_BTV)
  at_BT1 = batch["target_BT"][..., None]
  logp_BT = jnp.take_along_axis(logp_BTV, at_BT1, -1)[..., 0]
  output_BTO = logits_BTV[..., :outputs]
  return Scores(logp_BT, logp_BT, output_BTO=output_BTO)


def roles():
  r = np.random.default_rng(1)
  drawn = lambda *shape: jnp.asarray(r.normal(size=shape))
  return {
    name: {"w": drawn(V, V), "p": drawn(T, V)}
    for name in ("policy", "reference")
  }


FORWARD = dict.fromkeys(("policy", "reference"), scores)


def run(objective, batch, laid_out=Packed):
  """(loss, gradient, metrics) of a batch."""
  outputs = 2 if isinstance(objective, Classification) else 1
  score = functools.partial(scores, outputs=outputs)
  return table.step(laid_out(objective), roles(), batch, score=score)


@functools.cache
def of_alone(objective):
  return run(objective, alone(objective.rows_together), lambda same: same)


def close(got, want):
  assert got[2].keys() == want[2].keys()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_packed_is_alone(objective):
  G = objective.rows_together
  got = run(objective, together(alone(G), G))
  close(got, of_alone(objective))


def test_mutants_are_caught():
  """A neighbour's tokens in the sum; another's column; a unit that is none."""

  def neighbour(batch):
    segment = batch["segment_BT"]
    return batch | {"segment_BT": np.where(segment == 2, 1, segment)}

  def turned(batch):
    return batch | {"margin_BS": batch["margin_BS"][:, ::-1]}

  def counted(batch):
    mask = batch["mask_BT"].copy()
    mask[batch["segment_BT"] == 0] = True
    return batch | {
      "mask_BT": mask,
      "segment_BT": np.where(batch["segment_BT"] == 0, 3, batch["segment_BT"]),
    }

  batch = together(alone(), 2)
  for objective, change in (
    (dpo.IPO(), neighbour),
    (Ranking(center=0.1), turned),
    (dpo.IPO(), counted),
  ):
    wrong = run(objective, change(batch))
    assert abs(wrong[0] - of_alone(objective)[0]) > 1e-4


@pytest.mark.parametrize("G", [1, 2, 4])
def test_rewards_are_of_the_same_completions(G):
  """Of rows of any kind, whatever the objective was trained on."""
  of = lambda objective, batch: by_objective.completions(
    objective, FORWARD, roles(), {k: jnp.asarray(x) for k, x in batch.items()}
  )
  batch, objective = alone(G), Ranking(completions=2)
  want = by_objective.gather([of(objective, batch)], G)
  packed = of(Packed(objective), together(batch, G))
  got = by_objective.gather([packed], G)
  order = [u for us in PLANS[G] for u in us + [-1] * (SLOTS - len(us))]
  assert len(order) == len(got.reward_GK)
  for u, reward, length, rank in zip(order, *got, strict=True):
    if u < 0:
      assert (rank == -1).all() and not length.any()
      continue
    there = want.rank_GK[u] >= 0
    np.testing.assert_allclose(reward[there], want.reward_GK[u][there])
    np.testing.assert_array_equal(length, want.length_GK[u])
    np.testing.assert_array_equal(rank, want.rank_GK[u])


def test_a_split_in_parts_is_as_one_batch():
  """What looks at the whole batch, held out: shift, ranks, tokens."""
  objective, batch = separate.BCO(beta=0.7), together(alone(), 2)
  parts = [{name: x[at : at + 4] for name, x in batch.items()} for at in (0, 4)]
  tell = by_objective.Teller(Packed(objective), FORWARD, lambda batch: batch)
  told, kept = tell(roles(), parts, rewards=True)
  loss, _, metrics = of_alone(objective)
  np.testing.assert_allclose(told.pop("loss"), loss, rtol=1e-12)
  for name, want in metrics.items():
    np.testing.assert_allclose(told[name], want, rtol=1e-11, err_msg=name)
  found = pairs.measure(by_objective.gather(kept, 2))
  np.testing.assert_allclose(found["margin"], metrics["margin"], rtol=1e-11)
  # Mutant: each part by itself.
  each = [tell(roles(), [part])[0]["loss"] for part in parts]
  share = [sum(map(len, PLANS[2][at : at + 2])) for at in (0, 2)]
  assert abs(np.average(each, weights=share) - loss) > 1e-4


def test_a_batch_of_one_document_a_row_is_as_it_was():
  batch = alone()
  got, want = run(dpo.IPO(), batch), of_alone(dpo.IPO())
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


def test_what_asks_about_some_rows_alone_is_refused():
  batch = together(alone(), 2) | {"label_BS": np.ones((ROWS, SLOTS))}
  batch = {name: jnp.asarray(x) for name, x in batch.items()}
  with pytest.raises(ValueError, match="packed rows some cannot be asked"):
    Packed(KTO()).annotate(FORWARD, roles(), batch)


@pytest.mark.parametrize("G", [1, 2, 4])
def test_laying_out_is_undone(G):
  batch = together(alone(G), G)
  x = np.arange(batch["row_BS"].size).reshape(batch["row_BS"].shape)
  flat = slots.flat(jnp.asarray(x), G)
  np.testing.assert_array_equal(slots.rowwise(flat, G, x.shape[1]), x)
  rows = slots.flat(jnp.asarray(batch["row_BS"]), G).reshape(-1, G)
  assert (rows[:, :1] // G == rows // G).all()  # a unit beside each other
  length = slots.lengths({k: jnp.asarray(v) for k, v in batch.items()})
  np.testing.assert_array_equal(
    length.sum(1), batch["mask_BT"].sum(1, dtype=int)
  )


def test_what_belongs_together_stays_on_its_device():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  x = jax.device_put(jnp.zeros((32, 3, 2)), rows)
  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  text = lambda f: jax.jit(f, out_shardings=rows).lower(x).compile().as_text()
  ours = text(lambda x: slots.flat(x, 2))
  mutant = text(lambda x: x.swapaxes(0, 1).reshape(-1, 2))  # slot after slot
  assert not any(m in ours for m in moves)
  assert any(m in mutant for m in moves)


class Decoder:
  """A decoder that is not shown all of a batch."""

  def __init__(self, *hidden):
    shape = dataclasses.replace(small.SHAPES["gpt2"], num_layers=1)
    model, policy = small.build(shape)
    self._score, self._hidden = small.score_fn(model), hidden
    self.roles = {"policy": policy}

  def __call__(self, variables, batch, **how):
    shown = {k: x for k, x in batch.items() if k not in self._hidden}
    return self._score(variables, shown, **how)


def test_a_decoder_learns_the_same():
  """Attention stays inside; microbatches and devices change nothing."""
  objective = separate.BCO(reference_free=True)
  batch, decoder = alone(2, small.DIMS.V), Decoder()
  want = table.step(objective, decoder.roles, batch, score=decoder)
  packed = together(batch, 2)
  axis_types = (jax.sharding.AxisType.Auto,) * 3
  names = ("data", "fsdp", "tensor")
  mesh = jax.make_mesh((2, 1, 1), names, axis_types=axis_types)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  ours = Packed(objective)
  with jax.set_mesh(mesh):
    placed = jax.device_put(packed, rows)
    close(table.step(ours, decoder.roles, placed, 2, score=decoder), want)
  # Mutants: what stands before is seen; places are those of the row.
  said = lambda *hidden: ours.rewards(
    dict.fromkeys(FORWARD, Decoder(*hidden)), decoder.roles, packed
  )
  hidden = ((), ("segment_BT",), ("position_BT",))
  right, *wrong = jax.jit(lambda: [said(*names) for names in hidden])()
  for mutant in wrong:
    assert np.abs(mutant - right).max() > 1e-3
