"""Which of the rows of a batch are scored together, see `models.together`.

Dimension key: B rows; T positions; n microbatches; C devices that rows are cut
over; Q rows of a microbatch on a device; R packed rows, as wide as the others.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh
import numpy as np

from llm_jax.data.packing import best_fit_abreast
from llm_jax.sharding import mesh as mesh_lib


class Cuts(NamedTuple):
  """How a step cuts the rows of a batch."""

  devices: int = 1
  microbatches: int = 1
  together: int = 1  # rows one after another that are never parted

  @classmethod
  def of(cls, mesh: Mesh, microbatches: int = 1, together: int = 1) -> "Cuts":
    """Those of a mesh."""
    return cls(mesh_lib.row_cuts(mesh.shape), microbatches, together)

  def parts(self, rows: int) -> np.ndarray:
    """Numbers of rows as [n, C, Q], those of each part in their order."""
    n, g = self.microbatches, self.together
    cut = np.arange(rows).reshape(self.devices, -1, n, g)
    return cut.transpose(2, 0, 1, 3).reshape(n, self.devices, -1)


def can(mesh: Mesh) -> bool:
  """Whether a mesh cuts neither the positions of a row nor a row's way."""
  return mesh.shape["context"] == mesh.shape["stage"] == 1


def placed(
  rows: Mapping[str, np.ndarray], counts: int, cuts: Cuts, narrow: int
) -> np.ndarray | None:
  """`place_BT` of a batch, or None where it would be no less work.

  Args:
    rows: `segment_BT` is 0 in padding, and each row's others are side by side.
    counts: numbers of packed rows that there may be, of which the least with
      room for all is taken: each is compiled.
    cuts: no row leaves its device nor its microbatch.
    narrow: positions of a row that are learned from if rows are not packed.
  """
  real_BT = rows["segment_BT"] > 0
  begin_B, size_B = real_BT.argmax(1), real_BT.sum(1)
  B, T = real_BT.shape
  of_part = B // (cuts.devices * cuts.microbatches)
  parts = cuts.parts(B).reshape(-1, of_part)
  fits = [_fit(size_B[part], T) for part in parts]
  step = -(-of_part // counts)  # rows of a part that are padded to
  step += -step % cuts.together
  needed = max(len(fit) for fit in fits)
  each = min(of_part, -(-needed // step) * step)
  if each * T >= of_part * narrow:
    return None
  out_RT = np.full((each * B // of_part, T), -1, np.int32)
  there = cuts.parts(len(out_RT)).reshape(-1, each)
  for p, fit in enumerate(fits):
    first = p % cuts.devices * of_part  # of a microbatch's rows
    for row, inside in zip(there[p], fit, strict=False):
      at = 0
      for q in inside:
        b = parts[p, q]
        from_ = (first + q) * T + begin_B[b]
        out_RT[row, at : at + size_B[b]] = from_ + np.arange(size_B[b])
        at += size_B[b]
  return out_RT


def _fit(size_Q: np.ndarray, length: int) -> list[np.ndarray]:
  """Which of some rows are in each packed one."""
  order, counts = best_fit_abreast(
    np.arange(len(size_Q)), size_Q[:, None], length
  )
  return np.split(order, np.cumsum(counts)[:-1])


def dealt(size_B: np.ndarray, cuts: Cuts) -> np.ndarray:
  """An order of rows in which every part has about as much to do.

  The longest are dealt first, there and back; those that belong together stay.
  """
  parts = cuts.parts(len(size_B))
  if cuts.devices * cuts.microbatches == 1:
    return parts.reshape(-1)
  unit_U = size_B.reshape(-1, cuts.together).sum(1)
  longest_KP = np.argsort(-unit_U, kind="stable").reshape(
    -1, cuts.devices * cuts.microbatches
  )
  longest_KP[1::2] = longest_KP[1::2, ::-1]
  rows_PKg = longest_KP.T[..., None] * cuts.together + np.arange(cuts.together)
  out_B = np.empty(len(size_B), int)
  out_B[parts.reshape(-1)] = rows_PKg.reshape(-1)
  return out_B
