"""What a compiled program sends between devices, read off its text.

A body of a loop stands once in the text and counts as often as the loop turns;
a collective that the compiler has spread over several fusions counts once.

Bytes are those that a device must receive, by the algorithms of least traffic
(Thakur et al. 2005). Of a group of n devices over s slices, m = n / s in each:

  all-gather to V bytes, reduce-scatter of V   ICI (m-1)/m V
                                               DCN (s-1)/s V / m
  all-reduce of V                              twice as much
  all-to-all of V                              ICI (m-1)/n V,  DCN (n-m)/n V
  collective-permute of V                      V

Between slices a TPU's program sends through its host: a `recv` that says of
which kind it is, what was added up or gathered within a slice before.
"""

from collections.abc import Mapping, Sequence
import math
import re
from typing import NamedTuple

from llm_jax.sharding import hlo

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
)


_THROUGH_HOSTS = {
  "ALL_GATHER": "all-gather",
  "ALL_REDUCE": "all-reduce",
  "REDUCE_SCATTER": "reduce-scatter",
  "ALL_TO_ALL": "all-to-all",
  "RAGGED_ALL_TO_ALL": "ragged-all-to-all",
  "ONE_TO_ONE": "collective-permute",
}


class Collective(NamedTuple):
  """One collective of a step, as often as it runs."""

  kind: str
  size: int  # n, devices of a group
  runs: int  # times a step
  payload: int  # V, bytes, each time
  ici: float  # bytes that a device receives within its slice, a step
  dcn: float  # likewise, from other slices
  axes: tuple[str, ...]  # of the mesh, that a group lies along
  where: str  # what of the model it belongs to


def read(
  text: str, mesh: Mapping[str, int], slice_of: Sequence[int] = ()
) -> list[Collective]:
  """Collectives of the text of a compiled program.

  Args:
    text: HLO, scheduled or not.
    mesh: axis -> devices along it; ids count along the last axis first.
    slice_of: number of the slice of each id; empty = all are in one.
  """
  module = hlo.parse(text)
  times = module.times()
  found: dict[tuple, Collective] = {}
  for name, instructions in module.computations.items():
    if not times.get(name):
      continue
    for it in instructions:
      kind = it.opcode.removesuffix("-start")
      if kind == "recv" and (one := _through_hosts(it, mesh, slice_of)):
        count = times[name]
        one = one._replace(runs=count, dcn=one.dcn * count)
        found[name, it.name] = one
      if kind not in KINDS:
        continue
      groups = _groups(it.attributes, math.prod(mesh.values()))
      size = max((len(g) for g in groups), default=1)
      if kind == "collective-permute":
        groups = [g for g in groups if g[0] != g[1]]
      if size == 1 or not groups:
        continue
      payload = _payload(it, kind)
      if kind == "all-reduce" and _is_scatter(name):
        kind = "reduce-scatter"  # the slice of it is part of this fusion
      ici, dcn = _received(kind, payload, groups, slice_of)
      count = times[name]
      one = Collective(
        kind,
        size,
        count,
        payload,
        ici * count,
        dcn * count,
        _axes(groups, mesh),
        it.label,
      )
      key = _key(name, it, kind)
      old = found.get(key)
      if old is None or old.runs > count:
        found[key] = one
  return list(found.values())


def _through_hosts(
  it: hlo.Instruction, mesh: Mapping[str, int], slice_of: Sequence[int]
) -> Collective | None:
  """What a `recv` brings once from other slices; None if it is none of those.

  Its devices are those that hold the same within each slice.
  """
  said = re.search(r'_xla_megascale_transfer_type="(\w+)"', it.attributes)
  if not said or said[1] not in _THROUGH_HOSTS:
    return None
  kind, V = _THROUGH_HOSTS[said[1]], it.sizes[0]
  axes = _between_slices(mesh, slice_of)
  s = _slices_of(it.attributes) or len(set(slice_of)) or 1
  if kind == "collective-permute":
    s, dcn = 2, float(V)
  elif kind == "reduce-scatter":  # what is left of it is told
    V, dcn = V * s, float(V * (s - 1))
  else:
    dcn = (2 if kind == "all-reduce" else 1) * (s - 1) / s * V
  return Collective(kind, s, 1, V, 0.0, dcn, axes, it.label)


def _slices_of(attributes: str) -> int:
  """How many slices take part: 3 of the target "{1,3:4}x{0:7}"; 0 = unknown."""
  found = re.search(r'_xla_megascale_target="\{([\d,:]+)\}x', attributes)
  count = 0
  for part in found[1].split(",") if found else ():
    first, _, last = part.partition(":")
    count += int(last or first) - int(first) + 1
  return count


def _between_slices(
  mesh: Mapping[str, int], slice_of: Sequence[int]
) -> tuple[str, ...]:
  """Axes along which slices lie."""
  out, step = [], math.prod(mesh.values())
  for axis, n in mesh.items():
    step //= n
    if slice_of and slice_of[(n - 1) * step] != slice_of[0]:
      out.append(axis)
  return tuple(out)


def _is_scatter(computation: str) -> bool:
  """Whether it is a fusion of a sum and of each device's slice of it."""
  return computation.startswith("all-reduce-scatter")


def _key(name: str, it: hlo.Instruction, kind: str) -> tuple:
  """The same for all parts of one collective; the first of them begins it."""
  return (kind, it.channel) if "chain_id" in it.attributes else (name, it.name)


def _payload(it: hlo.Instruction, kind: str) -> int:
  """V; of what an asynchronous start gives, only the results count."""
  sizes = it.sizes
  if it.opcode.endswith("-start"):
    if kind == "collective-permute":
      return sizes[1]
    if kind != "all-reduce":
      sizes = sizes[len(sizes) // 2 :]
  total = sum(sizes)
  if kind == "reduce-scatter":  # the text has what is left of it
    n = max(len(g) for g in _groups(it.attributes, 1))
    total *= n
  return total


def _received(
  kind: str, V: int, groups: list[tuple[int, ...]], slice_of: Sequence[int]
) -> tuple[float, float]:
  where = lambda i: slice_of[i] if slice_of else 0
  if kind == "collective-permute":
    crosses = any(where(a) != where(b) for a, b in groups)
    return (0.0, float(V)) if crosses else (float(V), 0.0)
  group = groups[0]
  n, s = len(group), len({where(i) for i in group})
  m = n / s
  if kind in ("all-to-all", "ragged-all-to-all"):
    return (m - 1) / n * V, (n - m) / n * V
  twice = 2 if kind == "all-reduce" else 1
  return twice * (m - 1) / m * V, twice * (s - 1) / s * V / m


def _groups(attributes: str, total: int) -> list[tuple[int, ...]]:
  """Groups of ids; of a permutation, its pairs."""
  if found := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
    return _listed(found[1] + "}")
  if found := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
    return _listed(found[1])
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
  )
  if iota:
    order = _numbers(iota[3]) if iota[3] else None
    rows, columns = _numbers(iota[1])
    flat = _transposed(_numbers(iota[2]), order)
    return [tuple(flat[r * columns : (r + 1) * columns]) for r in range(rows)]
  named = re.search(
    r"replica_groups=mesh\[(.*?)\](?:,? ?device_ids=\((.*?)\))? ?\{(.*?)\}",
    attributes,
  )
  if named:
    return _named(named[1], named[2] or "", named[3])
  return [tuple(range(total))]  # all of them


def _named(mesh: str, ids: str, chosen: str) -> list[tuple[int, ...]]:
  """Groups along named axes, or parts of them, `'a':(before)size`."""
  sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", mesh)}
  parts: list[tuple[str, int, int]] = []  # axis, part before it, its size
  for n, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen):
    parts.append((n, int(before or 1), int(size or sizes[n])))
  dims: list[int] = []
  inside: list[int] = []
  for name, size in sizes.items():
    mine = sorted(p[1:] for p in parts if p[0] == name)
    at = 1
    for before, width in mine:
      if before > at:
        dims.append(before // at)
      inside.append(len(dims))
      dims.append(width)
      at = before * width
    if at < size:
      dims.append(size // at)
  outside = [i for i in range(len(dims)) if i not in inside]
  flat = _transposed(dims, outside + inside)
  if found := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids):
    order = _numbers(found[2]) if found[2] else None
    real = _transposed(_numbers(found[1]), order)
    flat = [real[i] for i in flat]
  n = math.prod(dims[i] for i in inside)
  return [tuple(flat[i : i + n]) for i in range(0, len(flat), n)]


def _transposed(dims: list[int], order: list[int] | None) -> list[int]:
  """0, 1, ... in an array of these dims, transposed and flattened."""
  order = list(range(len(dims))) if order is None else order
  steps = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
  out = [0]
  for i in order:
    out = [a + steps[i] * k for a in out for k in range(dims[i])]
  return out


def _listed(text: str) -> list[tuple[int, ...]]:
  return [tuple(_numbers(g)) for g in re.findall(r"\{([\d,]+)\}", text)]


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",")]


def _axes(
  groups: list[tuple[int, ...]], mesh: Mapping[str, int]
) -> tuple[str, ...]:
  """The axes along which the members of a group differ."""
  found: set[str] = set()
  for group in groups[:1] if len(groups[0]) > 2 else groups:
    places = [_place(i, mesh) for i in group]
    found |= {a for a in mesh if len({p[a] for p in places}) > 1}
  return tuple(a for a in mesh if a in found)


def _place(i: int, mesh: Mapping[str, int]) -> dict[str, int]:
  out = {}
  for axis in reversed(list(mesh)):
    i, out[axis] = divmod(i, mesh[axis])
  return out
