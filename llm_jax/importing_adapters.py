"""Adapters as the `peft` library writes them, on a base of any origin.

--init_from=BASE+peft:FOLDER begins with the base that has them folded in;
--adapter=peft:FOLDER of `generate` puts them on. A base is hf:FOLDER or a run.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from llm_jax import importing, storage, trees
from llm_jax.experiment import Experiment
from llm_jax.interop import heads, peft, peft_maps, peft_reading
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.family import Family
from llm_jax.interop.folder import Folder
from llm_jax.interop.lines import Line
from llm_jax.models.shape import Shape
from llm_jax.peft import merge
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Method
from llm_jax.peft.prompts import Prompt
from llm_jax.reporting import files, progress

PREFIX = importing.ADAPTERS


def is_folder(given: str) -> bool:
  """Whether an adapter's name is a folder of peft's, and no run."""
  return given.startswith(PREFIX)


def resolved(experiment: Experiment) -> Experiment:
  """An experiment whose `init_from` names the base, if only adapters were.

  Raises:
    ValueError: the adapters' folder names no base that is here.
  """
  given = experiment.init_from
  if given is None or not is_folder(given):
    return experiment
  said = f"--init_from={given}"
  base = peft.read(_folder(given, "init_from")).base
  if _holds(base, "experiment.json"):
    named = base
  elif _holds(base, "config.json"):
    named = f"{importing.PREFIX}{base}"
  else:
    raise ValueError(
      f"{said}: its {peft.CONFIG} names {base or 'no base'!r:.80}, which is no"
      f" folder here; --init_from={importing.PREFIX}BASE+{given} or RUN+{given}"
      " names one"
    )
  progress.say(f"the base of {given} is {named}")
  return dataclasses.replace(experiment, init_from=f"{named}+{given}")


def _holds(folder: str, name: str) -> bool:
  """Whether what may be the name of a folder is one with such a file."""
  try:
    return bool(folder) and (storage.of_home(folder, "") / name).is_file()
  except (OSError, ValueError):  # no name of a file at all
    return False


def _check_base(folder: Folder, named: str, base: str) -> None:
  """Says in a line which base adapters were made for, if it is another.

  Args:
    folder: of the adapters.
    named: the base that they name; "" = none.
    base: that they are put on.

  Raises:
    ValueError: the base that they name is here, and another kind of model.
  """
  here = importing.parted(base)[0]
  path = here.removeprefix(importing.PREFIX)
  last = lambda name: pathlib.PurePath(name).name
  if not named:
    return
  theirs, ours = _model_type(named), _model_type(path)
  if None not in (theirs, ours) and theirs != ours:
    raise ValueError(
      f"{folder.given}: made for {named:.80}, a model of type {theirs!r:.40},"
      f" and {here} is {ours!r:.40}"
    )
  if last(named) != last(path):
    progress.say(
      f"{folder.given}: made for {named:.80}; here it is put on {here}"
    )


def _model_type(folder: str) -> Any:
  """What the config.json of what may be a folder says of its model."""
  if not _holds(folder, "config.json"):
    return None
  try:
    found = files.read_json(storage.of_home(folder, "") / "config.json")
  except ValueError:
    return None
  return found.get("model_type") if isinstance(found, dict) else None


def method(given: str, flag: str) -> Method:
  """The way of ours that a folder's adapters are of."""
  told = peft.read(_folder(given, flag))
  if told.kind == "PROMPT_TUNING":
    return Prompt(tokens=told.tokens, init="random")
  if told.kind == "IA3":
    return IA3()
  return LoRA(
    rank=told.rank,
    alpha=told.alpha,
    dropout=told.dropout,
    stabilised=told.stabilised,
    dora=told.dora,
  )


def load(
  given: str,
  flag: str,
  shape: Shape,
  abstract: Any,
  suffixes: Any,
  base: str,
) -> tuple[Any, Any]:
  """A folder's adapters, and what they replace of a base's params.

  Args:
    given: "peft:FOLDER".
    flag: that named it, for errors.
    shape: of the base's model.
    abstract: the base's params, as shapes with shardings.
    suffixes: their dims.
    base: "hf:FOLDER", whose own names are read, or a run.

  Returns:
    Collection "adapters", and params of the base's structure: both on every
    device of the base's mesh.

  Raises:
    ValueError: no such folder, or not of this base.
  """
  folder = _folder(given, flag)
  told = peft.read(folder)
  _check_base(folder, told.base, base)
  shapes, letters = (dict(trees.paths(t)) for t in (abstract, suffixes))
  sizes = lines_lib.sizes(shapes, letters)
  tables = _tables(shape, importing.words(base))
  table = _table(folder, tables, suffixes, sizes)
  adapters, replaced = peft_reading.read(
    folder,
    told,
    table.lines,
    suffixes,
    sizes,
    jax.tree.leaves(abstract)[0].dtype,
    table.root,
  )
  mesh = jax.tree.leaves(abstract)[0].sharding.mesh
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params: dict[str, Any] = {}
  for path, x in replaced.items():
    trees.put(params, path, x)

  def placed(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(x.shape, everywhere, lambda i: x[i])

  return jax.tree.map(placed, (adapters, params))


def folded(
  params: Any,
  given: str,
  flag: str,
  shape: Shape,
  abstract: Any,
  suffixes: Any,
) -> Any:
  """A base's params, which are used up, with the adapters named beside it.

  Args:
    params: the base's.
    given: "BASE+peft:FOLDER"; without adapters the params are as they were.
    flag: that named it, for errors.
    shape: as for `load`.
    abstract: likewise.
    suffixes: likewise.

  Raises:
    ValueError: adapters that are not of this base, or no change of a weight.
  """
  _, adapters = importing.parted(given)
  if adapters is None:
    return params
  found, replaced = load(adapters, flag, shape, abstract, suffixes, given)

  def fold(params: Any, adapters: Any, replaced: Any) -> Any:
    return merge.merge(trees.overlay(params, replaced), adapters, suffixes)

  placement: dict[str, Any] = {}
  for path, _ in trees.paths(trees.overlay(params, replaced)):
    trees.put(placement, path, trees.get(abstract, path).sharding)
  jitted = jax.jit(fold, donate_argnums=0, out_shardings=placement)
  try:
    return jitted(params, found, replaced)
  except ValueError as e:
    raise ValueError(f"--{flag}={given}: {e}") from e


def _folder(given: str, flag: str) -> Folder:
  name = given.removeprefix(PREFIX)
  if not name:
    raise ValueError(f"--{flag}={given}: no folder is named")
  path = storage.local(name, flag)
  return Folder(path, f"--{flag}={given}", peft.CONFIG, peft.ONE)


class _Table(NamedTuple):
  """A base in the words of a family."""

  lines: Sequence[Line]
  root: str  # of names in a model with a head, that one without leaves out


def _table(
  folder: Folder,
  tables: Iterator[_Table],
  suffixes: Any,
  sizes: peft_maps.Sizes,
) -> _Table:
  """The base in the words in which most of the adapters are named."""

  def known(table: _Table) -> int:
    names = {line.name for line in table.lines}
    names |= {
      one.modules.format(layer=i)
      for one in peft_maps.maps(table.lines, suffixes)
      for i in range(sizes[one.line.stack]["L"])
    }
    there = peft_maps.names(folder, table.root, set())
    return sum(peft_maps.module(name) in names for name in there)

  return max(tables, key=known)


def _tables(shape: Shape, among: Sequence[Family]) -> Iterator[_Table]:
  """The base in the words of each family, with the head that it has."""
  settings: Any = dataclasses.asdict(shape)
  for family in among:
    names = [n for n in family.architectures if "Conditional" in n]
    if bool(names) != shape.reads_sources:
      continue
    for name, head in {"": None, **family.heads}.items():
      its = head and (head.bias, head.dense)
      if its == (_head(settings) if shape.outputs else None):
        lines = heads.lines(family, settings, name)
        yield _Table(lines, heads.root(family, name))


def _head(settings: Any) -> tuple[bool, str]:
  return settings["output_bias"], settings["output_dense"]
