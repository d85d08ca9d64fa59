"""What a run costs, before anything is made."""

import math
from typing import Any

import jax

from llm_jax import trees
from llm_jax.experiment import Experiment
from llm_jax.models import pipeline, sizing
from llm_jax.models.heads import LOGIT_BYTES
from llm_jax.models.shape import Shape
from llm_jax.reporting.throughput import PEAK
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.topologies import CHIPS
from llm_jax.training.state import TrainState

# Bytes that a program may use on one device.
MEMORY = {chip.kind: chip.memory for chip in CHIPS.values()}
EXPECTED_MFU = 0.4


def describe(
  experiment: Experiment,
  shape: Shape,
  abstract: TrainState,
  mesh_shape: dict[str, int],
  device_kind: str,
) -> dict[str, Any]:
  """Counts and bytes by analysis; nothing is compiled or allocated.

  Returns:
    `rows` for people (name, value), `bytes` a device, `limit` or None.
  """
  e = experiment
  sizes = sizing.parameters(shape)
  flops = sizing.flops_per_token(shape, e.data.length, e.source_length)
  devices = math.prod(mesh_shape.values())
  tokens = e.batch_size * e.data.length
  cuts = mesh_lib.row_cuts(mesh_shape)
  rows_here = e.batch_size // e.microbatches // cuts
  stays = abstract.frozen.get("reference", {})
  kept = bytes_of(abstract.trainable) + bytes_of(abstract.frozen)
  asks = "reference" in abstract.frozen or abstract.reference is not None
  reference = bytes_of(stays) + bytes_of(abstract.reference)
  models = 1 + e.objective.needs_critic
  beside = sum(
    (its.batch_size or e.batch_size) * its.data.length
    for its in e.beside.values()
  )
  stages = mesh_shape["stage"]
  waits = pipeline.bubble(stages, shape.parts(stages))
  here = lambda count: count // e.microbatches // cuts
  whole = lambda count, sources=0: sizing.stage_bytes(
    shape, here(count), stages, here(sources)
  )
  sources = e.batch_size * e.source_length
  step = {
    "gradients": bytes_of(abstract.trainable) * (1 + (e.microbatches > 1)),
    "activations": (models * whole(tokens, sources) + whole(beside))
    // (mesh_shape["tensor"] * mesh_shape["context"]),
    "logits": 3
    * min(
      LOGIT_BYTES,
      rows_here * e.data.length * shape.vocab_size * 4,
    ),
  }
  drawing: dict[str, int] = {}
  if e.draws:
    drawing = {"cache of what is drawn": _cache(e, shape) // devices}
  parts = {
    "parameters": kept - bytes_of(stays),
    **({"reference": reference} if asks else {}),
    "optimizer": bytes_of(abstract.opt_state),
    "moving average": bytes_of(abstract.average),
  }
  # What is drawn and what is learned are not there at the same time.
  total = sum(parts.values()) + max(sum(step.values()), sum(drawing.values()))
  parts |= step | drawing
  limit = MEMORY.get(device_kind)
  peak = PEAK.get(device_kind)
  seconds = None
  if peak:
    # Asking the reference is a forward, a third of what a step is without.
    work = models * flops.full * tokens * e.steps * (4 / 3 if asks else 1)
    work += flops.full * beside * e.steps
    seconds = work / (peak * EXPECTED_MFU * devices) / (1 - waits)
  moving = trees.size(abstract.trainable)
  mesh = " x ".join(f"{k} {v}" for k, v in mesh_shape.items() if v > 1)
  rows = [
    ("parameters", f"{sizes.total:,}"),
    ("  that multiply each token", f"{sizes.matmul:,}"),
    ("  that train", f"{moving:,} ({moving / sizes.total:.2%})"),
    ("tokens a step", f"{tokens:,}"),
    *([("tokens beside", f"{beside:,}")] if beside else []),
    ("tokens in all", f"{tokens * e.steps:,}"),
    ("flops a token, full attention", f"{flops.full:,.0f}"),
    ("flops a token, causal attention", f"{flops.causal:,.0f}"),
    ("flops in all", f"{flops.full * tokens * e.steps:.3g}"),
    ("devices", f"{devices} x {device_kind}" + (f" ({mesh})" if mesh else "")),
    *((f"bytes a device: {k}", human(v)) for k, v in parts.items()),
    ("bytes a device: all", human(total)),
    *([("time that stages wait", f"{waits:.1%}")] if waits else []),
    ("device memory", human(limit) if limit else "unknown"),
    (
      f"time at {EXPECTED_MFU:.0%} MFU",
      f"{seconds / 3600:.2f} h" if seconds else "unknown",
    ),
  ]
  return {"rows": rows, "bytes": total, "limit": limit}


def table(abstract: TrainState) -> list[tuple[str, str, str, str]]:
  """(path, shape, dtype, placement) of each parameter."""
  roles = trees.join(abstract.trainable, abstract.frozen)
  return [
    (path, str(list(x.shape)), x.dtype.name, str(tuple(x.sharding.spec)))
    for path, x in trees.paths(roles)
  ]


def _cache(experiment: Experiment, shape: Shape) -> int:
  """Bytes of keys and values of all that is drawn at once."""
  drawn = experiment.rollouts
  slots = experiment.peft.places + drawn.max_prompt + drawn.max_new_tokens
  return sizing.cache_bytes(shape, drawn.batch, slots)


def bytes_of(tree: Any) -> int:
  """Bytes on one device."""
  total = 0
  for x in jax.tree.leaves(tree):
    shape = x.sharding.shard_shape(x.shape)
    total += math.prod(shape) * x.dtype.itemsize
  return total


def human(size: float) -> str:
  """1536 -> "1.5 KiB"."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if size < 1024:
      return f"{size:.1f} {unit}"
    size /= 1024
  return f"{size:.1f} TiB"
