"""Completions learned from several a row are learned from as each alone."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.data.conversations import Conversations
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Ptx
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives import dpo, group
from llm_jax.objectives.ppo import PPO
from llm_jax.peft.lora import LoRA
from llm_jax.sharding import mesh as mesh_lib
from tests import command, drawing

ONE = {"mesh": mesh_lib.MeshShape(1, 1, 1), "microbatches": 1}
STEPS = 2
CASES = {
  "own critic": {
    "objective": PPO(
      whiten_rewards=True, whiten="minibatch", entropy=0.1, kl=0.1
    )
  },
  "shared critic": {"objective": PPO(critic="shared", terminal="last")},
  # One ratio a completion; other rows beside; a reference without a copy.
  "sequences": {"objective": group.gspo(4), "beside": True, "peft": LoRA()},
  "pairs": {"objective": dpo.DPO(), "pair_of": 2},
}


def experiment(home, packing, pair_of=0, beside=False, **changes):
  """Prompts and completions of many lengths, which end early."""
  rows = [
    json.dumps({"prompt": "a" * (1 + i % 9), "completion": f"{i}"})
    for i in range(60)
  ]
  path = command.text_file(home, "rows.jsonl", rows)
  its = drawing.experiment(home, judge=drawing.lively(home), **changes)
  if beside:
    lines = Files(paths=(str(command.text_file(home)),), split_by="line")
    text = Text(sources=(lines,), length=16, cache=str(home / "cache"))
    its = dataclasses.replace(its, ptx=(Ptx(text, 0.5),))
  return dataclasses.replace(
    its,
    model=dataclasses.replace(its.model, max_length=64),
    data=dataclasses.replace(
      its.data, sources=(Conversations(paths=(str(path),)),)
    ),
    rollouts=Rollouts(
      batch=16,
      epochs=2,
      max_new_tokens=30,
      max_prompt=24,
      widths=1,
      packing=packing,
      pair_of=pair_of,
    ),
  )


def update(home, its):
  """({name: number or weights}, packed rows of each minibatch)."""
  found, rows = {}, []
  with drawing.begun(home, its) as (_, run):
    state = run.state
    for step in range(STEPS):
      before = run.source.get_state()
      batch = run.source.next(state)
      if step:  # in the middle of an update it begins anew
        run.source.set_state(before)
        again = run.source.next(state)
        jax.tree.map(np.testing.assert_array_equal, dict(again), dict(batch))
      rows.append(len(batch.get("place_BT", ())))
      state, metrics = run.step(state, batch)
      found |= {f"{step}/{k}": float(m.compute()) for k, m in metrics.items()}
    found |= {p: np.asarray(x) for p, x in trees.paths(state.trainable)}
  found.pop("0/accuracy", None)  # of margins that are 0
  return found, rows


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def alone(home):
  """Case -> what it is with a row for each completion."""

  @functools.cache
  def of(name):
    found, rows = update(home, experiment(home, 0, **CASES[name], **ONE))
    assert not any(rows)
    return found

  return of


def close(found, want):
  assert found.keys() == want.keys()
  for name, x in want.items():
    np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_packed_is_alone(name, home, alone):
  """Loss, all metrics, and weights after gradients."""
  found, rows = update(home, experiment(home, 4, **CASES[name], **ONE))
  assert all(0 < r <= 6 for r in rows)  # of 8
  close(found, alone(name))


def test_no_mesh_and_no_microbatches_change_it(home, alone):
  """Rows stay on their devices and in their microbatches."""
  cut = {"mesh": mesh_lib.MeshShape(1, 2, 2), "microbatches": 2}
  its = experiment(home, 2, **CASES["own critic"], **cut)
  found, rows = update(home, its)
  assert 4 in rows
  close(found, alone("own critic"))
