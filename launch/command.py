"""The command line of an experiment, as it is given and as hosts run it."""

import difflib
import pathlib
import re

from launch.settings import Settings

_FORM = "after --: experiments.NAME VERB [--flag=value ...]"
# What the launch itself says to the experiment.
_OURS = ("distributed", "coordinator", "num_processes", "process_id", "check")


def check(words: list[str], root: pathlib.Path, target: str) -> None:
  """ValueError where the words are no experiment's command line.

  Args:
    words: what stands after `--`.
    root: of the repository, where experiments/ is.
    target: where the command is to run.
  """
  if not words:
    raise ValueError(f"nothing to run; give it {_FORM}")
  package, _, name = words[0].partition(".")
  names = [p.stem for p in (root / "experiments").glob("[a-z]*.py")]
  if package != "experiments" or not name:
    raise ValueError(f"{words[0]}: is no experiment; give it {_FORM}")
  if name not in names:
    near = difflib.get_close_matches(name, names, 2, 0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"experiments.{name}: there is none{hint}")
  if not words[1:] or words[1].startswith("-"):
    raise ValueError(f"experiments.{name}: no verb; give it {_FORM}")
  for word in words[2:]:
    flag = word.lstrip("-").split("=")[0].removeprefix("no")
    if word in ("--help", "-h"):
      raise ValueError(f"{word}: needs no launch: python -m {words[0]} --help")
    if flag in _OURS:
      raise ValueError(f"--{flag}: is given by {target}; leave it out")
    if "\n" in word:
      raise ValueError(f"{word.split('=')[0]}: has a line break")


def with_folder(words: list[str], folder: str, flag: str) -> list[str]:
  """The words, with the run's folder and how its processes meet.

  Args:
    words: what stands after `--`.
    folder: of the run; "" = `flag` was not given.
    flag: what says where runs are kept.

  Raises:
    ValueError: the folder is given twice, or not at all.
  """
  pairs = zip(words, [*words[1:], ""], strict=True)
  given = [
    word.partition("=")[2] if "=" in word else after
    for word, after in pairs
    if word.lstrip("-").split("=")[0] == "workdir"
  ]
  if given and folder:
    raise ValueError(f"--workdir: is given by {flag} and --name; leave one out")
  if not given and not folder:
    raise ValueError(
      f"{flag}: none given, nor a --workdir after --; the run would be lost"
      " with its machines"
    )
  path = given[-1] if given else folder
  if flag != "runs/" and not re.match(r"/|gs://|s3://", path):
    raise ValueError(
      f"--workdir={path}: must be a bucket's, or a whole path on a disk that"
      " outlives the machines"
    )
  ours = [f"--workdir={folder}"] if folder else []
  return [*words, *ours, "--distributed"]


def in_bucket(settings: Settings, words: list[str]) -> list[str]:
  """Likewise, with a folder in the bucket."""
  bucket = settings.bucket and f"gs://{settings.bucket}/{settings.name}"
  return with_folder(words, bucket, "--bucket")


def in_runs(settings: Settings, words: list[str]) -> list[str]:
  """Likewise, on this machine: runs/NAME, if there is a name."""
  if not settings.name:
    return words
  return with_folder(words, f"runs/{settings.name}", "runs/")[:-1]
