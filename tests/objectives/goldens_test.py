"""Losses, gradients and metrics are TRL's; see goldens/make_pairwise.py.

Where TRL differs, it says so here.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import dpo, separate, unreferenced
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.ranking import Ranking
from llm_jax.objectives.transport import AOT
from tests.objectives import table

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "pairwise.npz"
GOLD = dict(np.load(PATH))
BETAS = (0.1, 0.7)

# TRL divides the summed log-ratio by the length for IPO, too.
MARGIN = {
  "sigmoid": dpo.DPO(),
  "sigmoid_norm": dpo.DPO(logp="mean"),
  "hinge": dpo.Hinge(),
  "ipo": dpo.IPO(),
  "exo_pair": dpo.EXO(smoothing=0.1),
  "robust": dpo.RobustDPO(noise=0.1),
  "discopop": dpo.DiscoPOP(),
}
DIVERGENCES = {"forward_kl": "forward_kl", "js_divergence": "js"}
OTHERS = {
  "nca_pair": separate.NCA(),
  "bco_pair": separate.BCO(shift="none"),  # TRL has no shift
  "sppo_hard": separate.SPPO(),
  "aot": AOT(smoothing=0.1),
  "aot_unpaired": AOT(pairing="unpaired", smoothing=0.1),
  "apo_zero": separate.APO(),
  "apo_down": separate.APO(anchor="down"),
  "cpo_sigmoid": unreferenced.CPO(nll=0.6, smoothing=0.1),
  "orpo": unreferenced.ORPO(),
}


def with_beta(objective, beta, **changes):
  return dataclasses.replace(objective, beta=beta, **changes)


def cases():
  for beta in BETAS:
    for name, objective in (MARGIN | OTHERS).items():
      yield f"{name}/{beta}", with_beta(objective, beta)
    for name, objective in MARGIN.items():
      for theirs, ours in DIVERGENCES.items():
        changed = with_beta(objective, beta, divergence=ours)
        yield f"{name}/{theirs}/{beta}", changed
    yield (
      f"cpo_simpo/{beta}",
      unreferenced.SimPO(beta=beta, gamma=0.4),
    )
    both = (with_beta(dpo.DPO(), beta), unreferenced.SFT())
    yield f"sigmoid+sft/{beta}", unreferenced.Sum(both, (0.8, 0.3))


CASES = dict(cases())


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


step = functools.partial(table.step, jit=False)


def roles(turned=False):
  names = ("policy", "reference")
  found = [{n: GOLD[f"{role}/{n}"] for n in ("w", "p")} for role in names]
  return dict(zip(names, found[::-1] if turned else found, strict=True))


def batch(prefix=""):
  ids, there, mine = (
    GOLD[f"{prefix}{n}_BS"] for n in ("ids", "there", "completion")
  )
  mask = mine[:, 1:] > 0
  return {
    "tokens_BT": ids[:, :-1],
    "target_BT": ids[:, 1:],
    "mask_BT": mask,
    "prompt_BT": (there[:, 1:] > 0) & ~mask,
  }


def worst(name, got):
  """Of loss and gradients, the largest error beside the largest number."""
  loss, gradient, _ = got
  found = {"loss": loss, "gradient/w": gradient["w"]}
  found["gradient/p"] = gradient["p"]
  errors = []
  for key, x in found.items():
    want = GOLD[f"{name}/{key}"]
    errors.append(np.abs(x - want).max() / np.abs(want).max())
  return max(errors)


def test_every_golden_is_read():
  mine = {k.rsplit("/", 1)[0] for k in GOLD if k.endswith("/loss")}
  assert {n for n in mine if not n.startswith(("kto", "reward"))} == set(CASES)
  lengths = batch()["mask_BT"].sum(1)
  assert len(set(lengths)) > 3 and min(lengths) == 1


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics(name):
  got = step(CASES[name], roles(), batch())
  assert worst(name, got) < 1e-10
  metrics = got[2]
  assert metrics["accuracy"] == GOLD[f"{name}/accuracy"]
  # TRL reports the log-ratio whatever the divergence and the normalisation.
  summed = not any(x in name for x in ("_kl", "js_", "norm", "ipo"))
  for key in ("reward_chosen", "reward_rejected", "margin"):
    if summed:
      want = GOLD[f"{name}/{key}"]
      np.testing.assert_allclose(metrics[key], want, rtol=1e-10)


MUTANTS = {
  "beta missing": ("sigmoid/0.7", dpo.DPO(beta=1.0)),
  "a mean for a sum": ("sigmoid/0.7", dpo.DPO(beta=0.7, logp="mean")),
  "a sum for a mean": ("ipo/0.7", dpo.IPO(beta=0.7, logp="sum")),
  "no smoothing": ("aot/0.1", AOT()),
  "not sorted": ("aot/0.1", dpo.DPO(smoothing=0.1)),
  "sorted otherwise": ("aot/0.1", AOT(pairing="unpaired", smoothing=0.1)),
  "no reference": ("hinge/0.1", dpo.Hinge(reference_free=True)),
  "the other anchor": ("apo_down/0.1", separate.APO()),
  "NLL of completions": ("orpo/0.1", unreferenced.ORPO(nll_of="completion")),
  "no NLL": ("cpo_sigmoid/0.1", unreferenced.CPO(nll=0.0, smoothing=0.1)),
  "gamma in other units": ("cpo_simpo/0.7", unreferenced.SimPO(0.7, 0.28)),
  "another divergence": ("sigmoid/forward_kl/0.1", dpo.DPO(divergence="js")),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_another_equation_is_caught(mutant):
  name, objective = MUTANTS[mutant]
  assert worst(name, step(objective, roles(), batch())) > 1e-3


def test_smoothing_that_trl_leaves_out():
  """Its sigmoid loss has none; here it is the mean of both directions."""
  loss, gradient, _ = step(dpo.DPO(smoothing=0.1), roles(), batch())
  right, up, _ = step(dpo.DPO(), roles(), batch())
  swapped = {
    k: x.reshape(4, 2, -1)[:, ::-1].reshape(8, -1) for k, x in batch().items()
  }
  wrong, down, _ = step(dpo.DPO(), roles(), swapped)
  np.testing.assert_allclose(loss, 0.9 * right + 0.1 * wrong, rtol=1e-12)
  both = jax.tree.map(lambda u, d: 0.9 * u + 0.1 * d, up, down)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), gradient, both
  )
  assert abs(loss - right) > 1e-3


def kto_batch(label_B):
  """Each completion beside the mismatched one of the same prompt."""
  own, other = batch("kto/"), batch("kto/kl_")
  out = {
    k: np.stack([own[k], other[k]], 1).reshape(-1, *own[k].shape[1:])
    for k in own
  }
  return out | {"label_B": np.repeat(label_B, 2)}


KTOS = [
  f"{turn}/{which}/{beta}"
  for turn in ("kto", "kto_turned")
  for which in ("mixed", "all_good", "all_bad")
  for beta in BETAS
]


@pytest.mark.parametrize("name", KTOS)
def test_kto(name):
  objective = KTO(beta=float(name.split("/")[-1]), undesirable=1.3)
  b = kto_batch(GOLD[f"{name}/label_B"])
  got = step(objective, roles("turned" in name), b)
  assert worst(name, got) < 1e-10
  baseline = GOLD[f"{name}/baseline"]
  np.testing.assert_allclose(got[2]["baseline"], baseline, atol=1e-12)
  assert (baseline == 0) == ("turned" in name)  # where it would be negative
  for key in ("reward_chosen", "reward_rejected"):
    if f"{name}/{key}" in GOLD:
      want = GOLD[f"{name}/{key}"]
      np.testing.assert_allclose(got[2][key], want, rtol=1e-10)


def test_mutants_of_kto_are_caught():
  name = "kto/mixed/0.7"
  b = kto_batch(GOLD[f"{name}/label_B"])
  right = KTO(0.7, undesirable=1.3)
  itself = {k: np.repeat(x[::2], 2, 0) for k, x in b.items()}
  wrong = {
    "labels swapped": (right, {"label_B": 1 - b["label_B"]}),
    "classes alike": (KTO(0.7), {}),
    "compared with itself": (right, itself),
  }
  for objective, change in wrong.values():
    assert worst(name, step(objective, roles(), b | change)) > 1e-3


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("center", [None, 0.05])
def test_bradley_terry(margin, center):
  name = f"reward/margin={margin}/center={center}"
  b = {"mask_BT": np.tile([True, True, False], (8, 1))}
  if margin:
    b["margin_B"] = np.repeat([0.5, 0.0, 1.5, 0.3], 2)
  objective = Ranking(center=center or 0.0)

  def loss(score_B, objective=objective, b=b):
    said_BTO = jnp.stack([7 * score_B, score_B, -score_B], 1)[..., None]
    forward = {"policy": lambda v, b, key: Scores(0, 0, None, None, said_BTO)}
    value, metrics = objective.loss(
      forward, {"policy": score_B}, objective.weigh(b), None
    )
    return value, metrics

  run = jax.value_and_grad(loss, has_aux=True)
  (value, metrics), gradient = run(GOLD[f"{name}/score_B"])
  np.testing.assert_allclose(value, GOLD[f"{name}/loss"], rtol=1e-12)
  np.testing.assert_allclose(gradient, GOLD[f"{name}/gradient"], atol=1e-13)
  for key in ("accuracy", "margin"):
    got = metrics[key].compute()
    np.testing.assert_allclose(got, GOLD[f"{name}/{key}"], rtol=1e-12)
