"""The table of details follows the settings; the docs follow both."""

import dataclasses
import json
import pathlib
import re
from types import SimpleNamespace
from typing import get_args, get_origin, Literal

import jax
import numpy as np
import pytest

from llm_jax import (
  config,
  details,
  mixing,
  on_policy,
  reinforcing,
  state_plan,
)
from llm_jax import model as model_lib
from llm_jax.contracts import Verdict
from llm_jax.data.arrays import Arrays
from llm_jax.data.instructions import Instructions
from llm_jax.details import DETAILS
from llm_jax.experiment import Experiment, Ptx
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives import group
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.ppo import PPO
from llm_jax.reporting import hooks
from llm_jax.sharding import mesh as mesh_lib
from tests import command, small

TESTS = pathlib.Path(__file__).parent
DOCS = (TESTS.parent / "docs/reinforcement_learning.md").read_text()


def changed(settings, name, value):
  """Settings with another value of a leaf."""
  first, _, rest = name.partition(".")
  if rest:
    value = changed(getattr(settings, first), rest, value)
  return dataclasses.replace(settings, **{first: value})


def other(leaf):
  """Another value that a leaf may have."""
  if get_origin(leaf.hint) is Literal:
    return next(x for x in get_args(leaf.hint) if x != leaf.value)
  if isinstance(leaf.value, bool):
    return not leaf.value
  if isinstance(leaf.value, int):
    return 2 * leaf.value + 1
  if isinstance(leaf.value, float):
    return leaf.value / 2 + 0.125
  return None if isinstance(leaf.value, str) else 1.5


def rows(experiment):
  """{how it is here: what the recipe has}."""
  return {here: said for *_, said, here in details.table(experiment)}


def test_all_27_are_there_in_order():
  assert [d.number for d in DETAILS] == list(range(1, 28))
  assert all(d.settings or d.always for d in DETAILS)
  numbers = [int(n) for n, *_ in details.table(details.RECIPE) if n]
  assert numbers == list(range(1, 28))


SETTINGS = [name for detail in DETAILS for name in detail.settings]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_shown_as_it_is(name):
  (leaf,) = [x for x in config.leaves(details.RECIPE) if x.name == name]
  base = details.RECIPE
  if name == "shaping.centre":  # which needs it
    base = changed(base, "shaping.scale", "running")
  before, value = rows(base), other(leaf)
  after = rows(changed(base, name, value))
  (new,) = [x for x in after if x.startswith(f"--{name}=")]
  assert new not in before
  assert (
    new.partition("=")[2] == str("none" if value is None else value).lower()
  )
  (old,) = [x for x in before if x.startswith(f"--{name}=")]
  if name in details._FREE:
    assert before[old] == after[new] == ""
  else:
    assert before[old] == "as the recipe"
    assert after[new] == "recipe: " + old.partition("=")[2]
  assert set(after) - set(before) == {new}  # and nothing else


def test_defaults_are_the_recipe_where_it_is_about_the_method():
  """How much is drawn, and how fast is learned, is the experiment's."""
  plain = Experiment(objective=PPO(), rollouts=Rollouts())
  unlike = {
    here.partition("=")[0]
    for here, said in rows(plain).items()
    if said.startswith("recipe: ")
  }
  theirs = ("--optimizer.", "--rollouts.", "--batch_size", "--value_from")
  assert all(name.startswith(theirs) for name in unlike), unlike
  assert "--rollouts.epochs" not in unlike
  assert "--rollouts.sampler.temperature" not in unlike


def test_any_reward_model_is_the_critics_beginning():
  found = rows(dataclasses.replace(details.RECIPE, value_from="runs/mine"))
  assert found["--value_from=runs/mine"] == "as the recipe"


def test_what_a_method_does_not_have_is_told():
  grpo = dataclasses.replace(details.RECIPE, objective=group.grpo())
  assert rows(grpo)["--objective.lam: Group has none"] == ""


@pytest.mark.parametrize("detail", DETAILS, ids=lambda d: str(d.number))
def test_what_is_always_so_is_shown_by_a_test_that_there_is(detail):
  if not detail.shown_by:
    assert detail.settings or "that run" in detail.always
    return
  file, _, name = detail.shown_by.partition("::")
  assert f"def {name}(" in (TESTS / file).read_text()


def test_show_prints_them_for_who_draws_and_for_nobody_else():
  draws = dataclasses.replace(
    command.EXPERIMENT,
    objective=PPO(),
    data=Instructions(),
    model=dataclasses.replace(command.EXPERIMENT.model, outputs=1),
  )
  said = command.call("show", "--shaping.beta=0.25", experiment=draws).out
  assert "recipe: 0.05" in said and "--shaping.beta=0.25\n" in said
  assert "27  sanity" in said
  plain = dataclasses.replace(draws, objective=Causal())
  assert "27  sanity" not in command.call("show", experiment=plain).out


def test_the_docs_have_the_table():
  """What is missing can be pasted from the failure."""
  lines = DOCS.splitlines()
  for d in DETAILS:
    flags = ", ".join(f"`--{name}`" for name in d.settings)
    proof = f"`{d.shown_by}`" if d.shown_by else ""
    row = f"| {d.number} | {d.name} | {flags} | {d.always} | {proof} |"
    assert row in lines, row


def test_each_flag_of_the_docs_is_one():
  ppo = dataclasses.replace(details.RECIPE, ptx=(Ptx(),))
  named = {leaf.name for leaf in config.leaves(ppo)}
  found = set(re.findall(r"--([a-z_0-9.]+[a-z0-9])", DOCS))
  assert len(found) > 50 and "rollouts.target_kl" in found
  # Some stand for all that begin so, as in --rollouts.*
  wholes = {name.rpartition(".")[0] for name in named}
  assert found - named <= wholes, found - named - wholes
  assert len(found - named) < 6


def explained():
  """Names of metrics in the docs."""
  table = DOCS.partition("## Metrics")[2]
  found = re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", table, re.MULTILINE)
  assert all(text.endswith(".") for _, text in found)
  names = [name for name, _ in found]
  assert len(names) == len(set(names))
  return set(names)


def zeros(function):
  """Zeros of the shapes that a function has."""
  zero = lambda x: np.zeros(x.shape, x.dtype)
  return lambda *given: jax.tree.map(zero, jax.eval_shape(function, *given))


def logged(objective, folder, **changes):
  """Names in a row of metrics.jsonl; nothing is compiled."""
  its = dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(small.CONFIG, outputs=1),
    objective=objective,
    rollouts=Rollouts(batch=8, max_new_tokens=3, drawings=2),
    batch_size=8,
    **changes,
  )
  model, mesh = model_lib.of_shape(its.model), mesh_lib.make(its.mesh)
  its_text = Arrays(length=4).load()
  with jax.set_mesh(mesh):
    plan = state_plan.make(
      its, model, mesh, reference=objective.needs_reference
    )
    made = reinforcing.functions(its, model, (3,))
    verdict = lambda q: Verdict(
      (0.5,) * its.group, parts=(("NAME", (1.0,) * its.group),)
    )
    source = on_policy.OnPolicy(
      its.rollouts,
      its.shaping,
      objective,
      [on_policy.Prompt((("user", "a"),), [1, 2])],
      on_policy.Functions(zeros(made.draw), zeros(made.score)),
      on_policy.Reward(str, lambda asked: [verdict(q) for q in asked]),
      (0, 0),
      0,
      8,
      its.group,
      mesh,
    )
    others = [its_text.train(8, 0) for _ in its.beside]
    abstract = SimpleNamespace(roles=plan.abstract.roles)
    batch = mixing.Mixing(source, others).next(abstract)
    _, metrics = jax.eval_shape(plan.step, plan.abstract, batch)
  rows = hooks.Metrics(
    folder,
    every=1,
    done=0,
    until=9,
    learning_rate=lambda step: 0.1,
    flops_per_token=1.0,
    devices=1,
    tensorboard=False,
  )
  rows.read(1, dict.fromkeys(metrics, 0.0))
  rows.close()
  (row,) = (folder / "metrics.jsonl").read_text().splitlines()
  return set(json.loads(row)) - {"step", "split"}


def test_each_metric_is_explained(tmp_path):
  """And nothing is explained that nobody logs."""
  ptx = (Ptx(Arrays(length=4)),)
  ppo = logged(PPO(kl=0.1), tmp_path / "ppo", ptx=ptx)
  grpo = logged(group.grpo(4), tmp_path / "grpo")
  assert explained() == ppo | grpo
  assert "flat" in grpo - ppo and "value" in ppo - grpo
