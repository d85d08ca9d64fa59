"""Which device sits where in the mesh: slices outermost, neighbours beside.

A slice is a set of devices with a fast network of their own (ICI, NVLink);
between slices lies a slow one (the data centre's, DCN).
"""

from collections.abc import Sequence
import math
from typing import Any

from jax.experimental import mesh_utils
import numpy as np


def slices(devices: Sequence[Any], count: int) -> list[list[Any]]:
  """Devices of each of `count` slices.

  TPUs say which slice they are of; of others, equal blocks in their order are
  one each. ValueError where TPUs are not of `count` slices.
  """
  if devices[0].platform != "tpu":
    size = len(devices) // count
    return [list(devices[i * size : (i + 1) * size]) for i in range(count)]
  found: dict[int, list[Any]] = {}
  for device in devices:
    found.setdefault(getattr(device, "slice_index", None) or 0, []).append(
      device
    )
  if len(found) != count:
    raise ValueError(
      f"--mesh.slices: {count} in all, these devices are {len(found)}; say"
      " along which axis they lie, as in"
      f" --mesh.slices.data={len(found)}"
    )
  if len({len(s) for s in found.values()}) > 1:
    raise ValueError("--mesh: slices of different sizes; use all of each")
  return [found[i] for i in sorted(found)]


def arrange(
  devices: Sequence[Any], sizes: Sequence[int], over: Sequence[int]
) -> np.ndarray:
  """Devices as an array of `sizes`, with `over` slices along each axis.

  Within a slice of a TPU, axes follow its torus, the last ones first. Those
  along which slices lie are cut into slices first, so that neighbours along
  any axis are in one slice wherever they can be.

  Args:
    devices: as many as the product of `sizes`.
    sizes: devices along each axis.
    over: slices along each axis; each divides its size.
  """
  inner = [size // n for size, n in zip(sizes, over, strict=True)]
  groups = [_torus(s, inner) for s in slices(devices, math.prod(over))]
  grid = np.empty(len(groups), object)
  grid[:] = groups
  return np.asarray(np.block(grid.reshape(over).tolist()))


def _torus(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
  """Devices of one slice, neighbours where the network has them."""
  if devices[0].platform != "tpu" or not _is_box(devices):
    return np.asarray(devices, object).reshape(sizes)
  return mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )


def _is_box(devices: Sequence[Any]) -> bool:
  """Whether no place between the chips of `devices` is left out."""
  at_MC = np.array([device.coords for device in devices])
  sides = at_MC.max(0) - at_MC.min(0) + 1
  return len(np.unique(at_MC, axis=0)) == sides.prod()
