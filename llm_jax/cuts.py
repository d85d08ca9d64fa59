"""Whether a mesh can cut what an experiment computes, and who gets what."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax.contracts import Share
from llm_jax.experiment import Experiment
from llm_jax.models import kernels, pipeline
from llm_jax.sharding import mesh as mesh_lib


def share(experiment: Experiment, mesh: Mesh) -> Share:
  """This process's share of a batch; ValueError where it cannot be cut."""
  _check_kernel(experiment, mesh)
  _check_stages_here(experiment, mesh)
  found = mesh_lib.share(mesh, experiment.batch_size)
  check(experiment, mesh.shape)
  return found


def check(experiment: Experiment, sizes: Mapping[str, int]) -> None:
  """ValueError where a mesh of such sizes cannot cut a batch."""
  together = experiment.objective.rows_together
  cuts = mesh_lib.row_cuts(sizes) * experiment.microbatches
  by = mesh_lib.say_row_cuts(sizes)
  if experiment.batch_size % (cuts * together):
    rows = f" x {together} rows that belong together" if together > 1 else ""
    raise ValueError(
      f"--batch_size={experiment.batch_size}: not divisible by"
      f" --microbatches={experiment.microbatches} x {by}{rows}"
    )
  _check_axes(experiment, sizes)
  _check_experts(experiment, sizes)
  _check_stages(experiment, sizes)
  _check_positions(experiment, sizes)
  for i, its in experiment.beside.items():
    if its.batch_size % (cuts * together):  # they are cut as the others are
      raise ValueError(
        f"--ptx.{i}.batch_size={its.batch_size}: not divisible by"
        f" --microbatches={experiment.microbatches} x {by} x {together}"
      )


def _check_axes(experiment: Experiment, sizes: Mapping[str, int]) -> None:
  """ValueError where an axis has devices that the model leaves idle."""
  model = experiment.model
  for axis, devices in sizes.items():
    if devices > 1 and axis not in model.cut_by:
      raise ValueError(
        f"--mesh.{axis}={devices}: {model.kind} models are cut by"
        f" {', '.join(model.cut_by)}"
      )
  tensor, dims = sizes["tensor"], model.tensor_dims
  if tensor > 1 and all(size % tensor for size in dims):
    raise ValueError(
      f"--mesh.tensor={tensor}: divides nothing of the layers that it could"
      f" cut: {', '.join(map(str, dims))}"
    )


def _check_experts(experiment: Experiment, sizes: Mapping[str, int]) -> None:
  """ValueError where devices that share experts would not all have some."""
  num, devices = experiment.model.num_experts, sizes["expert"]
  if devices > 1 and not num:
    raise ValueError(
      f"--mesh.expert={devices}: the model has no experts;"
      f" --mesh.data={devices} shares rows"
    )
  if num % devices:
    valid = ", ".join(str(d) for d in range(1, num + 1) if num % d == 0)
    raise ValueError(
      f"--mesh.expert={devices}: must divide --model.experts.num={num}: {valid}"
    )


def _check_stages(experiment: Experiment, sizes: Mapping[str, int]) -> None:
  """ValueError where layers, or the rows of a microbatch, have no stages."""
  stages, model = sizes["stage"], experiment.model
  if stages == 1:
    return
  cuts = mesh_lib.row_cuts(sizes) * experiment.microbatches
  rows = experiment.batch_size // cuts
  pipeline.check(stages, model.parts(stages), model.num_layers, rows)


def _check_stages_here(experiment: Experiment, mesh: Mesh) -> None:
  """ValueError where XLA would end the process (jaxlib 0.10.2, on CPUs)."""
  stages, dtype = mesh.shape["stage"], jnp.dtype(experiment.model.dtype)
  is_cpu = mesh.devices.flat[0].platform == "cpu"
  if stages > 1 and is_cpu and dtype.itemsize < 4:
    raise ValueError(
      f"--mesh.stage={stages}: XLA cannot compile stages in"
      f" --model.dtype={experiment.model.dtype} for CPUs; float32"
    )


def _check_positions(experiment: Experiment, sizes: Mapping[str, int]) -> None:
  """ValueError where the positions of rows cannot be cut over devices."""
  context, length = sizes["context"], experiment.data.length
  widths = getattr(experiment.data, "widths", 1)
  row = -(-length // widths)  # the shortest, and what longer ones are more by
  by = f"not divisible by --mesh.context={context}"
  if experiment.draws:
    row = _drawn(experiment)
  elif row % context:
    several = f" in --data.widths={widths}, {row} positions" * (widths > 1)
    raise ValueError(f"--data.length={length}{several}: {by}")
  soft = experiment.peft.places
  if (row + soft) % context and row % context == 0:
    raise ValueError(f"--peft.tokens={soft}: with rows of {row} positions {by}")


def _check_kernel(experiment: Experiment, mesh: Mesh) -> None:
  """ValueError where the kernel that is named cannot read whole rows here."""
  shape: Any = experiment.model
  if not shape.attends:
    return
  context = mesh.shape["context"]
  row = _drawn(experiment) if experiment.draws else experiment.data.length
  call = kernels.Call(
    platform=mesh.devices.flat[0].platform,
    dtype=shape.dtype,
    width=shape.H,
    queries=row,
    kind="causal",
    context=1 if row % context else context,
  )
  kernels.choose(shape, call)


def _drawn(experiment: Experiment) -> int:
  """Positions of the longest row that a policy draws."""
  drawn = experiment.rollouts
  return drawn.max_prompt + drawn.max_new_tokens
