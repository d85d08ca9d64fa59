"""Checkpoints of a run: written in the background, checked when read.

A checkpoint is a folder named by its step: arrays as Orbax writes them, the
source's position, and last of all a list of every file with its size and
checksum. Without that list, or with a file that differs from it, a checkpoint
is damaged, and the one before it is used.
"""

from collections.abc import Callable, Iterable
from concurrent import futures
import contextlib
import dataclasses
import errno
import math
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from llm_jax import storage, trees
from llm_jax.checkpoints import listing, positions, staging
from llm_jax.checkpoints.quiet import quiet
from llm_jax.config import field

_ARRAYS = "arrays"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """When to save, and what to keep."""

  every: int = field(250, "steps between saves; 0 = only at the end", low=0)
  keep: int = field(2, "how many of the last to keep", low=1)
  best: bool = field(True, "also keep the one of lowest validation loss")


class Store:
  """The checkpoints of one run folder.

  Args:
    folder: where they are; made on the first save.
    settings: what to keep.
    warn: told, in one line, of a checkpoint passed over.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    settings: Checkpoints = Checkpoints(),
    warn: Callable[[str], None] = lambda line: None,
  ):
    self._folder = storage.path(folder).absolute()
    self._stage = staging.Stage() if staging.needed(self._folder) else None
    self._settings, self._warn = settings, warn
    self._orbax: ocp.AsyncCheckpointer | None = None
    self._thread = futures.ThreadPoolExecutor(1)
    self._writing: futures.Future | None = None

  def steps(self) -> list[int]:
    """Steps that have a complete list of files, in order."""
    if not self._folder.is_dir():
      return []
    return sorted(
      int(p.name)
      for p in self._folder.iterdir()
      if p.name.isdigit() and listing.exists(p)
    )

  def save(
    self,
    step: int,
    state: Any,
    position: dict[str, Any],
    loss: float | None = None,
  ) -> None:
    """Starts to write; returns once `state` may be overwritten.

    Raises:
      OSError: this save, or the one before it, could not be written; earlier
        checkpoints stay.
    """
    self.wait()
    if self._orbax is None:
      quiet()
      self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    folder = self._at(step)
    self._remove([folder, *self._unlisted()])
    made = self._stage.folder(folder.name) if self._stage else folder
    try:
      self._orbax.save(
        str(made / _ARRAYS), args=ocp.args.StandardSave(_flat(state))
      )
    except Exception as e:
      raise self._failed(step, e) from e
    self._writing = self._thread.submit(
      self._finish, step, made, position, loss
    )

  def wait(self) -> None:
    """Returns when the last save is on disk. OSError if it could not be."""
    if self._writing is not None:
      writing, self._writing = self._writing, None
      writing.result()

  def restore(self, abstract: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state, position), or None.

    Args:
      abstract: the state as `jax.ShapeDtypeStruct`s with shardings, of any
        mesh.

    Raises:
      ValueError: there are checkpoints, and each is damaged or of another
        model.
    """
    newest = self._newest()
    if newest is None:
      return None
    step, folder = newest
    state = self._read(folder, abstract, partial=False)
    return step, state, self.position(step)

  def restore_part(
    self, abstract: Any, step: int | None = None
  ) -> tuple[int, Any]:
    """Only the named part of a state, of the newest checkpoint or of `step`.

    Raises:
      ValueError: no such checkpoint, or none that is whole.
    """
    if step is not None:
      at = self._at(step)
      folder, damage = self._fetched(at)
      if damage:
        raise ValueError(f"--checkpoint_step={step}: {at}: {damage}")
    else:
      newest = self._newest()
      if newest is None:
        raise ValueError(f"{self._folder}: holds no checkpoint; train first")
      step, folder = newest
    return step, self._read(folder, abstract, partial=True)

  def position(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays of a step."""
    return positions.read(self._at(step))

  def checksum(self, step: int) -> int:
    """A number that changes with anything saved at a step."""
    return listing.checksum(self._at(step))

  def best(self) -> int | None:
    """Step of the lowest validation loss among those kept."""
    losses = {s: positions.loss(self._at(s)) for s in self.steps()}
    known = {s: x for s, x in losses.items() if math.isfinite(x)}
    return min(known, key=lambda s: known[s]) if known else None

  def _newest(self) -> tuple[int, pathlib.Path] | None:
    if not self._folder.is_dir():
      return None
    folders = [p for p in self._folder.iterdir() if p.name.isdigit()]
    found = sorted(folders, key=lambda p: int(p.name), reverse=True)
    for folder in found:
      here, damage = self._fetched(folder)
      if not damage:
        return int(folder.name), here
      self._warn(f"passing over damaged checkpoint {folder}: {damage}")
    if any(listing.exists(folder) for folder in found):
      raise ValueError(
        f"{self._folder}: every checkpoint is damaged; remove the folder to"
        " start again, or take weights from another run with --init_from"
      )
    return None

  def _fetched(self, folder: pathlib.Path) -> tuple[pathlib.Path, str | None]:
    """Where Orbax can read a checkpoint, and what is wrong with it."""
    damage = listing.damage(folder)
    if damage or not self._stage:
      return folder, damage
    here = self._stage.fetch(folder)
    return here, listing.damage(here)

  def _read(self, folder: pathlib.Path, abstract: Any, partial: bool) -> Any:
    wanted, arrays = _flat(abstract), str(folder / _ARRAYS)
    handler = ocp.PyTreeCheckpointHandler()
    with ocp.Checkpointer(handler) as reader:
      saved = reader.metadata(arrays).item_metadata
      for name, leaf in wanted.items():
        there = saved.get(name)
        if there is None or tuple(there.shape) != leaf.shape:
          shape = None if there is None else list(there.shape)
          raise ValueError(
            f"{folder}: {name} is {shape} there and {list(leaf.shape)} here;"
            " the checkpoint is of another model or optimiser"
          )
      arguments = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype),
        wanted,
      )
      flat = reader.restore(
        arrays,
        args=ocp.args.PyTreeRestore(
          item=wanted, restore_args=arguments, partial_restore=partial
        ),
      )
    return _unflat(flat, abstract)

  def _finish(
    self,
    step: int,
    made: pathlib.Path,
    position: dict[str, Any],
    loss: float | None,
  ) -> None:
    try:
      assert self._orbax is not None
      self._orbax.wait_until_finished()
      if jax.process_index() == 0:
        positions.write(made, position, loss)
        listing.write(made)
        if self._stage:
          self._stage.send(made, self._at(step))
        self._rotate(step)
    except Exception as e:
      raise self._failed(step, e) from e

  def _rotate(self, newest: int) -> None:
    # Later ones were passed over for damage; they would count as kept.
    self._remove(self._at(s) for s in self.steps() if s > newest)
    steps = self.steps()
    kept = set(steps[-self._settings.keep :])
    if self._settings.best and (best := self.best()) is not None:
      kept.add(best)
    self._remove(self._at(s) for s in steps if s not in kept)

  def _at(self, step: int) -> pathlib.Path:
    return self._folder / f"{step:08d}"

  def _unlisted(self) -> list[pathlib.Path]:
    """What a killed or failed save left behind."""
    if not self._folder.is_dir():
      return []
    folders = [p for p in self._folder.iterdir() if p.name.isdigit()]
    return [p for p in folders if not listing.exists(p)]

  def _remove(self, folders: Iterable[pathlib.Path]) -> None:
    if jax.process_index() == 0:
      for folder in folders:
        listing.remove(folder)  # from here on it is no checkpoint
        storage.remove(folder)

  def _failed(self, step: int, error: Exception) -> OSError:
    with contextlib.suppress(Exception):  # a bucket may be out of reach
      self._remove([self._at(step)])  # gives its space back
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if os.strerror(errno.ENOSPC) in str(error):
      said = "the disk is full; make room and start again"
    return OSError(
      f"could not save step {step} in {self._folder}: {said}. Earlier"
      " checkpoints are whole"
    )


def _flat(tree: Any) -> dict[str, Any]:
  """Leaves by path; typed keys as their bits."""

  def bits(x: Any) -> Any:
    if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return x
    if isinstance(x, jax.ShapeDtypeStruct):
      plain = jax.eval_shape(jax.random.key_data, x)
      return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=x.sharding)
    return jax.random.key_data(x)

  return {path.replace("/", "."): bits(x) for path, x in trees.paths(tree)}


def _unflat(flat: dict[str, Any], like: Any) -> Any:
  def one(path: Any, leaf: Any) -> Any:
    x = flat[trees.path_string(path).replace("/", ".")]
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(x)
    return x

  return jax.tree_util.tree_map_with_path(one, like)
