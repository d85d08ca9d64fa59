"""Which code goes to the hosts: one revision, the same on all of them."""

import os
import pathlib
import shutil
import subprocess
import tempfile


def of(root: pathlib.Path, dirty: bool) -> str:
  """The commit, or with `dirty` the tree, that `git archive` packs.

  A dirty tree is everything that git does not ignore, as it lies on disk; it
  is written to git's objects and to no branch, index or file.

  Raises:
    ValueError: no repository, or changes that are not committed.
  """
  try:
    changed = _git(root, "status", "--porcelain").splitlines()
    if not changed:
      return _git(root, "rev-parse", "HEAD")
    if not dirty:
      raise ValueError(
        f"{changed[0].split(maxsplit=1)[1]}: not committed"
        f"{_more(len(changed) - 1)}; commit it, or send it as it is: --dirty"
      )
    with tempfile.TemporaryDirectory() as folder:
      index = pathlib.Path(folder, "index")
      ours = root / _git(root, "rev-parse", "--git-path", "index")
      if ours.exists():  # what it knows need not be read again
        shutil.copy(ours, index)
      environment = os.environ | {"GIT_INDEX_FILE": str(index)}
      _git(root, "add", "--all", env=environment)
      return _git(root, "write-tree", env=environment)
  except FileNotFoundError as e:
    raise ValueError("git is not installed; the code is packed by it") from e
  except subprocess.CalledProcessError as e:
    line = " ".join(e.stderr.split())
    raise ValueError(f"no revision to send from {root}: {line}") from e


def _more(count: int) -> str:
  return f", nor are {count} others" if count else ""


def _git(root: pathlib.Path, *words: str, env: dict | None = None) -> str:
  return subprocess.run(
    ["git", *words],
    cwd=root,
    env=env,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
