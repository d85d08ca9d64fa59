"""A reference asked once is one asked at each step."""

import dataclasses
import json
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import claim, precomputing, state_plan
from llm_jax import model as model_lib
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.kto import KTO
from llm_jax.peft.lora import LoRA
from llm_jax.sharding import mesh as mesh_lib
from tests import command

WORDS = "one two three four five six seven eight nine ten".split()
ROWS = [
  {"prompt": f"say {w}", "chosen": w, "rejected": f"{v}!"}
  for w in WORDS
  for v in WORDS
  if w != v
]


def experiment(folder, objective, packing="one", **changes):
  lines = [json.dumps(row) for row in ROWS]
  path = command.text_file(folder, "pairs.jsonl", lines)
  kind = "labels" if isinstance(objective, KTO) else "pairs"
  return dataclasses.replace(
    command.EXPERIMENT,
    data=Preferences(
      sources=(PreferenceFiles(paths=(str(path),)),),
      rows=kind,
      length=32,
      widths=2,
      packing=packing,
      validation=0.3,
      cache=str(folder / "cache"),
    ),
    objective=objective,
    steps=3,
    batch_size=16,
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
    **changes,
  )


def train(folder, made, name, *flags):
  """Rows of metrics, and what the run's plan would hold."""
  where = folder / name
  said = command.call("train", f"--workdir={where}", *flags, experiment=made)
  assert said.code == 0, said.err
  lines = (where / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  timed = ("tokens_per_second", "mfu")
  return [{k: v for k, v in r.items() if k not in timed} for r in rows]


@pytest.mark.optimised
@pytest.mark.parametrize(
  "objective,more",
  [
    (DPO(beta=0.5), {"packing": "best_fit"}),
    (KTO(), {"peft": LoRA(rank=2, targets=("mlp/up",))}),
  ],
  ids=["dpo_packed", "kto_lora"],
)
def test_once_is_at_each_step(objective, more, tmp_path):
  made = experiment(tmp_path, objective, **more)
  want = train(tmp_path, made, "each")
  got = train(tmp_path, made, "once", "--reference=once")
  assert got == want  # to the last bit
  # Stopped and gone on with: read again, not asked again.
  kept = tmp_path / "once/reference.npz"
  before = kept.stat().st_mtime_ns
  train(tmp_path, made, "once", "--reference=once", "--steps=4")
  assert kept.stat().st_mtime_ns == before
  # The mutant: numbers of other rows.
  with mock.patch.object(precomputing, "_ask", rolled(precomputing._ask)):
    assert train(tmp_path, made, "wrong", "--reference=once") != want


def rolled(ask):
  def wrong(*args):
    found = ask(*args)
    for named in found.values():
      for x in named.values():
        x[np.isfinite(x)] = np.roll(x[np.isfinite(x)], 1)
    return found

  return wrong


def test_it_takes_no_memory_while_training(tmp_path):
  """The state of a full run holds nothing frozen."""
  made = experiment(tmp_path, DPO())
  train(tmp_path, made, "run", "--reference=once")
  its = claim.settings(tmp_path / "run")
  assert its.reference == "once"
  mesh = mesh_lib.make(its.mesh)
  model = model_lib.of_shape(model_lib.expected_shape(its))
  with jax.set_mesh(mesh):
    plan = state_plan.make(its, model, mesh)
  assert not jax.tree.leaves(plan.abstract.frozen)
