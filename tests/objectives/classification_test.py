"""A classifier's loss is torch's cross-entropy, where the completion ends."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import classification
from llm_jax.objectives.classification import Classification
from llm_jax.sharding import mesh as mesh_lib
from tests.objectives import table

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "classification.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))
LOGITS, LABEL = np.array(GOLD["logits"]), np.array(GOLD["label"], np.int32)
LENGTHS = [2, 3, 1, 4, 3, 2, 1, 4]
WEIGHTS = (1.0, 0.0, 2.5)
CASES = {
  "plain": Classification(),
  "weights": Classification(weights=WEIGHTS),
  "smoothing": Classification(smoothing=0.2),
  "smoothing_all": Classification(smoothing=1.0),
}


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def batch(lengths=LENGTHS, label=LABEL, T=5):
  return table.rows_of(lengths, T) | {"class_B": label}


def said(logits_BO, batch, *, key=None):
  """A classifier whose logits stand where the last token is predicted."""
  mask_BT = batch["mask_BT"]
  T, O = mask_BT.shape[1], logits_BO.shape[1]
  at_BT = jnp.arange(T) == mask_BT.sum(1)[:, None] - 1
  noise_TO = 9.0 + jnp.arange(T * O).reshape(T, O) % 7
  here_B1O = logits_BO[batch["row_B"]][:, None]
  output_BTO = jnp.where(at_BT[..., None], here_B1O, noise_TO)
  return Scores(0.0 * mask_BT, 0.0 * mask_BT, output_BTO=output_BTO)


def run(objective, logits=LOGITS, b=None, cuts=1):
  roles = {"policy": jnp.asarray(logits)}
  return table.step(objective, roles, b or batch(), cuts, score=said)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_torchs(name):
  loss, gradient, metrics = run(CASES[name])
  np.testing.assert_allclose(loss, GOLD["loss"][name], rtol=1e-12)
  want = np.array(GOLD["gradient"][name])
  np.testing.assert_allclose(gradient, want, rtol=1e-10, atol=1e-14)
  right = LOGITS.argmax(1) == LABEL
  assert metrics["accuracy"] == right.mean()
  assert metrics["tokens"] == sum(LENGTHS)
  others = [x for n, x in GOLD["loss"].items() if n != name]
  assert min(abs(loss - x) for x in others) > 1e-3


def test_weights_and_smoothing_together_are_their_formula():
  """Torch weighs the smoothed part by each class, here by the example's."""
  e, value, weight = 0.2, 0.0, 0.0
  for z, y in zip(LOGITS, LABEL, strict=True):
    nll = np.logaddexp.reduce(z) - z
    value += WEIGHTS[y] * ((1 - e) * nll[y] + e * nll.mean())
    weight += WEIGHTS[y]
  loss, *_ = run(Classification(weights=WEIGHTS, smoothing=e))
  np.testing.assert_allclose(loss, value / weight, rtol=1e-12)


@pytest.mark.parametrize(
  "kind,want",
  [
    ("logit", lambda z: z[1]),
    ("log_probability", lambda z: z[1] - np.logaddexp.reduce(z)),
    ("log_odds", lambda z: z[1] - np.logaddexp(z[0], z[2])),
  ],
)
def test_rewards_are_the_positive_classs(kind, want):
  objective = Classification(reward=kind)
  forward, roles = {"policy": said}, {"policy": jnp.asarray(LOGITS)}
  got = objective.rewards(forward, roles, batch())
  np.testing.assert_allclose(got, [want(z) for z in LOGITS], rtol=1e-12)
  assert run(objective)[2]["reward"] == pytest.approx(np.mean(got))
  logp_BO = objective.logp(forward, roles, batch())
  np.testing.assert_allclose(jnp.exp(logp_BO).sum(1), 1)
  # Mutant: another class's.
  other = dataclasses.replace(objective, positive=0)
  assert abs(other.rewards(forward, roles, batch()) - got).min() > 1e-3


def test_two_classes_are_logistic_regression():
  """The log-odds of the positive one, in any of the two orders."""
  z, y = LOGITS[1:, :2], np.minimum(LABEL[1:], 1)
  d = np.where(y == 1, z[:, 1] - z[:, 0], z[:, 0] - z[:, 1])
  b = batch(LENGTHS[1:], y)
  loss, *_ = run(Classification(), z, b)
  np.testing.assert_allclose(loss, np.log1p(np.exp(-d)).mean(), rtol=1e-12)
  rewards = [
    Classification(reward="log_odds", positive=p).rewards(
      {"policy": said}, {"policy": jnp.asarray(z)}, b
    )
    for p in (0, 1)
  ]
  np.testing.assert_allclose(rewards[0], -rewards[1], rtol=1e-12)


def test_microbatches_add():
  b = batch([*LENGTHS[:5], 0, *LENGTHS[6:]])
  objective = Classification(weights=(1.0, 0.5, 2.5), smoothing=0.1)
  one, cut = run(objective, b=b), run(objective, b=b, cuts=2)
  for got, want in zip(jax.tree.leaves(cut), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
  # Mutant: the mean of the parts' means.
  parts = [{k: x[i::2] for k, x in b.items()} for i in range(2)]
  means = [run(objective, b=part)[0] for part in parts]
  assert abs(np.mean(means) - one[0]) > 1e-3


def test_padding_does_not_matter():
  """Neither what stands after a completion, nor rows that hold none."""
  loss, gradient, metrics = run(Classification(weights=WEIGHTS))
  more = batch([*LENGTHS, 0, 0], np.append(LABEL, [2, 0]).astype(np.int32), 9)
  padded = np.concatenate([LOGITS, 5 * np.ones((2, 3))])
  other = run(Classification(weights=WEIGHTS), padded, more)
  np.testing.assert_allclose(other[0], loss, rtol=1e-12)
  np.testing.assert_allclose(other[1][:-2], gradient, rtol=1e-12, atol=1e-15)
  assert not other[1][-2:].any() and other[2] == pytest.approx(metrics)
  none = batch([0] * 8)
  loss, gradient, _ = run(Classification(), b=none)
  assert loss == 0 and not gradient.any()


def test_mutant_the_last_position_of_the_row_is_caught(monkeypatch):
  monkeypatch.setattr(
    classification, "output", lambda scores, batch: scores.output_BTO[:, -1]
  )
  with pytest.raises(AssertionError):
    test_loss_and_gradient_are_torchs("plain")


def test_eight_devices_are_one():
  mesh = mesh_lib.make(mesh_lib.MeshShape(data=8))
  one = run(Classification(weights=WEIGHTS))
  with jax.set_mesh(mesh):
    cut = mesh_lib.place(batch(), mesh)
    assert len({str(s.index) for s in cut["mask_BT"].addressable_shards}) == 8
    eight = run(Classification(weights=WEIGHTS), b=cut)
  for got, want in zip(
    jax.tree.leaves(eight), jax.tree.leaves(one), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
  assert abs(run(_EachDevice(weights=WEIGHTS))[0] - one[0]) > 1e-3


class _EachDevice(Classification):
  """The mutant: each device weighs its own row."""

  def weigh(self, batch):
    parts = [
      super(_EachDevice, self).weigh(
        {k: x[i : i + 2] for k, x in batch.items()}
      )
      for i in range(0, 8, 2)
    ]
    whole = jnp.concatenate([part["weight_B"] for part in parts])
    return {**batch, "weight_B": whole / len(parts)}


def test_extremes_and_what_cannot_be():
  for kind in ("logit", "log_probability", "log_odds"):
    for logits in (1e4 * LOGITS, np.zeros((8, 3)), np.full((8, 3), -1e30)):
      objective = Classification(reward=kind, smoothing=0.1)
      with jax.enable_x64(False):
        loss, gradient, metrics = run(objective, logits.astype(np.float32))
      assert np.isfinite([loss, *metrics.values()]).all()
      assert np.isfinite(gradient).all()
  with pytest.raises(ValueError, match="--objective.weights=1.0,-1.0: must be"):
    Classification(weights=(1.0, -1.0))
  with pytest.raises(ValueError, match="--objective.weights=0.0,0.0: must be"):
    Classification(weights=(0.0, 0.0))
