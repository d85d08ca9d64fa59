"""What ends an update early, and what ends a run that goes astray."""

import dataclasses
import json
import re
import shutil
from unittest import mock

import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import on_policy
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.moments import Moments
from llm_jax.training.hooks import DivergedError
from tests import command, drawing

LIMIT = 1e-4  # nats a token: any second step is further


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, folder of a run whose updates end early)."""
  home = tmp_path_factory.mktemp("guards")
  experiment = drawing.experiment(
    home,
    shaping=Shaping(missing_eos="subtract", scale="running", centre=True),
    checkpoints=Checkpoints(every=1, keep=9),
    steps=5,
  )
  rollouts = dataclasses.replace(experiment.rollouts, target_kl=LIMIT)
  experiment = dataclasses.replace(experiment, rollouts=rollouts)
  command.train(experiment, home / "whole")
  return experiment, home / "whole"


def told(folder, name):
  """A number of each step of training."""
  rows = sameness.content(folder)["rows"]
  return [row[name] for row in rows if row["split"] == "train"]


def again(run, folder, step, **flags):
  """What comes of the run that goes on after a step."""
  experiment, whole = run
  shutil.copytree(whole, folder)
  for later in range(step + 1, experiment.steps + 1):
    shutil.rmtree(folder / f"checkpoints/{later:08d}")
  given = [f"--{name}={value}" for name, value in flags.items()]
  return command.call(
    "train", f"--workdir={folder}", *given, experiment=experiment
  )


def test_an_update_ends_after_a_step_that_was_too_far(run):
  updates, moved = (told(run[1], name) for name in ("update", "kl_old"))
  assert updates == [1, 1, 2, 2, 3]  # of four steps each
  assert max(moved[::2]) < LIMIT < min(moved[1::2])
  assert told(run[1], "epoch") == [0] * 5
  assert told(run[1], "drawn") == [16, 16, 32, 32, 48]


def test_who_hears_of_it_late_or_never_learns_on(run, tmp_path):
  """Mutants: a batch that does not wait, and one that is not told."""
  alone = dataclasses.replace(run[0], checkpoints=Checkpoints(every=0), steps=4)
  for name, value, late in (
    ("waits", False, [1, 1, 1, 2]),
    ("read", lambda *a: None, [1, 1, 1, 1]),
  ):
    with mock.patch.object(on_policy.OnPolicy, name, value):
      command.train(alone, tmp_path / name)
    assert told(tmp_path / name, "update") == late


def test_the_end_of_an_update_outlives_a_resume(run, tmp_path):
  """After the step that ended it; the mutant forgets the moments."""
  wanted = sameness.content(run[1])
  load = on_policy.OnPolicy.set_state
  for name, change in (("exact", {}), ("mutant", {"moments": []})):
    keep = lambda self, saved, change=change: load(self, saved | change)
    with mock.patch.object(on_policy.OnPolicy, "set_state", keep):
      assert again(run, tmp_path / name, 4).code == 0
    found = sameness.content(tmp_path / name)
    differ = bool(sameness.differences(wanted, found))
    assert differ == (name == "mutant")


def drawn(folder, step):
  """What a checkpoint holds of the update in whose middle it is."""
  place = folder / f"checkpoints/{step:08d}"
  return dict(np.load(place / "position.npz"))


def test_scores_are_scaled_by_all_of_the_run(run):
  updates = [drawn(run[1], step) for step in (1, 3, 5)]
  seen = np.concatenate([rows["rows/judged_B"] for rows in updates])
  for i, rows in enumerate(updates):
    of = seen[: 16 * (i + 1)]
    scaled = (rows["rows/judged_B"] - of.mean()) / of.std(ddof=1)
    want = scaled - ~rows["rows/ended_B"].astype(bool)
    np.testing.assert_allclose(rows["rows/score_B"], want, rtol=1e-4, atol=1e-5)
  # The mutant: by the first update's alone.
  one, all_of_it = seen[:16].std(ddof=1), seen.std(ddof=1)
  assert np.abs(seen[-16:] / one - seen[-16:] / all_of_it).max() > 1e-3
  # Held-out answers are told of as they were judged.
  (row,) = [
    r for r in sameness.content(run[1])["rows"] if r["split"] == "validation"
  ]
  assert row["score"] == pytest.approx(row["judged"] - (1 - row["ended"]))


def test_a_policy_that_runs_away_is_stopped_and_nothing_is_lost(run, tmp_path):
  experiment, whole = run
  folder = tmp_path / "away"
  strict = ("--shaping.most_kl=0.001", "--shaping.patience=1")
  said = command.call(
    "train",
    f"--workdir={folder}",
    *strict,
    experiment=dataclasses.replace(
      experiment, checkpoints=Checkpoints(every=0)
    ),
  )
  assert said.code == 1
  (line,) = [x for x in said.err.splitlines() if x.startswith("stopped: ")]
  update = int(re.search(r"update (\d): the policy is ", line)[1])
  assert "--shaping.most_kl=0.001 in 1 updates in a row; nothing is" in line
  for flag in ("--optimizer.peak", "--shaping.beta", "--rollouts.target_kl"):
    assert flag in line
  assert "Traceback" not in said.err
  # It was saved, stops there again, and goes on where it may go further.
  (saved,) = (folder / "checkpoints").iterdir()
  assert update > 1 and int(saved.name) == 2 * (update - 1)
  go_on = lambda *flags: command.call(
    "train", f"--workdir={folder}", *flags, experiment=experiment
  )
  assert line in go_on(*strict).err
  assert go_on("--shaping.most_kl=none").code == 0
  assert (
    sameness.differences(sameness.content(whole), sameness.content(folder))
    == []
  )


def test_who_tells_no_distance_cannot_end_an_update(run, tmp_path):
  """Pairs of what was drawn are learned by losses of their own."""
  experiment, _ = run
  rollouts = dataclasses.replace(experiment.rollouts, pair_of=2)
  its = dataclasses.replace(experiment, objective=DPO(), rollouts=rollouts)
  error = command.refused(
    tmp_path, "train", f"--workdir={tmp_path / 'run'}", experiment=its
  )
  assert f"--rollouts.target_kl={LIMIT}: DPO does not tell" in error


def test_patience_counts_updates_in_a_row():
  its = object.__new__(on_policy.OnPolicy)
  its._shaping = Shaping(most_kl=1.0)
  rows = lambda kl: {
    "kl_B": np.array([kl, 3.0]),
    "length_B": np.array([2.0, 3]),
  }
  assert its._is_away(rows(2.1)) and not its._is_away(rows(1.9))
  assert not its._is_away({"length_B": np.ones(2)})  # nobody knows
  its._shaping = Shaping(most_kl=None)
  assert not its._is_away(rows(99.0))


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_updates_too_far_in_a_row_are_counted(patience):
  """In a row: one that came back begins the count anew."""
  its = object.__new__(on_policy.OnPolicy)
  its._shaping = Shaping(most_kl=1.0, patience=patience)
  its._away, its._updates, its._moments = 0, 0, Moments()
  its._credit, its._beta, counts = dict, 0.1, []
  its._settings = Rollouts(widths=1)

  def draws(roles):
    kl = [2.0, 0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0][len(counts)]
    row = {"kl_B": [kl], "length_B": [1.0], "judged_B": [0.0]}
    return {n: np.array(x) for n, x in row.items()}, 0, Moments()

  its._to_learn_from = draws
  said = f"in {patience} updates in a row"
  with pytest.raises(DivergedError, match=said):
    while True:
      its._drawn(None)
      counts.append(its._away)
  wanted = {1: [], 2: [1, 0, 1], 3: [1, 0, 1, 2, 0, 1, 2]}
  assert counts == wanted[patience]


def test_a_judge_that_fails_later_loses_nothing(run, tmp_path):
  experiment, whole = run
  its = dataclasses.replace(experiment, checkpoints=Checkpoints(every=0))
  train = lambda: command.call(
    "train", f"--workdir={tmp_path / 'run'}", experiment=its
  )
  scores = on_policy.OnPolicy._scores

  def fails(self, *given):
    if self._updates:
      raise ValueError("--judge: out of order")
    return scores(self, *given)

  with mock.patch.object(on_policy.OnPolicy, "_scores", fails):
    assert train().error == "error: --judge: out of order"
  steps = [p.name for p in (tmp_path / "run/checkpoints").iterdir()]
  assert steps == ["00000002"]
  assert train().code == 0
  found = sameness.content(tmp_path / "run")
  assert sameness.differences(sameness.content(whole), found) == []


def test_a_state_of_a_run_that_knew_less_is_read(run):
  """Runs of before had no moments, and were never away."""
  place = run[1] / "checkpoints/00000005/position.json"
  saved = json.loads(place.read_text())["position"]
  for name in ("moments", "away"):
    del saved[name]
  its = object.__new__(on_policy.OnPolicy)
  its._identity, its._judge = saved["text"], saved["judge"]
  its._settings, its._group = run[0].rollouts, 1
  its.set_state(saved)
  assert its._moments == (0, 0, 0) and its._away == 0
