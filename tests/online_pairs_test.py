"""Online DPO is DPO on what was drawn, and ends where theory says."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import config, on_policy, reinforcing, state_plan, weights
from llm_jax import model as model_lib
from llm_jax.contracts import Verdict
from llm_jax.evaluation import divergence
from llm_jax.experiment import Experiment, SelfPlay
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives import group
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.drawn_pairs import DrawnPairs
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.shaping import Shaping
from llm_jax.objectives.unreferenced import ORPO
from llm_jax.ops.sampling import Sampler
from llm_jax.reporting import report
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training import loop
from llm_jax.training.schedules import Schedule
from tests import command, drawing, small
from tests import on_policy_oracle_test as drawn_toy
from tests import oracle_test as toy

STOP = (3, 5)
SHAPE = dataclasses.replace(small.CONFIG, num_layers=1)
PROMPTS = [
  on_policy.Prompt((("user", str(n)),), list(range(6, 6 + n)))
  for n in (1, 4, 2, 6)
]


def source(objective, roles, settings):
  """A source of its pairs, judged by what no pair shares."""
  made = Experiment(
    model=dataclasses.replace(SHAPE, dtype="float64"),
    objective=objective,
    tokenizer=Bytes(),
    rollouts=settings,
    shaping=Shaping(missing_eos="keep"),
    batch_size=8,
  )
  model = model_lib.of_shape(made.model)
  number = lambda text: float(sum(map(int, text.split())))
  return made, on_policy.OnPolicy(
    settings,
    made.shaping,
    DrawnPairs(settings.pair_of),
    PROMPTS,
    reinforcing.functions(made, model, STOP),
    on_policy.Reward(
      text=lambda ids: " ".join(map(str, ids)),
      score=lambda asked: [
        Verdict(tuple(map(number, q.completions))) for q in asked
      ],
    ),
    (0, 1),
    seed=0,
    batch_size=made.batch_size,
    group=made.group,
    mesh=mesh_lib.make(mesh_lib.MeshShape(1, 1, 1)),
  )


@pytest.fixture(scope="module")
def both():
  """Roles that differ."""
  with jax.enable_x64(True):
    policy, reference = (small.build(SHAPE, seed)[1] for seed in (0, 1))
  return {"policy": policy, "reference": reference}


def loss_of(made, roles, batch):
  """Loss, metrics and gradient, as a step has them."""
  objective = Packed(made.objective)
  forward = state_plan.forward(model_lib.of_shape(made.model), made.scored_at)

  @jax.jit
  def found(policy, batch):
    roles_ = {**roles, "policy": policy}
    weighed = objective.weigh(objective.annotate(forward, roles_, batch))
    return objective.loss(forward, roles_, weighed, None)

  of = jax.value_and_grad(found, has_aux=True)
  (loss, metrics), grads = of(roles["policy"], batch)
  return (loss, {n: m.compute() for n, m in metrics.items()}), grads


def offline(batch):
  """The same pairs as data would give them: from the first place on."""
  tokens, target, mask = (
    np.asarray(batch[f"{n}_BT"]) for n in ("tokens", "target", "mask")
  )
  begin = np.asarray(batch["segment_BT"]).argmax(1)
  prompts = [
    target[row, begin[row] : mask[row].argmax()].tolist()
    for row in range(len(mask))
  ]
  completions = [target[row][mask[row]].tolist() for row in range(len(mask))]
  assert {tokens[row, begin[row]] for row in range(len(mask))} == {0}
  rows = divergence.batch(prompts, completions, 0, len(mask), 20)
  before = np.arange(20) < np.array([[len(p)] for p in prompts])
  return {**rows, "prompt_BT": before}


@pytest.mark.parametrize("objective", [DPO(beta=0.3), ORPO()])
def test_losses_are_those_of_the_same_pairs_offline(both, objective):
  """Values, metrics and gradients; the reference as it was asked at drawing."""
  sampler = Sampler(temperature=0.7)
  settings = Rollouts(batch=8, max_new_tokens=6, pair_of=2, sampler=sampler)
  with jax.enable_x64(True):
    made, its = source(objective, both, settings)
    batch = its.next(SimpleNamespace(roles=both))
    assert ("ref_logp_B" in batch) == objective.needs_reference
    rows = offline(batch)
    found, grads = loss_of(made, both, batch)
    wanted, there = loss_of(made, both, rows)
    turned = {
      n: np.asarray(x).reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
      for n, x in rows.items()
    }
    mutant, _ = loss_of(made, both, turned)
  assert 0 < np.asarray(batch["mask_BT"]).sum()
  np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
  assert abs(float(mutant[0]) - float(wanted[0])) > 1e-3
  for name, x in wanted[1].items():
    np.testing.assert_allclose(found[1][name], x, rtol=1e-11, err_msg=name)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
    grads,
    there,
  )
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) > 1e-3


def test_pairs_stay_together_in_every_minibatch(both):
  """Of four completions the best and worst, read twice in two orders."""
  settings = Rollouts(batch=32, epochs=2, max_new_tokens=6, pair_of=4, widths=1)
  made, its = source(DPO(), both, settings)
  its._size = 4
  assert its.per_update == 8
  given = config.to_json(dataclasses.replace(made, batch_size=4))
  assert report._per_update(given) == 8
  with jax.enable_x64(True):
    found = [
      jax.device_get(its.next(SimpleNamespace(roles=both))) for _ in range(8)
    ]
  seen, num_ties = [], 0
  for batch in found:
    assert batch["tokens_BT"].shape[0] == 4
    for at in (slice(0, 2), slice(2, 4)):
      target, mask, prompt = (
        batch[f"{name}_BT"][at] for name in ("target", "mask", "prompt")
      )
      sums = (target * mask).sum(1).tolist()
      asked = (target * prompt).tolist()
      assert asked[0] == asked[1]
      margin = batch["margin_B"][at].tolist()
      assert margin == [sums[0] - sums[1]] * 2
      assert mask.any() == (margin[0] > 0)
      num_ties += not mask.any()
      seen.append((*sums, *asked[0]))
  # Both passes read the same eight pairs, in another order.
  assert sorted(seen[:8]) == sorted(seen[8:]) and seen[:8] != seen[8:]
  assert len(set(seen)) > 4 and num_ties < 4


def test_the_optimum_is_reached_where_preferences_are_bradley_terrys():
  """A judge whose noise is Gumbel's prefers with sigmoid(r - r').

  There DPO's gradient is nothing at ref exp(r / beta) / Z for each two
  completions alike, whoever drew them.
  """
  drawn = dataclasses.replace(drawn_toy.ROLLOUTS, pair_of=2, epochs=1)
  settings = dataclasses.replace(
    toy.EXPERIMENT,
    rollouts=drawn,
    batch_size=drawn.batch,
    steps=300,
    optimizer=dataclasses.replace(
      toy.EXPERIMENT.optimizer,
      schedule=Schedule("cosine", warmup=20),
    ),
  )
  mesh = mesh_lib.make(settings.mesh)
  model = model_lib.of_shape(settings.model)
  r = np.random.default_rng(0)
  reward = r.normal(size=(toy.V, toy.V))

  def noisy(completion):
    return float(reward[*map(int, completion.split())] + r.gumbel())

  with jax.set_mesh(mesh):
    plan = state_plan.make(settings, model, mesh, reference=True)
    state = weights.start(settings, plan, mesh)
    its = on_policy.OnPolicy(
      drawn,
      Shaping(missing_eos="keep"),
      DrawnPairs(2),
      [drawn_toy.PROMPT],
      reinforcing.functions(settings, model, ()),
      on_policy.Reward(
        text=lambda ids: " ".join(map(str, ids)),
        score=lambda asked: [
          Verdict(tuple(map(noisy, q.completions))) for q in asked
        ],
      ),
      ids=(0, 0),
      seed=0,
      batch_size=settings.batch_size,
      group=2,
      mesh=mesh,
    )
    every = toy.rows(toy.EVERY)
    score = jax.jit(lambda v: model.score(v, every).logp_BT.sum(-1))
    p = lambda v: np.exp(np.asarray(score(v), np.float64))
    prior = p(state.roles["reference"])
    state = loop.train(state, plan.step, its, [], until=settings.steps)
  each = reward[toy.EVERY[:, 0], toy.EVERY[:, 1]]
  optimum = lambda scale: toy.normal(prior * np.exp(scale * each / toy.BETA))
  distance = lambda q: np.abs(p(state.roles["policy"]) - q).sum() / 2
  found = distance(optimum(1))
  assert found < 0.05, f"total variation {found:.4f}"
  assert np.abs(prior - optimum(1)).sum() / 2 > 0.1
  # Other strengths, and the mutant that prefers what is worse.
  assert min(distance(optimum(x)) for x in (0.6, 1.6, -1)) > found


def test_an_order_is_enough(both):
  """Of a judge that knows no more than which of two is better, or neither."""
  settings = Rollouts(batch=8, max_new_tokens=6, pair_of=2)
  _, its = source(DPO(), both, settings)
  ranks = [(0.0, -1.0), (-1.0, 0.0), (0.0, 0.0), (-1.0, 0.0)]
  asked = []

  def judge(questions):
    asked.extend(q.completions for q in questions)
    return [Verdict(rank, ordinal=True) for rank in ranks]

  its._reward = its._reward._replace(score=judge)
  with jax.enable_x64(True):
    batch = jax.device_get(its.next(SimpleNamespace(roles=both)))
  said = [
    " ".join(map(str, target[mask].tolist()))
    for target, mask in zip(batch["target_BT"], batch["mask_BT"], strict=True)
  ]
  found = {tuple(said[i : i + 2]) for i in range(0, 8, 2)}
  (a, b), (c, d), _, (e, f) = asked
  assert found == {(a, b), (d, c), ("", ""), (f, e)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, folder of its run of two updates)."""
  home = tmp_path_factory.mktemp("online_pairs")
  experiment = drawing.experiment(home)
  experiment = dataclasses.replace(
    experiment,
    model=dataclasses.replace(experiment.model, outputs=0),
    objective=DPO(beta=0.5),
    rollouts=dataclasses.replace(experiment.rollouts, pair_of=2, drawings=2),
  )
  command.train(experiment, home / "whole")
  return experiment, home / "whole"


def test_it_trains_and_goes_on_within_an_update(run, tmp_path):
  experiment, whole = run
  wanted = sameness.content(whole)
  steps = [r for r in wanted["rows"] if r["split"] == "train"]
  assert steps[0]["margin"] == pytest.approx(0, abs=1e-5)  # it is the reference
  assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
  assert steps[-1]["margin"] != 0
  assert all(r["mismatch"] < 1e-4 and "flat" in r for r in steps)
  shutil.copytree(whole, tmp_path / "again")
  shutil.rmtree(tmp_path / "again" / "checkpoints/00000008")
  assert (
    sameness.differences(wanted, command.train(experiment, tmp_path / "again"))
    == []
  )


def test_settings_that_cannot_be_are_told(run, tmp_path):
  experiment, _ = run

  def refused(*flags, **changes):
    return command.call(
      "train",
      f"--workdir={tmp_path / 'run'}",
      *flags,
      experiment=dataclasses.replace(experiment, **changes),
    ).error

  assert "--rollouts.pair_of=1: a pair is of 2 or more" in refused(
    "--rollouts.pair_of=1"
  )
  said = refused("--rollouts.pair_of=3")
  assert "--rollouts.batch=16: not divisible by --rollouts.pair_of=3" in said
  said = refused("--rollouts.pair_of=8")
  assert "16, 4 rows of pairs: not divisible by --batch_size=8" in said
  said = refused("--rollouts.target_kl=0.1")
  assert "--rollouts.target_kl=0.1: DPO does not tell" in said
  said = refused("--reference=once")
  assert "--reference=once: cannot be where a policy draws" in said
  said = refused(objective=group.grpo(2))
  assert "--rollouts.pair_of=2: Group reads no pairs" in said
  said = refused(self_play=SelfPlay(max_new_tokens=4))
  assert "--self_play.max_new_tokens=4: both completions" in said
  assert not (tmp_path / "run").exists()
