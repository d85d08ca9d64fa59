"""The verb `compare`: evaluated runs beside each other."""

from collections.abc import Sequence
import pathlib
from typing import Any

from llm_jax import storage
from llm_jax.experiment import MAY_CHANGE
from llm_jax.reporting import beside, files, settings
from llm_jax.reporting.beside import Run
from llm_jax.reporting.progress import say

# Of those that change nothing, what is still of interest.
_TELL = ("steps", "init_from")


def compare(folders: Sequence[str], into: pathlib.Path) -> int:
  """Prints what was measured; writes a page and comparison.json. Runs nothing.

  Args:
    folders: of two runs or more that were evaluated.
    into: folder to write.

  Raises:
    ValueError: fewer, or one that is no run or was not evaluated.
  """
  given = f"--runs={','.join(folders)}"
  if len(folders) < 2:
    raise ValueError(f"{given}: expected two run folders or more")
  if not all(folders):
    raise ValueError(f"{given}: a name is empty")
  where = [storage.path(f, "runs") for f in folders]
  places = [path.resolve() for path in where]
  if twice := [f for i, f in enumerate(folders) if places[i] in places[:i]]:
    raise ValueError(f"--runs: {twice[0]} is named twice")
  if into.is_file():
    raise ValueError(f"--into={into}: is no folder")
  found = [_read(path) for path in where]
  runs = beside.name(found, differing([r.settings for r in found]))
  print(beside.table(runs))
  say(f"comparison: {beside.write(runs, into)}")
  return 0


def differing(each: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
  """{setting: its value in each run}, of those that are not all the same.

  Args:
    each: of every run, settings as `config.to_json` has them. A class is the
      value of the setting that holds it; where classes differ, so do their
      settings, and only those that all of them have are told.
  """
  flat = [dict(settings.flat(its)) for its in each]
  out: dict[str, list[Any]] = {}
  for name in dict.fromkeys(n for its in flat for n in its):
    if name.startswith(MAY_CHANGE) and name not in _TELL:
      continue
    values = [its.get(name) for its in flat]
    everywhere = all(name in its for its in flat)
    if any(v != values[0] for v in values) and (
      everywhere or not any(name.startswith(f"{other}.") for other in out)
    ):
      out[name] = values
  return out


def _read(folder: pathlib.Path) -> Run:
  given = f"--runs: {folder}"
  if folder.is_file():
    raise ValueError(f"{given} is no folder")
  about = files.read_json(folder / "experiment.json")
  if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
    raise ValueError(f"{given} holds no run")
  found = files.read_json(folder / "evaluation.json")
  if not isinstance(found, dict) or not isinstance(found.get("datasets"), dict):
    name = about.get("name", "NAME")
    raise ValueError(
      f"{given} was not evaluated yet: python -m experiments.{name} evaluate"
      f" --workdir={folder}"
    )
  return Run(folder, folder.name, about["settings"], found)
