"""Laws of the losses on pairs, in float64, each with a mutant."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.objectives import dpo, separate, unreferenced
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.pairwise import Pairs
from llm_jax.objectives.transport import AOT
from tests.objectives import table

DIVERGENCES = ("forward_kl", "js", "alpha")
ON_MARGIN = [
  dpo.DPO(),
  dpo.DPO(smoothing=0.2),
  dpo.DPO(logp="mean"),
  dpo.DPO(reference_free=True),
  dpo.RobustDPO(),
  dpo.Hinge(),
  dpo.IPO(),
  dpo.IPO(logp="sum"),
  dpo.EXO(),
  dpo.DiscoPOP(),
]
OTHERS = [
  *(dpo.DPO(divergence=d) for d in DIVERGENCES),
  *(dpo.IPO(logp="sum", divergence=d) for d in DIVERGENCES),
  separate.NCA(),
  separate.APO(),
  separate.APO(anchor="down"),
  separate.SPPO(),
  separate.BCO(),
  separate.BCO(shift="none"),
  AOT(smoothing=0.1),
  AOT(pairing="unpaired"),
  AOT(logp="mean", reference_free=True),
  unreferenced.SimPO(),
  unreferenced.CPO(),
  unreferenced.ORPO(nll_of="completion"),
  unreferenced.SFT(),
  unreferenced.Sum(),
  unreferenced.Sum((separate.BCO(), AOT(), dpo.IPO()), (0.5, 1.0, 2.0)),
]
ALL = ON_MARGIN + OTHERS
# Those that look at the whole batch, and one of each other kind.
WHOLE = [
  KTO(beta=0.7),
  separate.BCO(beta=0.7),
  AOT(beta=0.7),
  AOT(beta=0.7, pairing="unpaired"),
  unreferenced.SFT(),
]
KINDS = [*WHOLE, dpo.DPO(), dpo.IPO(), unreferenced.CPO(), OTHERS[-1]]
LENGTHS = [3, 2, 1, 4, 2, 2, 4, 1]
LABELS = np.repeat([1, 0, 0, 1], 2)


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def logps(seed=0):
  """Of policy and reference, eight completions."""
  r = np.random.default_rng(seed)
  policy_B = -3 - 3 * r.random(8)
  return {"policy": policy_B, "reference": policy_B + r.normal(size=8)}


def run(objective, roles, cuts=1, lengths=LENGTHS, **changes):
  group, batch = changes.pop("group", None), table.rows_of(lengths) | changes
  roles = {k: jnp.asarray(x) for k, x in roles.items()}
  how = {"group": group, "score": table.given}
  # What is compiled for this shape, once, serves all objectives.
  how["jit"] = cuts > 1 or len(batch["row_B"]) != len(LENGTHS)
  return table.step(objective, roles, batch, cuts, **how)


@functools.cache
def plain(objective):
  """Of `logps()`, in one piece."""
  return run(objective, logps(), label_B=LABELS)


def close(got, want, **tolerances):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, **tolerances)


def swapped(x_B):
  return np.asarray(x_B).reshape(-1, 2)[:, ::-1].reshape(-1)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_begins_at_log_2_and_pulls_both_sides_alike(beta):
  at = logps()["policy"]
  loss, gradient, metrics = run(
    dpo.DPO(beta=beta), {"policy": at, "reference": at}
  )
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-15)
  want = np.tile([-beta / 2, beta / 2], 4) / 4
  np.testing.assert_allclose(gradient, want, rtol=1e-14)
  assert metrics["margin"] == metrics["accuracy"] == 0
  # Mutants: no reference; the sum over pairs, not the mean.
  apart, *_ = run(dpo.DPO(beta=beta, reference_free=True), {"policy": at})
  assert abs(apart - np.log(2)) > 1e-3
  assert abs(np.abs(gradient).sum() - beta * 4) > 1e-2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_begins_like_dpo(divergence):
  """f'(1) is 0 as here defined, and f''(1) is 1."""
  at = logps()["policy"]
  roles = {"policy": at, "reference": at}
  want = run(dpo.DPO(), roles)
  loss, gradient, _ = run(dpo.DPO(divergence=divergence), roles)
  scale = 0.5 if divergence == "js" else 1.0  # f'' of (11) there is 1 / 2
  np.testing.assert_allclose(loss, want[0], rtol=1e-14)
  np.testing.assert_allclose(gradient, scale * want[1], rtol=1e-12)


def test_alpha_goes_from_reverse_to_forward_kl():
  x = np.linspace(-3, 3, 7)
  of = lambda d, a=0.5: np.asarray(dpo.derivative(d, jnp.asarray(x), a))
  np.testing.assert_allclose(of("alpha", 0.0), of("reverse_kl"))
  np.testing.assert_allclose(of("alpha", 1e-9), x, atol=1e-6)
  np.testing.assert_allclose(of("alpha", 1.0), of("forward_kl"))
  for alpha in (0.3, 0.5):
    want = [(1 - np.exp(v) ** -alpha) / alpha for v in x]
    np.testing.assert_allclose(of("alpha", alpha), want, rtol=1e-12)
  want = [np.log(2 * np.exp(v) / (1 + np.exp(v))) for v in x]
  np.testing.assert_allclose(of("js"), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("objective", ON_MARGIN, ids=str)
def test_only_the_margin_counts(objective):
  roles = logps()
  even = [2, 2, 1, 1, 3, 3, 4, 4]
  loss, gradient, metrics = run(objective, roles, lengths=even)
  shift_B = np.repeat([5.0, -2.0, 0.3, 7.0], 2)
  moved = roles | {"policy": roles["policy"] + shift_B}
  again, gradient_2, metrics_2 = run(objective, moved, lengths=even)
  np.testing.assert_allclose(again, loss, rtol=1e-12)
  np.testing.assert_allclose(gradient_2, gradient, rtol=1e-9, atol=1e-13)
  np.testing.assert_allclose(metrics_2["margin"], metrics["margin"], rtol=1e-9)
  for pair in (gradient[:2], gradient[2:4]):
    np.testing.assert_allclose(pair.sum(), 0, atol=1e-14)


def test_an_offset_is_what_must_be_won_by():
  """By hand, arXiv:2402.10571, eq. 7; the mutant asks no more of any pair."""
  roles, margin_B = logps(), np.repeat([0.0, 0.5, 2.0, 1.0], 2)
  objective = dpo.DPO(beta=0.7, offset=0.4)
  loss, gradient, metrics = run(objective, roles, margin_B=margin_B)
  x_B = 0.7 * (roles["policy"] - roles["reference"])
  x_Q = x_B[::2] - x_B[1::2] - 0.4 * margin_B[::2]
  np.testing.assert_allclose(loss, np.log1p(np.exp(-x_Q)).mean(), rtol=1e-13)
  want = -0.7 / (1 + np.exp(x_Q)) / len(x_Q)
  np.testing.assert_allclose(gradient[::2], want, rtol=1e-12)
  without = run(dpo.DPO(beta=0.7), roles, margin_B=margin_B)
  assert metrics["margin"] == without[2]["margin"]
  assert abs(without[0] - loss) > 1e-2
  with pytest.raises(ValueError, match="--objective.offset=0.4: the data give"):
    run(objective, roles)


def test_mutants_of_either_side_alone_are_caught():
  roles = logps()
  moved = roles | {"policy": roles["policy"] + 5.0}
  for other in (separate.NCA(), separate.APO(), separate.SPPO()):
    assert abs(run(other, moved)[0] - plain(other)[0]) > 1e-3


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_swapping_mirrors_what_is_reported(objective):
  _, _, one = plain(objective)
  _, _, other = run(
    objective,
    {k: swapped(x) for k, x in logps().items()},
    lengths=swapped(LENGTHS),
  )
  np.testing.assert_allclose(other["margin"], -one["margin"], rtol=1e-12)
  assert other["accuracy"] == 1 - one["accuracy"]
  for what in ("reward", "logp"):
    got, want = other[f"{what}_rejected"], one[f"{what}_chosen"]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert abs(one[f"{what}_rejected"] - want) > 1e-3  # or all would be alike


def test_swapping_mirrors_the_losses():
  """Of x and -x: what smoothing weighs is the loss of the swapped pairs."""
  roles = logps()
  back = {k: swapped(x) for k, x in roles.items()}
  there, here = plain(dpo.DPO())[0], run(dpo.DPO(), back)[0]
  smooth = run(dpo.DPO(smoothing=0.2), roles)[0]
  robust = run(dpo.RobustDPO(noise=0.2), roles)[0]
  np.testing.assert_allclose(smooth, 0.8 * there + 0.2 * here, rtol=1e-13)
  want = (0.8 * there - 0.2 * here) / 0.6
  np.testing.assert_allclose(robust, want, rtol=1e-13)
  half = dpo.DPO(smoothing=0.5)
  np.testing.assert_allclose(run(half, roles)[0], run(half, back)[0], 1e-14)
  assert abs(here - there) > 1e-2


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("objective", [*ALL, KTO()], ids=str)
def test_extremes_stay_finite(objective, wide):
  float_ = np.float64 if wide else np.float32
  policy_B = np.array([1e4, -1e4, -1e4, 1e4, 200, -200, 0, -90], float_)
  roles = {"policy": policy_B, "reference": 0 * policy_B}
  with jax.enable_x64(wide):
    loss, gradient, metrics = run(objective, roles, label_B=LABELS)
  assert loss.dtype == gradient.dtype == float_
  assert np.isfinite(loss) and np.isfinite(gradient).all()
  assert np.isfinite(list(metrics.values())).all()


def test_mutant_without_a_bound_is_caught():
  x = jnp.array([-1e4, 1e4], jnp.float32)
  assert not np.isfinite(jnp.exp(-x)).all()
  assert np.isfinite(dpo.derivative("forward_kl", x, 0.5)).all()
  assert not np.isfinite(jnp.log1p(-jnp.exp(jnp.float32(0))))
  assert np.isfinite(unreferenced.log1mexp(jnp.float32(0)))


def test_log1mexp_is_exact_at_both_ends():
  for x, want in ((-1e-12, np.log(1e-12)), (-40.0, -np.exp(-40.0))):
    got = unreferenced.log1mexp(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-11)


@pytest.mark.parametrize("objective", KINDS, ids=str)
def test_microbatches_change_nothing(objective):
  two = run(objective, logps(), 2, label_B=LABELS)
  close(two, plain(objective), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_mutant_of_each_microbatch_by_itself_is_caught(objective):
  """Baselines, shifts, ranks and tokens are of the global batch."""
  roles = logps(1)
  roles["policy"][1::2] += 2  # so that KTO's baseline is above 0
  roles["policy"][4] += 6  # so that it meets one of the other half
  loss, gradient, _ = run(objective, roles, label_B=LABELS)
  parts = []
  for at in (slice(0, 4), slice(4, 8)):
    part = {k: x[at] for k, x in roles.items()}
    parts.append(run(objective, part, lengths=LENGTHS[at], label_B=LABELS[at]))
  assert abs(np.mean([p[0] for p in parts]) - loss) > 1e-4
  apart = np.concatenate([p[1] for p in parts]) / 2
  assert np.abs(apart - gradient).max() > 1e-4


def test_mutant_that_parts_pairs_is_caught():
  whole, *_ = plain(dpo.DPO())
  parted, *_ = run(dpo.DPO(), logps(), 2, group=1)
  assert abs(parted - whole) > 1e-3


@pytest.mark.parametrize("objective", KINDS, ids=str)
def test_pairs_that_are_not_there_count_nothing(objective):
  cut = {k: x[:6] for k, x in logps().items()}
  loss, gradient, metrics = run(
    objective, cut, lengths=LENGTHS[:6], label_B=LABELS[:6]
  )
  got = run(objective, logps(), lengths=[*LENGTHS[:6], 0, 0], label_B=LABELS)
  want = (loss, np.concatenate([gradient, [0, 0]]), metrics)
  close(got, want, rtol=1e-11, atol=1e-14)
  assert abs(plain(objective)[0] - loss) > 1e-4  # the mutant: it counts


REFERENCED = [o for o in [*ALL, KTO()] if getattr(o, "needs_reference", True)]


@pytest.mark.parametrize("objective", REFERENCED, ids=str)
def test_what_is_precomputed_is_what_is_computed(objective):
  roles = logps()
  with_ = lambda ref_logp_B: run(
    objective,
    {"policy": roles["policy"]},
    label_B=LABELS,
    ref_logp_B=ref_logp_B,
  )
  close(with_(roles["reference"]), plain(objective), rtol=0, atol=0)
  if objective == dpo.DPO():  # the mutant: another row's
    wrong = with_(swapped(roles["reference"]))
    assert abs(wrong[0] - plain(objective)[0]) > 1e-3


def test_no_gradient_goes_into_what_is_compared_with():
  """BCO's mean, by hand; the mutant differentiates it."""
  roles = {k: jnp.asarray(x) for k, x in logps().items()}
  beta, R = 0.7, roles["reference"]

  def by_hand(policy, still):
    x = beta * (policy - R)
    mean = still(x.mean())
    c, r = x[::2], x[1::2]
    loss = jnp.logaddexp(0, mean - c) + jnp.logaddexp(0, r - mean)
    return loss.mean()

  loss, gradient, _ = run(separate.BCO(beta=beta), roles)
  grad = lambda still: jax.value_and_grad(by_hand)(roles["policy"], still)
  want, want_gradient = grad(jax.lax.stop_gradient)
  np.testing.assert_allclose(loss, want, rtol=1e-13)
  np.testing.assert_allclose(gradient, want_gradient, rtol=1e-11)
  assert np.abs(grad(lambda x: x)[1] - gradient).max() > 1e-4


def test_no_gradient_goes_into_the_baseline_of_kto():
  roles = {k: jnp.asarray(x) for k, x in logps(2).items()}
  roles["policy"] = roles["policy"] + jnp.tile(jnp.array([0.0, 2.0]), 4)
  beta, liked = 0.7, np.array([1, 0, 0, 1])

  def by_hand(policy, still):
    x = policy - roles["reference"]
    z = still(jnp.maximum(0, x[1::2].mean()))
    gain = jnp.where(liked, x[::2] - z, z - x[::2])
    return (1 - 1 / (1 + jnp.exp(-beta * gain))).mean()

  objective = KTO(beta=beta)
  loss, gradient, _ = run(objective, roles, label_B=np.repeat(liked, 2))
  grad = lambda still: jax.value_and_grad(by_hand)(roles["policy"], still)
  want, want_gradient = grad(jax.lax.stop_gradient)
  np.testing.assert_allclose(loss, want, rtol=1e-13)
  np.testing.assert_allclose(gradient, want_gradient, atol=1e-15)
  assert not gradient[1::2].any()
  assert np.abs(grad(lambda x: x)[1] - gradient).max() > 1e-4


@pytest.mark.parametrize("divergence", ["reverse_kl", *DIVERGENCES])
def test_dpo_ends_where_its_reward_says(divergence):
  """All completions of a toy: the optimum is known for every divergence.

  With preferences drawn from Bradley-Terry of a reward r, the policy ends
  where f'(pi / ref) = r / beta + constant; for reverse KL, ref exp(r / beta).
  """
  beta, n = 0.8, 5
  r = np.random.default_rng(0)
  reward, prior = r.normal(size=n), r.dirichlet(np.ones(n))
  twos = np.array(list(itertools.permutations(range(n), 2)))
  won = 1 / (1 + np.exp(reward[twos[:, 1]] - reward[twos[:, 0]]))
  objective = dpo.DPO(beta=beta, divergence=divergence)

  def loss(logits):
    logp = jax.nn.log_softmax(logits)
    pairs = Pairs(logp[twos], jnp.ones(twos.shape), jnp.log(prior)[twos])
    return (won * objective.terms(pairs).loss_Q).sum() / len(twos)

  @jax.jit
  def descend(logits):
    def newton(_, x):
      hessian = jax.hessian(loss)(x) + 1e-9 * jnp.eye(n)
      return x - 0.7 * jnp.linalg.solve(hessian, jax.grad(loss)(x))

    return jax.lax.fori_loop(0, 60, newton, logits)

  policy = np.asarray(jax.nn.softmax(descend(jnp.log(prior))))
  ratio = policy / prior
  implied = (
    beta
    * {
      "reverse_kl": np.log(ratio),
      "forward_kl": -1 / ratio,
      "js": np.log(2 * ratio / (1 + ratio)),
      "alpha": -(ratio**-0.5) / 0.5,
    }[divergence]
  )
  found, want = implied - implied.mean(), reward - reward.mean()
  np.testing.assert_allclose(found, want, atol=1e-6)
  if divergence == "reverse_kl":
    best = prior * np.exp(reward / beta)
    assert np.abs(policy - best / best.sum()).sum() / 2 < 1e-7
    wrong = prior * np.exp(reward * beta)  # the mutant
    assert np.abs(policy - wrong / wrong.sum()).sum() / 2 > 0.01


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: dpo.DPO(beta=0.0), "--objective.beta=0.0: must be more than 0"),
    (lambda: KTO(beta=0.0), "--objective.beta=0.0: must be more than 0"),
    (lambda: dpo.EXO(smoothing=0.0), "--objective.smoothing=0.0: must be more"),
    (lambda: dpo.RobustDPO(noise=0.5), "--objective.noise=0.5: must be less"),
    (
      lambda: unreferenced.Sum(weights=(1.0,)),
      "--objective.weights=1.0: must be as many numbers as .* losses, 2",
    ),
    (
      lambda: run(unreferenced.ORPO(), logps()),
      "train prompts too",
    ),
    (
      lambda: run(
        dpo.DPO(),
        {k: x[:7] for k, x in logps().items()},
        lengths=LENGTHS[:7],
        group=1,
      ),
      "--batch_size=7: must be even",
    ),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(make, said):
  with pytest.raises(ValueError, match=said):
    make()


def test_losses_can_be_written_down_and_read():
  from llm_jax import config

  for objective in (*ALL, KTO()):
    assert config.from_json(config.to_json(objective)) == objective
    assert hash(objective) == hash(dataclasses.replace(objective))
