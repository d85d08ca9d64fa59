"""Settings of a transformer that nothing reads, where others say so."""

from collections.abc import Callable
import dataclasses
import operator
from typing import Any, NamedTuple


class _Rule(NamedTuple):
  """Settings that are read only where others have some value."""

  names: tuple[str, ...]
  read: Callable[[Any], bool]
  where: str


_RULES = (
  _Rule(
    ("rope_theta", "rope_dim", "rope_scaling.factor", "window_theta"),
    lambda c: c.positions == "rope",
    "--model.positions=rope",
  ),
  _Rule(
    ("rope_scaling.short_factors", "rope_scaling.long_factors"),
    lambda c: c.positions == "rope",
    "--model.positions=rope",
  ),
  _Rule(
    ("position_offset",),
    lambda c: c.positions == "learned",
    "--model.positions=learned",
  ),
  _Rule(
    ("relative_buckets", "relative_distance"),
    lambda c: c.positions == "relative",
    "--model.positions=relative",
  ),
  _Rule(("window_theta",), lambda c: c.window is not None, "--model.window"),
  _Rule(("full_layers",), lambda c: c.window is not None, "--model.window"),
  _Rule(("norm_bias",), lambda c: c.norm == "layer", "--model.norm=layer"),
  _Rule(
    ("first_norm",),
    lambda c: c.norm_at in ("input", "both"),
    "--model.norm_at=input or both",
  ),
  _Rule(("qk_norm_over",), lambda c: c.qk_norm, "--model.qk_norm"),
  _Rule(("head_dense_bias",), lambda c: c.head_dense, "--model.head_dense"),
  _Rule(("output_dense",), lambda c: c.outputs > 0, "--model.outputs"),
  _Rule(("token_types",), lambda c: c.sees == "all", "--model.sees=all"),
  _Rule(
    ("experts.per_token", "experts.normalise", "experts.balance"),
    lambda c: c.experts.num > 0,
    "--model.experts.num",
  ),
  _Rule(
    ("experts.z_loss",), lambda c: c.experts.num > 0, "--model.experts.num"
  ),
)


def check(config: Any) -> None:
  """ValueError for a setting that is not as by default and that nothing reads.

  Args:
    config: of a transformer.
  """
  usual = {f.name: f.default for f in dataclasses.fields(config)}
  for names, read, where in _RULES:
    if read(config):
      continue
    for name in names:
      first, _, rest = name.partition(".")
      plain = usual[first]
      plain = operator.attrgetter(rest)(plain) if rest else plain
      found = operator.attrgetter(name)(config)
      if found != plain:
        said = ",".join(map(str, found)) if type(found) is tuple else found
        raise ValueError(
          f"--model.{name}={said}: nothing reads it without {where}"
        )
