"""Runs that model text beside what they draw, and stop in the middle."""

import dataclasses
import shutil
from unittest import mock

import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import mixing, trees
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Ptx
from llm_jax.sharding import mesh as mesh_lib
from tests import command, drawing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, folder of its run of two updates)."""
  home = tmp_path_factory.mktemp("mixing")
  path = command.text_file(home)
  text = Text(
    sources=(Files(paths=(str(path),), split_by="line"),),
    length=16,
    cache=str(home / "cache"),
  )
  experiment = drawing.experiment(home, ptx=(Ptx(text, 0.5, batch_size=4),))
  command.train(experiment, home / "whole")
  return experiment, home / "whole"


def test_text_is_learned_beside_what_is_drawn(run):
  rows = sameness.content(run[1])["rows"]
  nll = [r["ptx_nll"] for r in rows if r["split"] == "train"]
  assert len(nll) == 8 and len(set(nll)) == 8  # a batch of its own each time
  assert nll[-1] < nll[0] - 0.3


def step(home, experiment, shape, microbatches):
  """{name: number} of a step in float64, and the weights after it."""
  its = dataclasses.replace(
    experiment, mesh=mesh_lib.MeshShape(*shape), microbatches=microbatches
  )
  with drawing.begun(home, its) as (_, run):
    state, told = run.step(run.state, run.source.next(run.state))
    found = {name: np.asarray(m.compute()) for name, m in told.items()}
    return found | {p: np.asarray(x) for p, x in trees.paths(state.trainable)}


def test_no_mesh_and_no_microbatches_change_it(run, tmp_path):
  """Answers, of which some are longer; mutants are in objectives/mixed_test."""
  its = dataclasses.replace(run[0], ptx=(Ptx(run[0].data),))
  want = step(tmp_path / "one", its, (1, 1, 1), 1)
  found = step(tmp_path / "many", its, (2, 2, 2), 2)
  for name, x in want.items():
    np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-9, err_msg=name)


def test_stopped_within_an_update_it_goes_on_the_same(run, tmp_path):
  """The mutant begins the text anew."""
  experiment, whole = run
  wanted = sameness.content(whole)
  for forgets in (False, True):
    folder = shutil.copytree(whole, tmp_path / str(forgets))
    shutil.rmtree(folder / "checkpoints/00000008")
    keep = forgetful if forgets else mixing.Mixing.set_state
    with mock.patch.object(mixing.Mixing, "set_state", keep):
      again = command.train(experiment, folder)
    assert bool(sameness.differences(wanted, again)) == forgets


def forgetful(self, saved):
  self._source.set_state(saved)


def test_no_weight_is_no_text(run, tmp_path):
  """Nothing of it is read, nor told of."""
  experiment, _ = run
  nowhere = dataclasses.replace(
    experiment.ptx[0],
    data=Text(sources=(Files(paths=("nowhere",)),), length=16),
  )
  off = dataclasses.replace(
    experiment, ptx=(dataclasses.replace(nowhere, weight=0.0),), steps=1
  )
  (row, *_) = command.train(off, tmp_path / "off")["rows"]
  assert "ptx_nll" not in row
  said = command.call(
    "train",
    f"--workdir={tmp_path / 'on'}",
    "--ptx.0.weight=1",
    experiment=off,
  )
  assert "nowhere" in said.error  # the mutant: it is read


@pytest.mark.parametrize(
  "flag, said",
  [
    ("--ptx.0.batch_size=3", "not divisible by --microbatches=2 x data 2"),
    ("--ptx.0.data.length=64", "longer than --model.max_length=32"),
    ("--ptx.0.weight=-1", "must be a finite number, at least 0"),
  ],
)
def test_what_cannot_stand_beside_is_told(run, tmp_path, flag, said):
  error = command.refused(
    tmp_path,
    "train",
    f"--workdir={tmp_path / 'run'}",
    flag,
    experiment=run[0],
  )
  assert flag in error and said in error


def test_who_draws_nothing_has_nothing_beside(run, tmp_path):
  its = dataclasses.replace(command.EXPERIMENT, ptx=run[0].ptx)
  error = command.refused(
    tmp_path, "train", f"--workdir={tmp_path / 'run'}", experiment=its
  )
  assert "--ptx.0.weight=0.5: Causal draws nothing" in error
