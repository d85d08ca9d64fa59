"""Settings for machines that are not here."""

import dataclasses

import pytest

from llm_jax import checking
from llm_jax.sharding.mesh import MeshShape, Slices
from tests import command

SMALL = dataclasses.replace(command.EXPERIMENT, batch_size=8)


def of(**mesh):
  return dataclasses.replace(SMALL, mesh=MeshShape(**mesh))


@pytest.mark.parametrize(
  "experiment,there,said",
  [
    (SMALL, "8", None),
    (SMALL, "0", None),
    (SMALL, "16", "--batch_size=8: not divisible by .* data 16"),
    (of(fsdp=-1, data=1), "1x8", None),
    (of(fsdp=3), "8", "--mesh.fsdp=3: there are 8 devices, and .* 1, 2, 4, 8"),
    (of(data=4), "8", "--mesh.data=4: there are 8 devices"),
    (of(expert=2), "8", "the model has no experts"),
    (SMALL, "2x4", "--slices=2: the mesh lies over 1; say along which axis"),
    (of(slices=Slices(data=2)), "2x4", None),
    (of(fsdp=-1, data=1), "2x4", "as in --mesh.slices.fsdp=2"),
    (of(tensor=-1, data=1), "2x4", "as in --mesh.data=2 --mesh.slices.data=2"),
    (of(data=4), "2x4", "are 8 devices, 4 in each of 2 slices"),
    (SMALL, "", "--check=: must be DEVICES or"),
    (SMALL, "axb", "--check=axb: must be DEVICES or SLICESxDEVICES"),
    (SMALL, "-8", "--check=-8: must be"),
  ],
)
def test_checked_for_machines_that_are_not_here(experiment, there, said):
  if said is None:
    checking.check(experiment, "train", there)
  else:
    with pytest.raises(ValueError, match=said):
      checking.check(experiment, "train", there)


def test_of_verbs_that_use_a_run_only_flags_are_known():
  checking.check(of(fsdp=3), "evaluate", "8")


def test_nothing_is_begun(tmp_path):
  folder = tmp_path / "run"
  said = command.call("train", f"--workdir={folder}", "--check=8")
  assert said.code == 0 and not folder.exists()
  said = command.call("train", f"--workdir={folder}", "--check=3")
  assert said.code == 2 and "not divisible" in said.error
  assert not folder.exists()
