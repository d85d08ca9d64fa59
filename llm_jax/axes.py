"""The dimension key: one letter, one meaning, one placement.

The suffix of a variable (`x_BTD`), of a parameter (`init(..., "DF")`), of a
constraint (`constrain(x_BTD, "BTD")`) and of a test (`chex.Dimensions`) is the
same string. The key says, per letter, which mesh axes cut it in a weight and
which cut it in an activation. Letters follow `jax.nn.dot_product_attention`
where it has one.
"""

import math
from typing import Any, Literal, NamedTuple

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Kind = Literal["weight", "activation"]


class Axis(NamedTuple):
  """What a letter means, and the mesh axes that cut it."""

  meaning: str
  weight: tuple[str, ...] = ()
  activation: tuple[str, ...] = ()


KEY = {
  "B": Axis("sequences in a batch", activation=("data", "fsdp", "expert")),
  "T": Axis("query or target positions", activation=("context",)),
  "S": Axis("key and value positions; those of a cache are never cut"),
  "U": Axis(
    "groups of positions, one a device",
    activation=("data", "fsdp", "expert", "context"),
  ),
  "D": Axis("residual stream width", weight=("fsdp",)),
  "F": Axis("feed-forward width", ("tensor",), ("tensor",)),
  # Stages would all wait for the head of the last one: each has a part.
  "V": Axis(
    "vocabulary, at the head", ("tensor", "stage"), ("tensor", "stage")
  ),
  "N": Axis("query heads", ("tensor",), ("tensor",)),
  "K": Axis("key and value heads", ("tensor",), ("tensor",)),
  "H": Axis("width of one head"),
  "J": Axis("gates of a recurrent cell"),
  "A": Axis("width of a recurrent state", ("tensor",), ("tensor",)),
  "M": Axis("experts of a mixture", weight=("expert",)),
  "L": Axis("layers, stacked", weight=("stage",)),
  "P": Axis("learned positions"),
  "R": Axis("adapter rank, or bottleneck width"),
  "O": Axis("numbers said of a position, as a reward or classes"),
  "G": Axis("special tokens that an adapter moves"),
  "X": Axis("virtual tokens of a soft prompt"),
  "Y": Axis("kinds of token, as question and text"),
  # A lookup table is cut along its rows only. Cut along both dims, the
  # compiler gathers the whole table at every lookup ("involuntary full
  # rematerialization").
  "W": Axis("rows of a lookup table", weight=("fsdp", "tensor", "stage")),
  "E": Axis("width of a lookup table, never cut"),
}


def spec(
  suffix: str,
  kind: Kind,
  shape: tuple[int, ...] | None = None,
  sizes: dict[str, int] | None = None,
) -> PartitionSpec:
  """ "DF", "weight" -> PartitionSpec("fsdp", "tensor").

  Args:
    suffix: one letter of `KEY` a dim; a digit or `_` is a dim that is never
      cut.
    kind: whether the tensor is a weight or an activation.
    shape: with `sizes`, drops mesh axes of one device, and those that do not
      divide their dim (one key/value head is not cut over two devices, it is
      copied).
    sizes: mesh axis -> number of devices along it; others cut nothing.
  """
  entries: list[Any] = []
  for i, letter in enumerate(suffix):
    cut: tuple[str, ...] = ()
    if letter.isalpha():
      cut = getattr(KEY[letter], kind)
    if shape is not None and sizes is not None:
      kept: tuple[str, ...] = ()
      for name in cut:
        there = sizes.get(name, 1)
        parts = there * math.prod(sizes[a] for a in kept)
        if there > 1 and shape[i] % parts == 0:
          kept += (name,)
      cut = kept
    entries.append(cut[0] if len(cut) == 1 else (cut or None))
  return PartitionSpec(*entries)


def init(initializer: Any, suffix: str) -> Any:
  """An initializer whose parameter remembers its suffix."""
  return nn.with_logical_partitioning(initializer, tuple(suffix))


def box(x: Any, suffix: str) -> Any:
  """An array that remembers its suffix."""
  return nn.LogicallyPartitioned(x, tuple(suffix))


def num_stacked(suffix: str) -> int:
  """Dims before those of one kernel, layers and experts: "LMDF" -> 2."""
  return len(suffix) - len(suffix.lstrip("LM"))


def num_inputs(suffix: str) -> int:
  """How many dims of a kernel are contracted: "LDNH" -> 1, "LNHD" -> 2.

  Kernels read the residual stream D or write it.
  """
  dims = suffix.lstrip("LM")
  return 1 if dims.startswith("D") else len(dims) - 1


def constrain(x: jax.Array, suffix: str) -> jax.Array:
  """Places an activation as its suffix says. Values do not change."""
  if len(suffix) != x.ndim:
    raise ValueError(
      f"suffix {suffix!r} names {len(suffix)} dims, shape is {x.shape}"
    )
  found = sizes()
  if math.prod(found.values()) == 1:
    return x
  placement = spec(suffix, "activation", x.shape, found)
  return jax.lax.with_sharding_constraint(x, placement)


def sizes() -> dict[str, int]:
  """Mesh axes that the compiler cuts tensors over here, and their sizes.

  Those of a `jax.shard_map` around are not among them.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
  return {n: mesh.shape[n] for n, kind in kinds if kind == AxisType.Auto}


def cuts(letter: str) -> int:
  """Into how many parts the activation dim of this letter is cut, at most."""
  found = sizes()
  return math.prod(found.get(name, 1) for name in KEY[letter].activation)


def platform() -> str:
  """The kind of device that is compiled for: cpu, gpu or tpu.

  Of a mesh of devices that are only described, theirs and not this machine's.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  found = jax.default_backend() if device is None else device.platform
  return "gpu" if found in ("cuda", "rocm") else found


def _is_box(x: Any) -> bool:
  return isinstance(x, nn.LogicallyPartitioned)


def suffixes(boxed: Any) -> Any:
  """Tree of suffixes ("LDF", ...), read off what the parameters remember."""
  return jax.tree.map(
    lambda x: "".join(x.names) if _is_box(x) else "", boxed, is_leaf=_is_box
  )


def shardings(boxed: Any, mesh: Mesh) -> Any:
  """Tree of NamedSharding, read off the suffixes the parameters remember.

  A leaf without a suffix, or whose rank is not its suffix's (a factored moment
  of Adafactor), is copied to every device.
  """

  def place(x: Any) -> NamedSharding:
    suffix = "".join(x.names) if _is_box(x) else ""
    shape = tuple(getattr(x.value if _is_box(x) else x, "shape", ()))
    if len(suffix) != len(shape):
      suffix = "_" * len(shape)
    return NamedSharding(mesh, spec(suffix, "weight", shape, dict(mesh.shape)))

  return jax.tree.map(place, boxed, is_leaf=_is_box)


def unbox(tree: Any) -> Any:
  """The tree of arrays, without the suffixes."""
  return nn.meta.unbox(tree)
