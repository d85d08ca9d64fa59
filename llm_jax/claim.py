"""A run folder holds one experiment: claimed before anything is made in it."""

from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import os
import pathlib
import re

import jax

from llm_jax import config, host, storage
from llm_jax.checkpoints import reach, staging
from llm_jax.experiment import Experiment, MAY_CHANGE
from llm_jax.reporting import environment, files

# What a run makes in its folder before its first step, or is evaluated with.
_MADE_FIRST = (
  *("tokenizer", "classes.json", "tensorboard", "heartbeats"),
  *("evaluating", "predictions", "evaluation.json"),
)


def settings(folder: pathlib.Path) -> Experiment:
  """The resolved settings that a run folder was made with."""
  about = _about(folder)
  if about is None:
    raise ValueError(f"--workdir={folder}: holds no run; train one first")
  return about[1]


def _about(folder: pathlib.Path) -> tuple[str, Experiment] | None:
  """Name and settings of the run in a folder; None where there is none."""
  path = folder / "experiment.json"
  try:
    about = files.read_json(path)
    if about is None:
      return None
    return about["name"], config.from_json(about["settings"])
  except OSError as e:
    raise ValueError(f"--workdir={folder}: {storage.reason(e)}") from e
  except (KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"{path}: not the settings of a run ({e!r})") from e


@contextlib.contextmanager
def claim(
  folder: pathlib.Path,
  name: str,
  experiment: Experiment,
  held: contextlib.ExitStack,
) -> Iterator[None]:
  """Makes the run folder; if what follows fails, leaves it as it was.

  Args:
    folder: of the run.
    name: of the experiment.
    experiment: its settings.
    held: until it is closed, no other run of this machine has the folder.

  Raises:
    ValueError: the folder holds another experiment or other files, is being
      trained in, or cannot be written; of several processes, where Orbax has
      no way to write from all of them.
  """
  if staging.needed(folder) and jax.process_count() > 1:
    raise ValueError(
      f"--workdir={folder}: several processes write checkpoints on a shared"
      " disk or to gs://, not there"
    )
  if jax.process_index():  # the first process makes the folder
    if not host.agreed(False):
      raise ValueError(f"--workdir={folder}: the first process cannot have it")
    if (found := _about(folder)) is not None:
      _check_same(folder, found, (name, experiment))
    yield
    return
  with contextlib.ExitStack() as mine:
    try:
      mine.enter_context(_claim(folder, name, experiment, held))
    except BaseException:
      host.agreed(False)
      raise
    host.agreed(True)
    yield


@contextlib.contextmanager
def _claim(
  folder: pathlib.Path,
  name: str,
  experiment: Experiment,
  held: contextlib.ExitStack,
) -> Iterator[None]:
  """The claim of the first process."""
  try:
    str(folder.absolute()).encode()
  except UnicodeEncodeError as e:
    raise ValueError(
      f"--workdir={str(folder)!r}: not UTF-8, which checkpoints cannot bear"
    ) from e
  storage.check_writable(folder, "workdir")
  reach.check(folder, "workdir")
  _about(folder)  # no folder at all, or one that can be read
  new_folders = [] if storage.is_remote(folder) else _make(folder)
  if not storage.is_remote(folder):  # which has no locks, either
    _lock(folder, held)
  found = _about(folder)
  if found is not None:
    _check_same(folder, found, (name, experiment))
  elif _holds_files(folder):
    raise ValueError(
      f"--workdir={folder}: holds files, but no run; name an empty folder"
    )
  path = folder / "experiment.json"
  before = path.read_text(encoding="utf-8") if found is not None else None
  about = {
    "name": name,
    "settings": config.to_json(experiment),
    "environment": environment.describe(),
  }
  try:
    try:
      files.write_json(path, about)
    except OSError as e:
      raise ValueError(
        f"--workdir={folder}: cannot be written ({storage.reason(e)})"
      ) from e
    yield
  except BaseException:
    if before is not None:
      with contextlib.suppress(OSError):  # as it was, where it is unwritable
        files.write_text(path, before)
      raise
    for made in _MADE_FIRST:
      storage.remove(folder / made)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # someone else's file is in it
      for empty in new_folders:
        empty.rmdir()
    raise


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
  """Makes a folder; returns those that were not there, the innermost first."""
  new = [p for p in (folder, *folder.parents) if not p.exists()]
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise ValueError(
      f"--workdir={folder}: cannot be written ({e.strerror or e})"
    ) from e
  return new


def _lock(folder: pathlib.Path, held: contextlib.ExitStack) -> None:
  """ValueError where another process of this machine trains in the folder.

  The lock is the process's, so that killing it ends the lock. Some network
  folders know none: there nothing is checked.
  """
  number = os.open(folder, os.O_RDONLY)
  held.callback(os.close, number)
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    raise ValueError(
      f"--workdir={folder}: another process is training in it; wait for it,"
      " or name another folder"
    ) from e
  except OSError:
    return


def note(folder: pathlib.Path, **facts: int | Sequence[str]) -> None:
  """Adds to experiment.json what is known once the model is made."""
  if jax.process_index() == 0:
    path = folder / "experiment.json"
    files.write_json(path, files.read_json(path) | facts)


def _holds_files(folder: pathlib.Path) -> bool:
  """Whether it holds more than what a process killed here was writing."""
  left = re.compile(r"experiment\.json\.[0-9a-f]+\.partial|heartbeats")
  return folder.exists() and not all(
    left.fullmatch(p.name) for p in folder.iterdir()
  )


def _check_same(
  folder: pathlib.Path,
  there: tuple[str, Experiment],
  here: tuple[str, Experiment],
) -> None:
  """ValueError where a run cannot go on as another experiment."""
  changed = config.differences(*(config.to_json(e) for _, e in (there, here)))
  changed = {k: v for k, v in changed.items() if not k.startswith(MAY_CHANGE)}
  if there[0] != here[0]:
    changed["name"] = (there[0], here[0])
  if changed:
    listed = "; ".join(
      f"{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items()
    )
    raise ValueError(f"--workdir={folder}: holds another experiment ({listed})")
