"""No mesh and no number of microbatches changes an update."""

import jax
import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import trees
from llm_jax.objectives import group
from llm_jax.objectives.ppo import PPO
from llm_jax.ops import returns
from llm_jax.sharding import mesh as mesh_lib
from tests import command, drawing
from tests import several_processes_test as processes
from tests.objectives import ppo_test, table

OBJECTIVES = {
  "ppo": PPO(whiten_rewards=True, whiten="minibatch"),
  "grpo": group.grpo(4),
}


def update(home, objective, mesh, microbatches, steps=4):
  """{name: array}: what was drawn, what is told, what weights became."""
  its = drawing.experiment(
    home,
    objective=objective,
    judge=drawing.lively(home),
    mesh=mesh_lib.MeshShape(*mesh),
    microbatches=microbatches,
  )
  with drawing.begun(home, its) as (_, run):
    state, found = run.state, {}
    for step in range(steps):
      batch = run.source.next(state)
      state, metrics = run.step(state, batch)
      found |= {f"{step}/{k}": np.asarray(x) for k, x in batch.items()}
      told = {k: np.asarray(m.compute()) for k, m in metrics.items()}
      found |= {f"{step}/{k}": x for k, x in told.items()}
    cut = any(
      not x.sharding.is_fully_replicated
      for _, x in trees.paths(state.trainable)
    )
    found |= {p: np.asarray(x) for p, x in trees.paths(state.trainable)}
  return found, cut


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("meshes")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_update_is_one_devices(name, home):
  want, cut = update(home, OBJECTIVES[name], (1, 1, 1), 1)
  assert not cut
  found, cut = update(home, OBJECTIVES[name], (2, 2, 2), 2)
  assert cut and found.keys() == want.keys()
  for path, x in want.items():
    np.testing.assert_allclose(found[path], x, rtol=0, atol=1e-9, err_msg=path)
  # Else it would hold of nothing.
  assert want["0/told_ended_B"].any() and not want["0/told_ended_B"].all()
  assert (want["3/clipped"] > 0) and want["3/ratio_variance"] > 1e-3


class WhitensInParts(PPO):
  """The mutant: advantages of a microbatch are whitened in its loss."""

  def loss(self, forward, roles, batch, key):
    x_BT = returns.whiten(batch["advantage_BT"], batch["mask_BT"])
    return super().loss(forward, roles, {**batch, "advantage_BT": x_BT}, key)


def test_whitening_within_a_microbatch_is_seen():
  its = WhitensInParts(critic="shared", whiten="none")
  with jax.enable_x64(True):
    batch = {
      k: np.concatenate([x] * 4)[:16] for k, x in ppo_test.credited(its).items()
    }
    step = lambda n: table.step(
      its, ppo_test.new(), batch, n, score=ppo_test.scores
    )
    losses = [float(step(n)[0]) for n in (1, 4)]
  assert abs(losses[0] - losses[1]) > 1e-3


def test_two_processes_learn_as_one_does(home):
  """And move beta by the mean KL of all that was drawn, not of their own."""
  text = (
    f"drawing.experiment(drawing.pathlib.Path({str(home)!r}), steps=5,"
    " batch_size=16, validation=drawing.Validation(every=0),"
    " objective=drawing.PPO(critic='shared'))"
  )
  its = eval(text, {"drawing": drawing})
  flags = "--log.tensorboard=false"
  several = processes.start(
    "train", f"--workdir={home}/two", flags, experiment=text
  )
  said = command.call("train", f"--workdir={home}/one", flags, experiment=its)
  assert said.code == 0, said.err
  ended = processes.end(several)
  assert [code for code, *_ in ended] == [0, 0], ended
  one, two = (sameness.content(home / name) for name in ("one", "two"))
  assert sameness.differences(one, two) == []
  third, last = one["rows"][2], one["rows"][4]
  assert last["kl"] != third["kl"] != 0
  error = np.clip(third["kl"] / its.shaping.target - 1, -0.2, 0.2)
  assert last["beta"] == pytest.approx(
    third["beta"] * (1 + error * 16 / its.shaping.horizon), rel=1e-6
  )
