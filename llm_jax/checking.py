"""Settings checked for machines that are not here, before they are paid for."""

import math
import re

from llm_jax import checks, cuts
from llm_jax.experiment import Experiment
from llm_jax.sharding import mesh as mesh_lib

_THERE = re.compile(r"(?:(\d{1,4})x)?(\d{1,6})")


def check(experiment: Experiment, verb: str, there: str) -> None:
  """ValueError, in a line, where a verb could not begin on such machines.

  Args:
    experiment: resolved.
    verb: those that use a run, as it was trained, are not looked into.
    there: devices, of each of so many slices: "128" or "2x128"; "0" where
      their number is not known.
  """
  found = _THERE.fullmatch(there)
  if not found:
    raise ValueError(
      f"--check={there}: must be DEVICES or SLICESxDEVICES, 0 = not known"
    )
  if verb not in ("train", "plan", "show"):
    return
  checks.settings(experiment)
  slices, devices = int(found[1] or 1), int(found[2])
  if not slices * devices:
    return
  where = f"there are {slices * devices} devices"
  if slices > 1:
    where += f", {devices} in each of {slices} slices,"
  sizes = fill(experiment.mesh, slices * devices, where)
  lie(experiment.mesh, sizes, slices)
  cuts.check(experiment, dict(zip(mesh_lib.NAMES, sizes, strict=True)))


def fill(shape: mesh_lib.MeshShape, total: int, where: str) -> tuple[int, ...]:
  """Of each axis; ValueError where they are not all devices there are.

  Args:
    shape: of the mesh.
    total: devices.
    where: these are, for people: "v5e-16 has 16 devices".
  """
  given = {n: getattr(shape, n) for n in mesh_lib.NAMES}
  asked = " ".join(f"--mesh.{n}={s}" for n, s in given.items() if s != 1)
  try:
    sizes = shape.sizes(total)
  except ValueError:
    sizes = ()
  if math.prod(sizes) != total:
    valid = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
    raise ValueError(
      f"{asked or '--mesh'}: {where}, and the product of sizes must be that;"
      f" sizes may be {valid}, one of them -1 = the rest"
    )
  return sizes


def lie(
  shape: mesh_lib.MeshShape, sizes: tuple[int, ...], slices: int
) -> tuple[int, ...]:
  """How many slices each axis lies over; ValueError where not over all."""
  over = shape.slices.over(sizes)
  if math.prod(over) != slices:
    named = dict(zip(mesh_lib.NAMES, sizes, strict=True))
    able = [n for n in ("data", "fsdp", "stage") if named[n] % slices == 0]
    along = f"--mesh.data={slices} --mesh.slices.data={slices}"
    if able:
      along = f"--mesh.slices.{able[0]}={slices}"
    raise ValueError(
      f"--slices={slices}: the mesh lies over {math.prod(over)}; say"
      f" along which axis, as in {along}"
    )
  return over
