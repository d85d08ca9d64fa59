"""Rotary settings in config.json, of transformers 5 or of the one before.

Sources of the defaults: `modeling_rope_utils.py` of transformers 5.23.
"""

import math
from typing import Any

from llm_jax.interop.family import alike, Keys, Settings


def read(
  keys: Keys,
  default_theta: float = 10_000.0,
  length: int = 0,
  head_dim: int | None = None,
  original: int = 0,
) -> Settings:
  """Our settings of a model whose layers all have the same.

  Args:
    keys: of its config.json.
    default_theta: where that says none.
    length: the longest sequence, where nothing says what it was before.
    head_dim: of a family that may rotate a part of each head.
    original: the length before, where the rotary settings do not say it.
  """
  new, old = keys.get("rope_parameters", {}), keys.get("rope_scaling", {})
  said = dict(new or old)
  if original:
    said.setdefault("original_max_position_embeddings", original)
  if said.get("rope_theta") is None:
    said["rope_theta"] = keys.get("rope_theta", default_theta)
  keys.skip("rope_theta")
  out: Settings = {}
  if head_dim is None:
    keys.must("partial_rotary_factor", 1.0)
  else:
    part = said.pop("partial_rotary_factor", None)
    part = keys.get("partial_rotary_factor", 1.0) if part is None else part
    keys.skip("partial_rotary_factor")
    where = f"{keys.given}: config.json has partial_rotary_factor"
    part = alike(part, 1.0, where)
    if not 0 < part <= 1:
      raise ValueError(f"{where}={part}; it must be above 0, at most 1")
    dims = int(head_dim * part)
    if not dims:
      raise ValueError(f"{where}={part}; of {head_dim} dims it is none")
    out["rope_dim"] = 0 if dims == head_dim else dims
  return out | of(said, keys.given, length)


def of(said: dict[str, Any], given: str, length: int = 0) -> Settings:
  """Our settings of a dict such as rope_parameters.

  Raises:
    ValueError: a kind or a key that is not known.
  """
  said = dict(said)
  old, new = said.pop("type", None), said.pop("rope_type", None)
  if said.get("short_factor") is not None:  # LongRoPE, as it was called first
    first = lambda word: "longrope" if word in ("su", "yarn") else word
    old, new = first(old), first(new)
  if None not in (old, new) and old != new:
    raise ValueError(
      f"{given}: config.json has rope_type={new!r:.40} and type={old!r:.40}"
      " among its rotary settings; one of them is wrong"
    )
  kind = new or old or "default"

  def number(name: str, default: float, like: float = 1.0) -> Any:
    where = f"{given}: config.json has {name}"
    found = said.pop(name, None)
    return alike(default if found is None else found, like, where)

  out: Settings = {"rope_theta": number("rope_theta", 0.0)}
  original = number("original_max_position_embeddings", length, 1)

  def need(name: str) -> float:
    if said.get(name) is None:
      raise ValueError(
        f"{given}: config.json has rope_type={kind!r} without {name}"
      )
    return number(name, 0.0)

  if kind == "linear":
    out["rope_scaling"] = {"kind": "linear", "factor": need("factor")}
  elif kind == "llama3":
    out["rope_scaling"] = {
      "kind": "llama3",
      "factor": need("factor"),
      "low_factor": need("low_freq_factor"),
      "high_factor": need("high_freq_factor"),
      "original_length": original,
    }
  elif kind == "yarn":
    out["rope_scaling"] = {
      "kind": "yarn",
      "factor": need("factor"),
      "low_factor": number("beta_slow", 1.0),
      "high_factor": number("beta_fast", 32.0),
      "original_length": original,
    }
    _sharpness(said, out["rope_scaling"]["factor"], given)
  elif kind == "longrope":
    out["rope_scaling"] = _longrope(said, given, original, length)
  elif kind != "default":
    why = ", which changes with the length of what is read"
    raise ValueError(
      f"{given}: config.json has rope_type={kind!r}"
      f"{why if kind == 'dynamic' else ''}; known are default, linear,"
      " llama3, longrope and yarn"
    )
  if said.get("partial_rotary_factor") in (None, 1):
    said.pop("partial_rotary_factor", None)
  for name, value in said.items():
    if value is not None:
      raise ValueError(
        f"{given}: config.json has {name}={value!r} among its rotary"
        f" settings, which is not known of {kind!r}"
      )
  return out


def _longrope(
  said: dict[str, Any], given: str, original: int, length: int
) -> Settings:
  """What a dict says of LongRoPE; transformers' rule where it does not."""
  where = f"{given}: config.json has"
  if original < 2:
    raise ValueError(
      f"{where} rope_type='longrope' without original_max_position_embeddings"
    )
  out: Settings = {"kind": "longrope", "original_length": original}
  for name in ("short_factor", "long_factor"):
    found = alike(said.pop(name, None) or [], [], f"{where} {name}")
    if not found:
      raise ValueError(f"{where} rope_type='longrope' without {name}")
    numbers = tuple(alike(x, 1.0, f"{where} {name}") for x in found)
    out[f"{name}s"] = numbers
  factor = said.pop("factor", None)
  if factor is None:
    factor = max(length / original, 1.0)
  out["factor"] = alike(factor, 1.0, f"{where} factor")
  sharp = said.pop("attention_factor", None)
  if sharp is not None:
    out["sharpness"] = alike(sharp, 1.0, f"{where} attention_factor")
  return out


def _sharpness(said: dict[str, Any], factor: float, given: str) -> None:
  """ValueError where YaRN's attention is sharper than its paper has it."""
  for name in ("attention_factor", "mscale", "mscale_all_dim"):
    if said.get(name) is not None:
      where = f"{given}: config.json has {name}"
      said[name] = alike(said[name], 1.0, where)
  usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
  sharp = said.pop("attention_factor", None)
  one, all_dims = said.pop("mscale", None), said.pop("mscale_all_dim", None)
  if sharp is None and one and all_dims:
    scale = lambda m: 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
    sharp = scale(one) / scale(all_dims)
  if sharp is not None and not math.isclose(sharp, usual, rel_tol=1e-12):
    raise ValueError(
      f"{given}: config.json has attention_factor={sharp} (or mscale) among"
      f" its rotary settings; known is {usual}"
    )
  if said.pop("truncate", True) is False:
    raise ValueError(
      f"{given}: config.json has truncate=False among its rotary settings;"
      " known is True"
    )


def said(settings: Settings) -> dict[str, Any]:
  """Our settings as a dict such as rope_parameters; the inverse of `of`."""
  scaling = {"factor": 1.0} | settings.get("rope_scaling", {})
  theta = {"rope_theta": settings.get("rope_theta", 10_000.0)}
  if scaling.get("kind") == "longrope":
    sharp = scaling.get("sharpness")
    return theta | {
      "rope_type": "longrope",
      "factor": scaling["factor"],
      "short_factor": list(scaling["short_factors"]),
      "long_factor": list(scaling["long_factors"]),
      "original_max_position_embeddings": scaling["original_length"],
      **({} if sharp is None else {"attention_factor": sharp}),
    }
  if scaling["factor"] == 1.0:
    return {"rope_type": "default", **theta}
  kind = {"rope_type": scaling["kind"], "factor": scaling["factor"], **theta}
  if scaling["kind"] == "linear":
    return kind
  low, high = ("low_freq_factor", "high_freq_factor")
  if scaling["kind"] == "yarn":
    low, high = "beta_slow", "beta_fast"
  return kind | {
    low: scaling["low_factor"],
    high: scaling["high_factor"],
    "original_max_position_embeddings": scaling["original_length"],
  }


def config(settings: Settings) -> dict[str, Any]:
  """The inverse of `read`, in both forms."""
  found = said(settings)
  older = {k: x for k, x in found.items() if k != "rope_theta"}
  return {
    "rope_theta": found["rope_theta"],
    "rope_scaling": None if older["rope_type"] == "default" else older,
    "rope_parameters": found,
  }


def part(settings: Settings) -> float:
  """partial_rotary_factor, of which int(factor * H) is our `rope_dim`."""
  width = settings.get("head_dim") or (
    settings["embed_dim"] // settings["num_heads"]
  )
  dims = settings.get("rope_dim") or width
  share: float = dims / width
  return share if int(width * share) == dims else math.nextafter(share, 1.0)


# Kinds of layers, by their names in config.json.
_FULL, _NEAR = "full_attention", "sliding_attention"


def by_layers(
  keys: Keys,
  full: tuple[str, float],
  near: tuple[str, float],
  length: int,
  window: int | None,
) -> Settings:
  """Our settings of a model with one base for layers with a window.

  Args:
    keys: of its config.json.
    full: the older key of the base of all other layers, and its default.
    near: those of layers with a window.
    length: as for `read`.
    window: None where no layer has one.
  """
  both = keys.get("rope_parameters", {})
  for name in set(both) - {_FULL, _NEAR}:
    raise ValueError(
      f"{keys.given}: config.json has {name!r} among rope_parameters; known are"
      f" {_FULL} and {_NEAR}"
    )
  where = f"{keys.given}: config.json has"
  wide, local = (
    dict(alike(both.get(name) or {}, {}, f"{where} {name}"))
    for name in (_FULL, _NEAR)
  )
  wide |= keys.get("rope_scaling", {})
  wide.setdefault("rope_theta", keys.get(*full))
  local.setdefault("rope_theta", keys.get(*near))
  found, its = of(wide, keys.given, length), of(local, keys.given)
  if "rope_scaling" in its:
    raise ValueError(
      f"{keys.given}: config.json stretches positions in layers with a window"
      f" ({_NEAR} among rope_parameters), which is not known"
    )
  return found | {"window_theta": its["rope_theta"] if window else None}


def config_by_layers(settings: Settings) -> dict[str, Any]:
  """The inverse of `by_layers`, in the newer form."""
  wide = said(settings)
  theta = settings.get("window_theta")
  if theta is None:
    if settings.get("window") and wide["rope_type"] != "default":
      raise ValueError(
        "--model.window_theta=None: a base of their own is what layers with a"
        " window have in this family where positions are stretched"
      )
    theta = wide["rope_theta"]
  local = {"rope_type": "default", "rope_theta": theta}
  return {"rope_parameters": {_FULL: wide, _NEAR: local}}
