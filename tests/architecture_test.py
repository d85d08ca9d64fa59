"""Who may import whom, what a start loads, and how long a file may be."""

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "llm_jax"
DOORS = {
  "upath": {"storage"},
  "fsspec": {"storage"},
  "flax": {"axes", "models"},
  "optax": {"training"},
  "orbax": {"checkpoints"},
  "tensorstore": {"checkpoints"},
  "grain": {"data"},
  "tensorflow_datasets": {"data"},
  "pyarrow": {"data"},
  "sentencepiece": {"tokenizers"},
  "tokenizers": {"tokenizers"},
  "safetensors": {"interop"},
  "absl": {"config", "cli", "command_flags"},
  "rich": {"reporting"},
  "tensorboardX": {"reporting"},
  "matplotlib": {"reporting"},
  "jinja2": {"data", "reporting"},
}
ROOMS = sorted(
  p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()
)
ROOMS = [room for room in ROOMS if room != "ops"]
# What a wrong flag or --help must not wait for.
SLOW = {
  "grain",
  "jinja2",
  "matplotlib",
  "pyarrow",
  "tensorboardX",
  "tensorflow",
  "tensorflow_datasets",
}
LONGEST = 450


def imports(path: pathlib.Path):
  """Modules that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: imports are absolute"
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken(package: pathlib.Path):
  """(file, module) of each import through a wall."""
  found = set()
  for path in package.rglob("*.py"):
    inside = path.relative_to(package)
    place = inside.parts[0].removesuffix(".py")
    for module in imports(path):
      top, _, rest = module.partition(".")
      if place not in DOORS.get(top, {place}):
        found.add((inside.as_posix(), top))
      other = rest.split(".")[0]
      if top == "llm_jax" and place in ROOMS and other in ROOMS:
        if other != place:
          found.add((inside.as_posix(), f"llm_jax.{other}"))
  return found


def test_rooms_do_not_know_each_other_and_use_only_their_doors():
  assert broken(PACKAGE) == set()


def copy(folder):
  for package in ("llm_jax", "launch"):
    shutil.copytree(
      ROOT / package,
      folder / package,
      ignore=shutil.ignore_patterns("__pycache__"),
    )
  shutil.copy(ROOT / "pyproject.toml", folder)


MUTANTS = [
  (
    "objectives/causal.py",
    "from llm_jax.models import norms",
    "llm_jax.models",
  ),
  ("generation/text.py", "def f():\n  import llm_jax.data", "llm_jax.data"),
  ("evaluation/likelihood.py", "import flax.linen as nn", "flax"),
  ("models/mlp.py", "import optax", "optax"),
  ("reporting/hooks.py", "from orbax import checkpoint", "orbax"),
]


def lint(folder):
  """Whether import-linter's contracts hold for the package in a folder."""
  command = shutil.which("lint-imports", path=os.path.dirname(sys.executable))
  if command is None:
    pytest.skip("import-linter is not installed")
  return subprocess.run(
    [command, "--no-cache"],
    cwd=folder,
    env=dict(os.environ, PYTHONPATH=str(folder)),
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize("file,line,named", MUTANTS)
def test_mutant_an_import_through_a_wall_is_caught(file, line, named, tmp_path):
  copy(tmp_path)
  path = tmp_path / "llm_jax" / file
  path.write_text(path.read_text() + f"\n{line}\n")
  assert broken(tmp_path / "llm_jax") == {(file, named)}
  done = lint(tmp_path)
  assert done.returncode == 1, done.stdout
  assert "1 broken" in done.stdout and named in done.stdout


@pytest.mark.parametrize(
  "line", ["from llm_jax import build", "import experiments", "import jax"]
)
def test_mutant_a_launch_that_knows_more_than_names_is_caught(line, tmp_path):
  copy(tmp_path)
  path = tmp_path / "launch" / "gke.py"
  path.write_text(path.read_text() + f"\n{line}\n")
  done = lint(tmp_path)
  assert done.returncode == 1, done.stdout
  assert "1 broken" in done.stdout and "launch.gke" in done.stdout


def test_the_contracts_hold(tmp_path):
  copy(tmp_path)
  done = lint(tmp_path)
  assert done.returncode == 0, done.stdout
  assert " 0 broken" in done.stdout


def test_ground_imports_ground_only():
  ground = {"axes", "config", "host", "keys", "trees"}
  for place in (*ground, "contracts"):
    inside = {
      m.split(".")[1]
      for m in imports(PACKAGE / f"{place}.py")
      if "llm_jax." in m
    }
    assert inside <= (ground | {"ops"} if place == "contracts" else ground), (
      place
    )
  for path in (PACKAGE / "ops").glob("*.py"):
    inside = {m.split(".")[1] for m in imports(path) if "llm_jax." in m}
    assert inside <= ground | {"ops"}, path


def test_no_file_is_long():
  lengths = {
    path.relative_to(ROOT): len(path.read_text().splitlines())
    for folder in (PACKAGE, ROOT / "experiments", ROOT / "launch")
    for path in folder.rglob("*.py")
  }
  assert lengths
  assert {p: n for p, n in lengths.items() if n > LONGEST} == {}


LOADED = """
import contextlib, io, json, runpy, sys
sys.argv = ["x", *ARGS]
out = io.StringIO()
try:
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    runpy.run_module("experiments.pretrain_tiny_stdlib", run_name="__main__")
except SystemExit as e:
  code = e.code
from jax._src import xla_bridge
tops = sorted({m.split(".")[0] for m in sys.modules})
print(json.dumps([code, tops, bool(xla_bridge._backends)]))
"""


@pytest.mark.parametrize("args,code", [("--help", 0), ("train --stepz=3", 2)])
def test_a_start_that_goes_nowhere_loads_little(args, code, tmp_path):
  script = LOADED.replace("ARGS", repr(args.split()))
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=tmp_path,
    env=dict(os.environ, PYTHONPATH=str(ROOT)),
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  got, tops, has_device = json.loads(done.stdout)
  assert got == code
  assert "llm_jax" in tops  # the list is no empty one
  assert not SLOW & set(tops)
  assert not has_device


def drawn(text: str):
  """Files of the package in the README's tree, with their folders."""
  tree = text.split("```\nllm_jax/\n")[1].split("```")[0]
  found, folder = set(), ""
  for line in tree.splitlines():
    name = line.split()[0] if line.strip() else ""
    indent = len(line) - len(line.lstrip())
    if name.endswith("/"):
      folder = name if indent == 2 else None
    elif name.endswith(".py") and folder is not None:
      found.add((folder if indent == 4 else "") + name)
  return found


def test_the_readme_draws_every_file():
  text = (ROOT / "README.md").read_text()
  there = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
  there = {p for p in there if not p.endswith("__init__.py")}
  assert drawn(text) == there
  # Mutant: a file that moved.
  assert drawn(text.replace("    heads.py ", "  heads.py ")) != there
