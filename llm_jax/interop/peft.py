"""LoRA and DoRA in the format of the `peft` library.

peft's A is [R, inputs] and B [outputs, R], each named by the map that it is
for; its scale is lora_alpha / r, or / sqrt(r) with use_rslora.
"""

from collections.abc import Sequence
from typing import Any

from llm_jax.interop.lines import Line

ONE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


def lines(base: Sequence[Line], paths: Sequence[str]) -> list[Line]:
  """Names of adapters, by those of the maps that they are for.

  Args:
    base: lines of a family's table.
    paths: of our adapters' arrays: "blocks/mlp/up/a".

  Raises:
    ValueError: an adapter of another kind, or of a map that is a part of a
      tensor or one of many experts'.
  """
  kernels = {line.path.removesuffix("/kernel"): line for line in base}
  out = []
  for path in paths:
    site, _, array = path.rpartition("/")
    if array in ("scale", "dropout"):  # adapter_config.json says these
      continue
    line = kernels.get(site)
    if line is None or array not in ("a", "b", "magnitude"):
      raise ValueError(f"adapters/{path}: peft's LoRA has no such array")
    if "+" in line.dims or "{expert}" in line.name:
      raise ValueError(f"adapters/{path}: a map that peft does not adapt apart")
    outputs, inputs = line.dims.split()
    stem = _PREFIX + line.name.removesuffix(".weight")
    name, dims = {
      "a": (f"{stem}.lora_A.weight", f"R {inputs}"),
      "b": (f"{stem}.lora_B.weight", f"{outputs} R"),
      "magnitude": (f"{stem}.lora_magnitude_vector", outputs),
    }[array]
    out.append(Line(path, name, dims))
  return out


def config(
  base: str,
  named: Sequence[Line],
  rank: int,
  alpha: float,
  dropout: float,
  stabilised: bool,
  dora: bool,
) -> dict[str, Any]:
  """adapter_config.json.

  Args:
    base: where the base model is.
    named: lines of the adapters.
    rank: R.
    alpha: size of the update, before / R.
    dropout: on what A reads.
    stabilised: the scale is alpha / sqrt(R).
    dora: columns have lengths of their own.
  """
  targets = {line.name.split(".lora_")[0].rpartition(".")[2] for line in named}
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "inference_mode": True,
    "bias": "none",
    "r": rank,
    "lora_alpha": alpha,
    "lora_dropout": dropout,
    "use_rslora": stabilised,
    "use_dora": dora,
    "target_modules": sorted(targets),
  }
