"""A run's adapters in the format of the `peft` library."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from llm_jax import importing, state_plan, trees
from llm_jax.experiment import Experiment
from llm_jax.interop import lines as lines_lib
from llm_jax.interop import peft, peft_maps, peft_writing
from llm_jax.interop.family import Family
from llm_jax.interop.lines import Line
from llm_jax.models.shape import Shape
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prompt


def described(
  experiment: Experiment,
  plan: state_plan.Plan,
  policy: Any,
  table: tuple[Family, Sequence[Line]],
  dtype: Any,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json and the tensors, those of a trained head among them.

  Args:
    experiment: of the run.
    plan: of that experiment.
    policy: its variables.
    table: of the base's family.
    dtype: of the tensors.

  Raises:
    ValueError: peft has no such adapters.
  """
  method = experiment.peft
  if not isinstance(method, LoRA | IA3 | Prompt):
    raise ValueError(
      f"trained with {type(method).__name__}, which peft has not so; known are"
      " LoRA, IA3 and Prompt"
    )
  if method.special_tokens:
    raise ValueError(
      f"--peft.special_tokens={method.special_tokens}: moves rows of the"
      " embedding, which peft keeps otherwise; export without --adapter"
    )
  family, lines = table
  shapes, letters = (dict(trees.paths(t)) for t in (plan.base, plan.suffixes))
  sizes = lines_lib.sizes(shapes, letters)
  maps = peft_maps.maps(lines, plan.suffixes)
  adapters = jax.device_get(policy["adapters"])
  arrays, about = peft_writing.written(adapters, maps, sizes)
  base, shape = _base(experiment), experiment.model
  if isinstance(method, Prompt):
    L, D, N = (sizes[""][letter] for letter in "LDN")
    said = peft.prompt(base, method.tokens, D, L, N)
  else:
    names = _names(arrays, maps, sizes, family, lines)
    if isinstance(method, LoRA):
      said = peft.lora(
        base,
        names,
        about,
        method.rank,
        method.alpha,
        method.dropout,
        method.stabilised,
        method.dora,
      )
    else:
      fed = [one.modules for one in maps if _has(adapters, one, "input_scale")]
      said = peft.ia3(base, names, dict.fromkeys(fed))
    turned = any(one.turned for one in maps if one.modules in names)
    said["fan_in_fan_out"] = turned
  whole = peft_writing.replaced(_trained(plan, policy), lines, plan.suffixes)
  if whole:
    said["modules_to_save"] = sorted({n.rpartition(".")[0] for n in whole})
    arrays |= {peft_maps.PREFIX + name: x for name, x in whole.items()}
  said["task_type"] = _task(shape)
  return said, {name: x.astype(dtype) for name, x in arrays.items()}


def _task(shape: Shape) -> str | None:
  """Peft's word for what the base does; None where it has none."""
  if shape.outputs:
    return "SEQ_CLS"
  if shape.reads_sources:
    return "SEQ_2_SEQ_LM"
  return None if getattr(shape, "sees", "before") == "all" else "CAUSAL_LM"


def _base(experiment: Experiment) -> str | None:
  """Where the base is; None where it is nowhere as it was begun with."""
  base, adapters = importing.parted(experiment.init_from or "")
  return None if adapters or not base else base.removeprefix(importing.PREFIX)


def _has(adapters: Any, one: peft_maps.Map, name: str) -> bool:
  return trees.get(adapters, f"{one.path}/{name}") is not None


def _names(
  arrays: dict[str, np.ndarray],
  maps: Sequence[peft_maps.Map],
  sizes: peft_maps.Sizes,
  family: Family,
  lines: Sequence[Line],
) -> dict[str, list[str]]:
  """How config names each map that has an adapter, and no other."""
  every = {
    name.rpartition(".")[0]
    for line in lines
    for _, name in line.names(sizes[line.stack])
  }
  every |= {name.rpartition(".")[0] for name in family.extra}
  there = {peft_maps.module(n.removeprefix(peft_maps.PREFIX)) for n in arrays}
  wanted = {
    one.modules: [
      one.modules.format(layer=i) for i in range(sizes[one.line.stack]["L"])
    ]
    for one in maps
  }
  return {
    pattern: peft.target(modules, every - set(modules))
    for pattern, modules in wanted.items()
    if modules[0] in there
  }


def _trained(plan: state_plan.Plan, policy: Any) -> dict[str, Any]:
  """What of the base's params trains beside adapters, as a head does."""
  moved = plan.abstract.trainable["policy"].get("params", {})
  return {
    path: np.asarray(trees.get(policy["params"], path))
    for path, _ in trees.paths(moved)
  }
