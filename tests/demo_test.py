"""The commands of `make demo`, read and not run."""

import importlib
import pathlib
import shutil
import subprocess

import pytest

from llm_jax import cli, config

ROOT = pathlib.Path(__file__).parents[1]


def commands(folder):
  """(experiment, arguments) of each command that is left to do."""
  shutil.copy(ROOT / "Makefile", folder)
  for name in ("pyproject.toml", "constraints.txt"):
    (folder / name).touch()
  (folder / ".venv").mkdir(exist_ok=True)
  (folder / ".venv/installed").touch()
  found = subprocess.run(
    ["make", "-n", "demo"],
    cwd=folder,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [x.split() for x in found.stdout.splitlines() if " -m exp" in x]
  return [(args[2].partition(".")[2], args[3:]) for args in lines]


def given(name, args):
  """The verb, the settings that it is given, and the other flags."""
  found = importlib.import_module(f"experiments.{name}").EXPERIMENT
  flags = cli._define(found)
  verb = cli._parse(flags, [name, *args], found.draws)
  return verb, config.resolve(found, flags), flags


def test_every_command_is_one(tmp_path):
  found = commands(tmp_path)
  assert [args[0] for _, args in found] == [
    *("train",) * 5,
    *("evaluate",) * 4,
    "compare",
  ]
  trained = []
  for name, args in found:
    verb, experiment, flags = given(name, args)
    read = [experiment.init_from, experiment.value_from, flags.judge]
    read += [flags.kl_from, getattr(experiment.judge, "run", None), *flags.runs]
    if verb == "train":
      trained.append(experiment.workdir)
      assert name == "pretrain_tiny_stdlib" or experiment.init_from in trained
    elif verb == "evaluate":
      assert experiment.workdir in trained
    else:  # all that are asked, and nothing else
      asked = [a for n, a in found if n == name and a[0] == "evaluate"]
      ran = {given(name, args)[1].workdir for args in asked}
      assert ran == set(flags.runs) and len(ran) == 4
    if verb != "evaluate" or flags.kl_from:
      told = {r for r in read if r and r.startswith("runs/demo")}
      assert told <= set(trained), (name, verb)
  with pytest.raises(ValueError, match="unknown flag --validation.bets_of"):
    given("ppo_tiny_stdlib", ["evaluate", "--validation.bets_of=1"])


def test_what_is_done_is_not_done_again(tmp_path):
  everything = commands(tmp_path)
  (tmp_path / "runs/demo").mkdir(parents=True)
  (tmp_path / "runs/demo/1.done").touch()
  (tmp_path / "runs/demo/2.done").touch()
  left = commands(tmp_path)
  assert left == everything[2:] and left[0][0] == "rm_tiny_stdlib"
  for stage in range(3, 7):
    (tmp_path / f"runs/demo/{stage}.done").touch()
  assert commands(tmp_path) == everything[-1:]
  page = tmp_path / "runs/demo/compared/index.html"
  page.parent.mkdir()
  page.touch()
  assert commands(tmp_path) == []
