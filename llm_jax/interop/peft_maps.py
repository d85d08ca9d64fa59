"""Dense maps of a base, and how the `peft` library names what is for them.

peft's A is [R, inputs] and B [outputs, R], and IA3's scale is [outputs, 1], or
[1, inputs] where inputs are scaled, each named by the map that it is for. A map
of theirs may be several of ours (queries, keys and values in one tensor): these
share A, and each has its part of the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax import axes, trees
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import Line

PREFIX = "base_model.model."
PROMPT = "prompt_embeddings"
Sizes = Mapping[str, Mapping[str, int]]
"""Stack of layers -> letter -> size."""


class Map(NamedTuple):
  """A dense map, ours and theirs.

  Attributes:
    path: of ours: "blocks/attention/query".
    line: of its kernel.
    suffix: of its kernel: "LDNH".
  """

  path: str
  line: Line
  suffix: str

  @property
  def modules(self) -> str:
    """Name of theirs, with {layer}."""
    return self.line.name.removesuffix(".weight")

  @property
  def turned(self) -> bool:
    """Whether theirs is [inputs, outputs]."""
    ins = self.suffix[1 : 1 + axes.num_inputs(self.suffix)]
    return sorted(self.line.mine()[0]) == sorted(ins)

  def array(self, name: str) -> tuple[Line, str]:
    """The line of one of an adapter's arrays, and its suffix."""
    split = 1 + axes.num_inputs(self.suffix)
    ins, outs = self.suffix[1:split], self.suffix[split:]
    words = self.line.dims.split()
    theirs_in, theirs_out = words if self.turned else words[::-1]
    end, dims, suffix = {
      "a": ("lora_A.weight", f"R {theirs_in}", f"L{ins}R"),
      "b": ("lora_B.weight", f"{theirs_out} R", f"LR{outs}"),
      "magnitude": ("lora_magnitude_vector", theirs_out, f"L{outs}"),
      "output_scale": ("ia3_l", f"{theirs_out} _", f"L{outs}_"),
      "input_scale": ("ia3_l", f"_ {theirs_in}", f"L_{ins}"),
    }[name]
    line = Line(
      f"{self.path}/{name}", f"{self.modules}.{end}", dims, self.line.part
    )
    return line, suffix


def maps(lines: Sequence[Line], suffixes: Any) -> list[Map]:
  """Those of a table that adapters can be for, but for experts."""
  out = []
  for line in lines:
    suffix = trees.get(suffixes, line.path)
    if line.path.endswith("/kernel") and line.counted == "L" and suffix:
      out.append(Map(line.path.removesuffix("/kernel"), line, suffix))
  return out


def module(name: str) -> str:
  """The module that a tensor is for."""
  return name.partition(".lora_")[0].removesuffix(".ia3_l")


def names(folder: Folder, prefix: str, heads: set[str]) -> dict[str, Tensor]:
  """The tensors, by names of the base's modules.

  Args:
    folder: of the adapters.
    prefix: of names in a model with a head, that one without leaves out.
    heads: names of tensors that have no such prefix.
  """
  found = {n.removeprefix(PREFIX): x for n, x in folder.tensors().items()}
  if any(n.startswith(prefix) for n in found) or PROMPT in found:
    return found
  return {n if n in heads else prefix + n: x for n, x in found.items()}
