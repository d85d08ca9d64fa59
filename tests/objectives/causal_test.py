"""The causal loss is its equation, in float64, and sees only what it may."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives.causal import Causal
from tests import small

B, T, V = 4, 5, 7


def scores(logits_BTV, batch, *, key=None):
  logz_BT = jax.nn.logsumexp(logits_BTV, -1)
  target_BT1 = batch["target_BT"][..., None]
  picked_BT = jnp.take_along_axis(logits_BTV, target_BT1, -1)[..., 0]
  return Scores(picked_BT - logz_BT, logz_BT)


def example(seed=0):
  r = np.random.default_rng(seed)
  mask = r.random((B, T)) < 0.6
  mask[1] = False  # a row that has nothing to say
  mask[2] = [True, False, False, False, False]
  batch = {"target_BT": r.integers(0, V, (B, T)), "mask_BT": mask}
  return 2 * r.normal(size=(B, T, V)), batch


def ours(objective, logits_BTV, batch):
  """(loss, gradient, metrics), the loss differentiated by the logits."""
  with jax.enable_x64(True):

    def loss(logits_BTV):
      weighed = objective.weigh(objective.annotate({}, {}, batch))
      return objective.loss(
        {"policy": scores}, {"policy": logits_BTV}, weighed, jax.random.key(0)
      )

    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(
      jnp.asarray(logits_BTV)
    )
    numbers = {k: m.compute() for k, m in metrics.items()}
    return float(value), np.asarray(grad), numbers


def naive(logits_BTV, batch, average="token", z_loss=0.0, mutant=""):
  """(loss, gradient), one target at a time."""
  total, grad = 0.0, np.zeros_like(logits_BTV)
  mask = batch["mask_BT"]
  if mutant == "the mask ignored":
    mask = np.ones_like(mask)
  rows = sum(row.any() for row in mask)
  if mutant == "empty rows counted":
    rows = B
  for b in range(B):
    for t in range(T):
      if not mask[b, t]:
        continue
      w = 1 / mask.sum()
      if average == "sequence":
        w = 1 / mask[b].sum() / rows
      l, y = logits_BTV[b, t], batch["target_BT"][b, t]
      z = np.log(np.exp(l).sum())
      p = np.exp(l - z)
      onehot = np.arange(V) == y
      if mutant == "z not squared":
        total += w * (z - l[y] + z_loss * z)
        grad[b, t] = w * (p - onehot + z_loss * p)
      else:
        total += w * (z - l[y] + z_loss * z**2)
        grad[b, t] = w * (p - onehot + 2 * z_loss * z * p)
  return total, grad


@pytest.mark.parametrize("average", ["token", "sequence"])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_loss_and_gradient_are_the_equation(average, z_loss):
  logits, batch = example()
  value, grad, metrics = ours(Causal(average, z_loss), logits, batch)
  want, want_grad = naive(logits, batch, average, z_loss)
  np.testing.assert_allclose(value, want, rtol=1e-12)
  np.testing.assert_allclose(grad, want_grad, atol=1e-14)
  # What is reported is the plain mean over tokens, whatever is minimised.
  np.testing.assert_allclose(metrics["nll"], naive(logits, batch)[0], 1e-12)
  assert metrics["tokens"] == batch["mask_BT"].sum()


@pytest.mark.parametrize(
  ("mutant", "settings"),
  [
    ("the mask ignored", ("token", 0.0)),
    ("empty rows counted", ("sequence", 0.0)),
    ("z not squared", ("token", 0.3)),
  ],
)
def test_another_equation_is_caught(mutant, settings):
  logits, batch = example()
  right, _ = naive(logits, batch, *settings)
  wrong, _ = naive(logits, batch, *settings, mutant=mutant)
  assert abs(right - wrong) > 1e-2


def test_token_and_sequence_differ_and_weights_sum_to_one():
  logits, batch = example()
  assert (
    abs(
      ours(Causal("token"), logits, batch)[0]
      - ours(Causal("sequence"), logits, batch)[0]
    )
    > 1e-2
  )
  for average in ("token", "sequence"):
    weight_BT = Causal(average).weigh(batch)["weight_BT"]
    np.testing.assert_allclose(weight_BT.sum(), 1, rtol=1e-6)
    assert not weight_BT[~batch["mask_BT"]].any()


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_a_batch_without_targets_moves_nothing(average):
  logits, batch = example()
  batch["mask_BT"][:] = False
  value, grad, metrics = ours(Causal(average, z_loss=0.3), logits, batch)
  assert value == 0 and not grad.any()
  assert metrics == {"nll": 0, "tokens": 0}


def rows(*documents_of_row):
  """[3, 12] rows of documents; the last token of each has no target."""
  batch = {
    name: np.zeros((3, 12), np.int32)
    for name in ("tokens_BT", "target_BT", "segment_BT", "position_BT")
  } | {"mask_BT": np.zeros((3, 12), bool)}
  for b, documents in enumerate(documents_of_row):
    at = 0
    for i, d in enumerate(documents):
      to = at + len(d)
      batch["tokens_BT"][b, at:to] = d
      batch["target_BT"][b, at : to - 1] = d[1:]
      batch["mask_BT"][b, at : to - 1] = True
      batch["segment_BT"][b, at:to] = i + 1
      batch["position_BT"][b, at:to] = np.arange(len(d))
      at = to
  return batch


def test_nothing_is_trained_across_documents():
  """Documents in one row are as good as alone, and mutants are caught."""
  r = np.random.default_rng(0)
  x, y, z = (r.integers(0, small.DIMS.V, n) for n in (4, 5, 3))
  row = rows([x, y, z])
  target_BT = np.roll(row["tokens_BT"], -1, axis=1)
  across = row["segment_BT"] > 0
  with jax.enable_x64(True):
    model, variables = small.build(
      dataclasses.replace(small.CONFIG, num_layers=1)
    )
    forward = {"policy": small.score_fn(model)}

    @jax.jit
    def loss_and_grads(variables, batch):
      loss = lambda v: Causal().loss(
        forward, {"policy": v}, Causal().weigh(batch), jax.random.key(0)
      )[0]
      return jax.value_and_grad(loss)(variables)

    want = loss_and_grads(variables, rows([x], [y], [z]))
    got = loss_and_grads(variables, row)
    chex.assert_trees_all_close(got, want, atol=1e-12)
    for mutant in (
      {"mask_BT": across, "target_BT": target_BT},
      {"segment_BT": np.ones_like(row["segment_BT"])},
    ):
      value, _ = loss_and_grads(variables, row | mutant)
      assert abs(value - want[0]) > 1e-3
