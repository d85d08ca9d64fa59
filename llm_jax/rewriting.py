"""A model of relative positions in the words of T5, which says the same.

T5 (arXiv:1910.10683) does not divide q k^T by sqrt(H), and v1.1 has a head of
its own. Where ours divides, queries hold the division; where ours has a tied
head, the embedding is written twice.
"""

from collections.abc import Mapping
from typing import Any

from llm_jax import trees


def settings(found: Mapping[str, Any]) -> dict[str, Any]:
  """The settings of the model that `params` are of; others as they are."""
  out = dict(found)
  if _is_like_t5(found):
    out["attention_scale"] = 1.0
    if not found["outputs"]:
      out["tied"] = found["tied"] and found["head_scale"]
  return out


def params(
  found: Mapping[str, Any], own: Any, suffixes: Any
) -> tuple[Any, Any]:
  """Params in the words of `settings`, and their dims.

  Args:
    found: settings of the model.
    own: its params.
    suffixes: their dims.
  """
  if not _is_like_t5(found):
    return own, suffixes
  scale = found["attention_scale"]
  scale = found["head_dim"] ** -0.5 if scale is None else scale
  out: dict[str, Any] = {}
  for path, x in trees.paths(own):
    trees.put(out, path, x * scale if path.endswith("query/kernel") else x)
  if found["tied"] and not (found["outputs"] or found["head_scale"]):
    out["head"], suffixes = out["embedding"].T, {**suffixes, "head": "DV"}
  return out, suffixes


def _is_like_t5(found: Mapping[str, Any]) -> bool:
  return "encoder" in found and found["positions"] == "relative"
