"""Flags of `python -m launch TARGET`, and what is done with the script."""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from launch import (
  command,
  gke,
  local,
  queued_resource,
  rehearsal,
  revision,
  settings,
  slurm,
  tpu_vm,
)
from launch.settings import READ_BY, Settings, TARGETS
from llm_jax import config

_FORM = (
  "python -m launch TARGET --name=... [--flag=value ...] --"
  " experiments.NAME VERB [--flag=value ...]"
)


def _local(given: Settings) -> local.Local:
  names = [f.name for f in dataclasses.fields(local.Local)]
  return local.Local(**{name: getattr(given, name) for name in names})


def _render_local(given: Settings, words: list[str], revision: str) -> str:
  del revision  # the code is here
  return local.render(_local(given), command.in_runs(given, words))


# The experiment's command line, as the target gives it.
_WORDS = {
  "local": command.in_runs,
  "tpu-vm": command.in_bucket,
  "queued-resource": command.in_bucket,
  "gke": command.in_bucket,
  "slurm": slurm.in_folder,
}


RENDER = {
  "local": _render_local,
  "tpu-vm": tpu_vm.render,
  "queued-resource": queued_resource.render,
  "gke": gke.render,
  "slurm": slurm.render,
}


def main(argv: list[str]) -> int:
  """Prints the script, or with --go runs it; returns its exit code."""
  try:
    return _main(argv)
  except BrokenPipeError:  # `| head` has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except ValueError as e:
    print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
    return 2
  except OSError as e:
    where = e.filename or "what it prints"
    print(f"error: {where}: {e.strerror or e}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130


def render(
  target: str, given: Settings, words: list[str], root: pathlib.Path
) -> str:
  """The script that does it.

  Args:
    target: one of `TARGETS`.
    given: the settings.
    words: what stands after `--`.
    root: of the repository.

  Raises:
    ValueError: what cannot be launched, in one line.
  """
  settings.check(given, target)
  command.check(words, root, target)
  if target == "local":
    local.check(_local(given))
  rehearsal.hold(
    _WORDS[target](given, words), rehearsal.there(given, target), root
  )
  sent = "" if target == "local" else revision.of(root, given.dirty)
  return RENDER[target](given, words, sent)


def _main(argv: list[str]) -> int:
  ours, words = argv[1:], []
  if "--" in ours:
    at = ours.index("--")
    ours, words = ours[:at], ours[at + 1 :]
  target, ours = _target(ours)
  if {"--help", "-h"} & set(ours) or not target:
    print(_manual(target), flush=True)
    return 0
  given = _parse(target, [argv[0], *ours])
  root = pathlib.Path(__file__).parent.parent
  text = render(target, given, words, root)
  if not given.go:
    print(text, end="", flush=True)
    print("launch: nothing was done; --go does it", file=sys.stderr)
    return 0
  if target == "local":
    return local.run(_local(given), command.in_runs(given, words))
  return run(text, root)


def run(text: str, root: pathlib.Path) -> int:
  """Runs a script with bash; nothing else."""
  if shutil.which("bash") is None:
    raise ValueError("bash is not installed; the script is run by it")
  with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
    file.write(text)
    file.flush()
    process = subprocess.Popen(["bash", file.name], cwd=root)
    # The script has had the key, too, and tells what goes on.
    for _ in range(2):
      with contextlib.suppress(KeyboardInterrupt):
        return process.wait()
    return 130


def _target(words: list[str]) -> tuple[str, list[str]]:
  """The target, "" if only help is asked for, and the words beside it."""
  named = [w for w in words if not w.startswith("-")]
  rest = [w for w in words if w.startswith("-")]
  if not named and {"--help", "-h"} & set(rest):
    return "", rest
  listed = ", ".join(TARGETS)
  if not named:
    raise ValueError(f"no target; expected one of {listed}: {_FORM}")
  if named[0] not in TARGETS:
    near = difflib.get_close_matches(named[0], TARGETS, 1, 0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
      f"unknown target {named[0]!r}; {hint}expected one of {listed}"
    )
  if named[1:]:
    raise ValueError(
      f"unexpected {named[1]!r}; settings are given as --flag=value, the"
      " experiment after --"
    )
  return named[0], rest


def _parse(target: str, argv: list[str]) -> Settings:
  """Settings of the flags; ValueError for one that the target does not read."""
  values = flags.FlagValues()
  config.define(Settings(), values)
  try:
    values(argv)
  except flags.UnrecognizedFlagError as e:
    near = difflib.get_close_matches(e.flagname, list(READ_BY), 1, 0.5)
    hint = f"did you mean --{near[0]}?" if near else "--help lists all"
    raise ValueError(f"unknown flag --{e.flagname}; {hint}") from e
  except flags.Error as e:
    said = str(e).replace("flag --", "--", 1)
    if ": already defined as " in said:
      said = f"{said.split('=')[0]}: given twice; give it once"
    if said.startswith("Missing value"):
      said = f"{said.split()[-1]}: no value given"
    raise ValueError(said) from e
  for name, readers in READ_BY.items():
    if values[name].present and target not in readers:
      raise ValueError(
        f"--{name}: read by {', '.join(readers)} only, not by {target}"
      )
  return config.resolve(Settings(), values)


def _manual(target: str) -> str:
  """What --help prints: of all targets, or of one."""
  if not target:
    lines = [f"  {name:<16} {about}" for name, about in TARGETS.items()]
    return (
      f"{_FORM}\n\nPrints what it would do, as a script; --go does it. The same"
      " command again\nfollows the run, or goes on with it. TARGETs:\n\n"
      + "\n".join(lines)
      + "\n\npython -m launch TARGET --help lists what a target reads."
    )
  lines = []
  for leaf in config.leaves(Settings()):
    if target in READ_BY[leaf.name]:
      may_be = config.allowed(leaf)
      lines.append(
        f"  --{leaf.name}={leaf.value!r}\n      {leaf.help} ({may_be})"
      )
  return f"{target}: {TARGETS[target]}\n\n{_FORM}\n\n" + "\n".join(lines)
