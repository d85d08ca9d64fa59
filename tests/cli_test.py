"""The command line: verbs, help and the folder that they leave."""

import json
import pathlib
import shutil
import threading

import pytest

from llm_jax import claim, cli, config
from llm_jax.reporting import files
from tests import command


@pytest.fixture(name="folder")
def run_that_has_ended(tmp_path, tmp_path_factory):
  """A folder that holds text, cache and run, to do anything with."""
  there = command.trained(tmp_path_factory)
  return shutil.copytree(there, tmp_path / "copy")


def test_train_leaves_the_run_folder_of_the_contract(folder):
  run = folder / "run"
  about = json.loads((run / "experiment.json").read_text())
  assert about["name"] == "smallest"
  assert about["environment"]["packages"]["jax"]
  again = config.from_json(about["settings"])
  assert pathlib.Path(again.workdir).name == "run" and again.steps == 2
  rows = files.Rows(run / "metrics.jsonl").read()
  steps = [(r["step"], r["split"]) for r in rows]
  assert steps == [(1, "train"), (2, "train"), (2, "validation")]
  assert (run / "checkpoints").is_dir() and (run / "samples").is_dir()
  assert not list(run.rglob("*.partial"))


def test_trained_again_there_is_nothing_to_do(folder):
  before = (folder / "run/metrics.jsonl").read_bytes()
  (path,) = claim.settings(folder / "run").data.sources[0].paths
  said = command.call("train", *command.train_flags(folder, path))
  assert said.code == 0 and "after step 2" in said.err
  assert (folder / "run/metrics.jsonl").read_bytes() == before


def test_evaluate_writes_a_table_and_a_file(folder):
  run = folder / "run"
  said = command.call("evaluate", f"--workdir={run}")
  assert said.code == 0, said.err
  assert "kneser_ney_5" in said.out and "bits/byte" in said.out
  found = json.loads((run / "evaluation.json").read_text())
  assert found["checkpoint_step"] == 2 and found["split"] == "validation"
  said = command.call(
    "evaluate", f"--workdir={run}", "--novalidation.baselines"
  )
  assert said.code == 0 and "kneser_ney_5" not in said.out


def test_evaluate_takes_the_run_s_settings_but_for_the_flags(folder):
  """The file of the experiment has other numbers than the run."""
  run = folder / "run"
  other = config.from_json(config.to_json(command.PIECES))
  said = command.call(
    "evaluate",
    f"--workdir={run}",
    "--batch_size=16",
    "--novalidation.baselines",
    experiment=other,
  )
  assert said.code == 0, said.err


def test_generate_continues_prompts(folder, tmp_path):
  run = folder / "run"
  flags = [f"--workdir={run}", "--samples.max_new_tokens=3"]
  said = command.call("generate", *flags, "--prompt=line 1")
  assert said.code == 0, said.err
  assert said.out.startswith("line 1")
  path = tmp_path / "prompts.txt"
  path.write_text("line\x0b2\nline 3\n", encoding="utf-8")
  said = command.call(
    "generate", *flags, f"--prompts_file={path}", "--prompt=a", "--prompt=b"
  )
  assert said.code == 0, said.err
  for i, prompt in enumerate(("a", "b", "line\x0b2", "line 3")):
    assert f"--- {i}\n{prompt}" in said.out
  assert "--- 4" not in said.out


def test_a_run_that_cannot_start_leaves_no_bar(tmp_path):
  def bars():
    return {t for t in threading.enumerate() if t.name == "bar"}

  before = bars()
  flags = command.train_flags(tmp_path)
  said = command.call("train", *flags, "--data.validation=0")
  assert said.code == 2 and "--data.validation" in said.error
  left = bars() - before
  for bar in left:
    bar.join(1)
  assert not any(bar.is_alive() for bar in left)


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_ctrl_c_is_told_in_a_line(monkeypatch, verb):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(cli, "_run_verb", interrupted)
  said = command.call(verb)
  assert said.code == 130 and said.err.startswith("interrupted")
  assert ("the same command goes on" in said.err) == (verb == "train")


def test_show_and_plan(tmp_path):
  said = command.call("show", "--model.embed_dim=16")
  assert said.code == 0, said.err
  assert "--model.embed_dim=16" in said.out
  assert "policy/params/embed" in said.out
  said = command.call("plan")
  assert said.code == 0, said.err
  assert "bytes a device: all" in said.out


@pytest.mark.parametrize("asked", [["--help"], ["train", "-h"], ["help"]])
def test_help_is_a_manual(asked):
  said = command.call(*asked)
  assert said.code == 0 and not said.err
  for verb in cli.VERBS:
    assert f"\n  {verb} " in said.out
  for leaf in config.leaves(command.EXPERIMENT):
    assert f"--{leaf.name}={leaf.value!r}\n      {leaf.help}" in said.out
  for flag in cli.READ_BY:
    assert f"\n  --{flag}\n" in said.out
  assert "repeat this option" not in said.out  # absl's own words


def test_a_prompt_that_looks_like_help_is_a_prompt(folder):
  said = command.call(
    "generate", f"--workdir={folder / 'run'}", "--prompt", "help"
  )
  assert said.code == 0 and said.out.startswith("help")


def test_a_base_brings_its_tokenizer(folder):
  """A flag that nobody would read is refused, and only that."""
  begin = ["train", f"--init_from={folder / 'run'}", "--steps=0"]
  begin += [f"--workdir={folder / 'new'}"]
  flag = "--tokenizer.vocab_size=300"
  said = command.call(*begin, flag, experiment=command.PIECES)
  assert said.code == 2 and not (folder / "new").exists()
  assert "--tokenizer.vocab_size: the run in --init_from=" in said.error
  said = command.call(*begin, experiment=command.PIECES)  # the mutant
  assert "has its tokenizer" not in said.err
