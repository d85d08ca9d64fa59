"""Every objective on every kind of family: it runs, or is refused in a line.

What runs gives on eight devices what it gives on one; and stopped there and
started again what it gives in one go, to the last bit. The table is the
README's.
"""

import dataclasses
import pathlib
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import build, checks, cuts, trees
from llm_jax.checkpoints.store import Store
from llm_jax.sharding import mesh as mesh_lib
from tests import command, drawing, matrix

NOT_TOLD = "--model.sees=all: a position sees the next token, which "
DRAWS_ALL = "--model.sees=all: {} learns from what it draws, where a token"
BOTH_SIDES = "is told from both sides; all"
NO_SOURCE = "its rows have no source for an encoder-decoder to read"
APART = ("encoder-decoder", "recurrent encoder-decoder")
_no_source = lambda what: dict.fromkeys(APART, f"({what}): {NO_SOURCE}")
REFUSED = {
  "causal": {"encoder": NOT_TOLD, **_no_source("Plain")},
  "masked": {
    **dict.fromkeys(("decoder", "experts"), BOTH_SIDES),
    "recurrent": "recurrent models see what came before; Spans",
    **_no_source("Masked"),
  },
  **dict.fromkeys(
    ("spans", "prefix", "mixture", "sft", "pairs", "spin", "kto"),
    {"encoder": NOT_TOLD},
  ),
  **{
    name: {
      "encoder": DRAWS_ALL.format(kind),
      **dict.fromkeys(
        APART, f"({kind}): learns from what a decoder alone draws"
      ),
    }
    for name, kind in (("ppo", "PPO"), ("grpo", "Group"), ("online dpo", "DPO"))
  },
}
# Of the README's table.
WORDS = {
  "text: `Causal`": ("causal",),
  "what was masked: `Masked`": ("masked",),
  "what was taken out: `Spans`, `PrefixLM`, `Mixture`": (
    *("spans", "prefix", "mixture"),
  ),
  "answers: `Instructions`": ("sft",),
  "pairs and likes: DPO and its kin, KTO, SPIN": (*("pairs", "spin", "kto"),),
  "rewards and classes of completions: `Ranking`, `Classification`": (
    *("ranking", "classes"),
  ),
  "texts: `Examples`": ("text classes", "sets", "numbers"),
  "words and answers in a text: `Tags`, `Passages`": ("tags", "passages"),
  "what it draws: PPO, groups, online pairs": ("ppo", "grpo", "online dpo"),
}
CELLS = [
  (kind, objective)
  for objective in matrix.OBJECTIVES
  for kind in matrix.KINDS
  if kind not in REFUSED.get(objective, {})
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return command.made_once(tmp_path_factory, "matrix", matrix.write)


def two_steps(its, folder, saves=False):
  """{name: array}: what the steps that are left tell and leave."""
  checks.settings(its)
  found = {}
  with drawing.begun(folder, its) as (its, run):
    cuts.share(its, mesh_lib.make(its.mesh))
    state = run.state
    for at in range(int(state.step), its.steps):
      state, metrics = run.step(state, run.source.next(state))
      for name, mean in metrics.items():
        found[f"{at} {name}"] = np.asarray(mean.compute())
      if saves and not at:
        run.save.act(1, state)
    run.store.wait()
    for part in (state.trainable, state.average):
      found |= {path: np.asarray(x) for path, x in trees.paths(part)}
  return found


def goes_on(its, folder, wanted):
  """What is not as it was, once the step after the first is done again."""
  found = two_steps(its, folder)
  assert all(name in wanted for name in found)
  return [n for n in found if not np.array_equal(found[n], wanted[n])]


def farthest(found, wanted):
  assert found.keys() == wanted.keys()
  return max(np.abs(found[n] - wanted[n]).max() for n in wanted)


@pytest.mark.parametrize(("kind", "objective"), CELLS)
def test_it_runs(kind, objective, home, tmp_path):
  alone = matrix.experiment(home, kind, objective)
  its = dataclasses.replace(alone, mesh=matrix.MESHES[kind])
  found = two_steps(its, tmp_path, saves=True)
  assert np.isfinite(found["1 loss"])
  assert found["0 grad_norm"] + found["1 grad_norm"] > 0  # groups may tie once
  assert goes_on(its, tmp_path, found) == []
  assert farthest(two_steps(alone, tmp_path / "alone"), found) < 1e-10


@pytest.mark.parametrize(
  ("kind", "objective"),
  [(kind, objective) for objective, its in REFUSED.items() for kind in its],
)
def test_it_is_refused(kind, objective, home, tmp_path):
  said = command.refused(
    tmp_path,
    "train",
    f"--workdir={tmp_path / 'run'}",
    experiment=matrix.experiment(home, kind, objective),
  )
  assert REFUSED[objective][kind] in said


@pytest.fixture(scope="module")
def known(home, tmp_path_factory):
  """A cell of the table, and what it gives."""
  its = matrix.experiment(home, "decoder", "causal")
  its = dataclasses.replace(its, mesh=matrix.MESHES["decoder"])
  folder = tmp_path_factory.mktemp("known")
  return its, folder, two_steps(its, folder, saves=True)


def _without_moments(self, abstract, restore=Store.restore):
  step, state, position = restore(self, abstract)
  zero = lambda x: 0 * x if x.ndim else x
  opt_state = jax.tree.map(zero, state.opt_state)
  return step, dataclasses.replace(state, opt_state=opt_state), position


@pytest.mark.parametrize(
  "forgets",
  [
    (build._Placed, "set_state", lambda self, saved: None),
    (Store, "restore", _without_moments),
  ],
  ids=["position", "moments"],
)
def test_what_is_forgotten_is_seen(forgets, known):
  """Mutants."""
  its, folder, wanted = known
  with mock.patch.object(*forgets):
    assert goes_on(its, folder, wanted)


def test_devices_that_read_the_same_rows_are_seen(known, tmp_path):
  """The mutant: each share of the batch is the first one."""
  its, _, wanted = known

  def same(batch, mesh, place=mesh_lib.place):
    halves = {k: x[: len(x) // 2] for k, x in batch.items()}
    return place({k: np.concatenate([x, x]) for k, x in halves.items()}, mesh)

  with mock.patch.object(mesh_lib, "place", same):
    assert farthest(two_steps(its, tmp_path), wanted) > 1e-3


def test_the_readme_has_this_table():
  text = pathlib.Path(__file__).parents[1] / "README.md"
  wanted = [
    "| {} | {} |".format(words, " | ".join(told(names)))
    for words, names in WORDS.items()
  ]
  assert sorted(x for names in WORDS.values() for x in names) == sorted(
    matrix.OBJECTIVES
  )
  assert "\n".join(wanted) in text.read_text()


def told(names):
  """Which kinds all of these run on; the others they are refused on."""
  runs = {n: {kind for kind, its in CELLS if its == n} for n in names}
  (same,) = {frozenset(its) for its in runs.values()}
  return ["yes" if kind in same else "" for kind in matrix.KINDS]
