"""Adapters on the command line: put on, mixed in a batch, stacked, merged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from llm_jax.experiment import Validation
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full
from llm_jax.peft.prompts import Prompt
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule
from tests import command

METHODS = {
  "lora": LoRA(rank=2),
  "ia3": IA3(),
  "prompt": Prompt(tokens=4),
  "bottlenecks": Bottlenecks(width=2),
}


def experiment(method, seed=0, **changes):
  """On the base, with steps so large that the text changes."""
  samples = dataclasses.replace(
    command.EXPERIMENT.samples,
    every=0,
    max_new_tokens=6,
    sampler=Sampler(temperature=0.0),
  )
  return dataclasses.replace(
    command.EXPERIMENT,
    peft=method,
    optimizer=AdamW(peak=3.0, schedule=Schedule("constant", warmup=0)),
    mesh=MeshShape(1, 1, 1),
    validation=Validation(every=0, batches=1, baselines=False),
    samples=samples,
    seed=seed,
    **changes,
  )


def flags(there, workdir):
  return [f"--workdir={workdir}", *command.train_flags(there)[1:]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A folder of a base and a run of each method on it."""
  there = command.trained(tmp_path_factory)
  folder = tmp_path_factory.mktemp("runs")
  for seed, (name, method) in enumerate(METHODS.items()):
    said = command.call(
      "train",
      *flags(there, folder / name),
      f"--init_from={there / 'run'}",
      experiment=experiment(method, seed),
    )
    assert said.code == 0, said.err
  (folder / "base").symlink_to(there / "run")
  return folder


def another(runs, there, name):
  """A run without steps beside the others, made once."""
  folder = runs / name
  if not folder.exists():
    more = ["--model.embed_dim=16"] if name == "wider" else ["--seed=5"]
    made = command.call(
      "train",
      *flags(there, folder),
      *("--steps=0", "--samples.every=0", "--validation.every=0"),
      *more,
    )
    assert made.code == 0, made.err
  return folder


def generate(runs, where, *adapters, prompts=("a", "line 7")):
  said = command.call(
    "generate",
    f"--workdir={runs / where}",
    "--samples.max_new_tokens=6",
    "--samples.sampler.temperature=0",
    *(f"--prompt={p}" for p in prompts),
    *(f"--adapter={a}" for a in adapters),
  )
  assert said.code == 0, said.err
  return [part.partition("\n")[2] for part in said.out.split("--- ")[1:]]


@pytest.fixture(scope="module")
def alone(runs):
  return {name: generate(runs, name) for name in ("base", *METHODS)}


def test_the_runs_differ(alone):
  """Else the laws below would hold of adapters never read."""
  for name in set(METHODS) - {
    "prompt"
  }:  # it says too little to so small a base
    assert alone[name] != alone["base"], name


def test_an_adapter_is_put_on_the_base(runs, alone):
  for name in METHODS:
    assert generate(runs, "base", runs / name) == alone[name]
  assert generate(runs, "lora", "none") == alone["base"]
  assert generate(runs, "lora", runs / "ia3") == alone["ia3"]


def train(runs, where, method, **changes):
  said = command.call(
    "train",
    *flags(where, where / "run"),
    f"--init_from={runs / changes.pop('base')}",
    experiment=experiment(method, **changes),
  )
  assert said.code == 0, said.err


def test_a_run_begins_with_the_adapters_of_another(runs, alone, tmp_path):
  train(runs, tmp_path, Full(), base="lora", steps=0)
  assert generate(tmp_path, "run") == alone["lora"] != alone["base"]


def test_an_adapter_is_its_moving_average(runs, alone, tmp_path):
  train(runs, tmp_path, METHODS["lora"], base="base", average=0.9)
  want = generate(tmp_path, "run")
  assert generate(runs, "base", tmp_path / "run") == want
  assert want != alone["lora"]  # what the last step left


def test_what_only_training_reads_may_differ(runs, alone, tmp_path):
  """A base trained with dropout, and adapters without it."""
  folder = tmp_path / "base"
  shutil.copytree(runs / "base", folder)
  path = folder / "experiment.json"
  about = json.loads(path.read_text())
  about["settings"]["model"] |= {"dropout": 0.1, "init_std": 0.5}
  path.write_text(json.dumps(about))
  assert generate(tmp_path, "base", runs / "lora") == alone["lora"]


def test_each_row_has_its_own_adapter(runs, alone):
  names = ("lora", "none", "ia3", "bottlenecks")
  given = [n if n == "none" else runs / n for n in names]
  got = generate(runs, "base", *given)
  want = [alone["base" if n == "none" else n] for n in names]
  assert got == [w[i] for i in range(2) for w in want]


def test_merged_is_unmerged(runs, alone, tmp_path):
  for name in ("lora", "ia3"):
    into = tmp_path / name
    said = command.call("merge", f"--workdir={runs / name}", f"--into={into}")
    assert said.code == 0, said.err
    assert generate(tmp_path, name) == alone[name]
    results = [
      command.call("evaluate", f"--workdir={folder / name}")
      for folder in (tmp_path, runs)
    ]
    assert [r.code for r in results] == [0, 0], results[0].err
    rows = [r.out.splitlines()[2].split()[1:] for r in results]
    np.testing.assert_allclose(*(np.array(r, float) for r in rows), rtol=1e-4)
  again = command.call("merge", f"--workdir={runs / name}", f"--into={into}")
  assert again.code == 2 and "is there already" in again.error


@pytest.mark.parametrize(
  ("where", "adapter", "said"),
  [
    ("base", "base", "trained weights of the base itself"),
    ("base", "nowhere", "holds no run"),
    ("base", "bottlenecks+bottlenecks", "cannot be stacked"),
    ("other", "lora", "first weight to differ is policy/params/"),
    ("wider", "lora", "of another model: embed_dim"),
  ],
)
def test_a_wrong_adapter_is_told(runs, where, adapter, said, tmp_path):
  folder = runs / where
  if where in ("other", "wider"):
    another(runs, tmp_path, where)
  given = "+".join(str(runs / name) for name in adapter.split("+"))
  found = command.call(
    "generate",
    f"--workdir={folder}",
    "--samples.max_new_tokens=2",
    "--prompt=a",
    f"--adapter={given}",
  )
  assert found.code == 2
  assert said in found.error


@pytest.mark.parametrize(
  ("method", "changes", "more", "said"),
  [
    (LoRA(targets=("atention/*",)), {}, [], "--peft.targets=atention/*"),
    (LoRA(), {}, ["--init_from={wider}"], "is [1, 16, 2, 8] there"),
    (
      LoRA(),
      {},
      ["--init_from={wider}", "--model.activation=geglu"],
      "--model.activation=geglu: the weights of --init_from=",
    ),
    (Prompt(tokens=17), {}, [], "--peft.tokens=17"),
    (command.EXPERIMENT.peft, {"frozen": "int8"}, [], "--frozen=int8"),
  ],
)
def test_bad_settings_are_told(method, changes, more, said, tmp_path, request):
  wider = ""
  if more:
    wider = another(request.getfixturevalue("runs"), tmp_path, "wider")
  found = command.call(
    "train",
    *flags(tmp_path, tmp_path / "run"),
    *(flag.format(wider=wider) for flag in more),
    experiment=experiment(method, **changes),
  )
  assert found.code == 2
  assert said in found.error
  assert more or not (tmp_path / "cache").exists()  # before data are prepared


def test_what_cannot_be_merged_is_no_beginning(runs, tmp_path):
  found = command.call(
    "train",
    *flags(tmp_path, tmp_path / "run"),
    f"--init_from={runs / 'prompt'}",
    experiment=experiment(LoRA()),
  )
  assert found.code == 2
  assert f"--init_from={runs / 'prompt'}: prompt: cannot be" in found.error
  assert not (tmp_path / "run").exists()


def test_what_cannot_be_merged_is_told(runs, tmp_path):
  for name, said in (
    ("prompt", "prompt: cannot be merged"),
    ("bottlenecks", "cannot be merged"),
    ("base", "nothing to merge"),
  ):
    into = tmp_path / name
    found = command.call("merge", f"--workdir={runs / name}", f"--into={into}")
    assert found.code == 2 and said in found.error
    assert not into.exists()
