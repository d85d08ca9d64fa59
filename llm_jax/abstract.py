"""A batch before there is one: the shapes of what a step reads.

Dimension key: B rows; P prompt places; S units packed into a row.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax import reinforcing
from llm_jax.contracts import Batch
from llm_jax.data.denoisers import Masked, Plain
from llm_jax.data.examples import Examples
from llm_jax.data.instructions import Instructions
from llm_jax.data.passages import Passages
from llm_jax.data.preferences import Preferences
from llm_jax.data.sides import SourceSide
from llm_jax.data.tags import Tags
from llm_jax.data.text import Text
from llm_jax.experiment import DataSettings, Experiment
from llm_jax.model import Model
from llm_jax.objectives.drawn_pairs import DrawnPairs
from llm_jax.objectives.mixed import carrying
from llm_jax.sharding import mesh as mesh_lib

_TOKENS = {"tokens_BT": jnp.int32, "target_BT": jnp.int32, "mask_BT": bool}
_APART = {"segment_BT": jnp.int32, "position_BT": jnp.int32}
_ASKED = {"prompt_BT": bool}
_READ = ("source_BS", "source_segment_BS", "source_position_BS")
# What each kind of rows of preferences has, a number each.
_COLUMNS = {
  "pairs": {"margin_B": jnp.float32},
  "labels": {"label_B": jnp.float32, "mismatched_B": bool},
  "answers": {},
  "classes": {"class_B": jnp.int32},
  "rankings": {"rank_B": jnp.int32},
}
_TYPES = {"type_BT": jnp.int32}
# What is told of each text.
_TOLD = {
  "classes": {"class_B": jnp.int32},
  "class_sets": {},  # `classes_BO`
  "numbers": {"number_B": jnp.float32},
}
_PACKED = 4  # S, of rows of several pairs; the data decide it
# What the host adds to what is drawn, a number each.
_SCORED = (
  *("judged_B", "earned_B", "score_B", "beta_B", "length_B", "mismatch_B"),
  *("flat_B", "kl_B"),
)
_STOP = (2,)


def batch(
  experiment: Experiment, model: Model, roles: Any, mesh: Mesh
) -> Batch:
  """Shapes and placement of what a step of training reads.

  Args:
    experiment: what is trained.
    model: its decoder.
    roles: shapes of the weights, for what is drawn.
    mesh: where; set by `jax.set_mesh`.
  """
  e, size = experiment, experiment.batch_size
  if e.draws:
    found = _drawn(e, model, roles, mesh)
    found = {n: _resized(x, size) for n, x in found.items()}
  else:
    found = _rows(e.data, size)
    if isinstance(e.data, Examples) and e.data.rows == "class_sets":
      found["classes_BO"] = _shape((size, e.model.outputs), bool)
    if e.reference == "once" and e.objective.needs_reference:
      packed = "segment_BT" in found
      shape = (size, _PACKED) if packed else (size,)
      name = "ref_logp_BS" if packed else "ref_logp_B"
      found[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
  beside = [
    _rows(its.data, its.batch_size or size) for its in e.beside.values()
  ]
  return placed(carrying(found, beside), mesh)


def prompts(experiment: Experiment, mesh: Mesh) -> Batch:
  """Shapes and placement of what is drawn from."""
  drawn = experiment.rollouts
  rows = {
    "prompt_BP": _shape((drawn.batch, drawn.max_prompt), jnp.int32),
    "length_B": _shape((drawn.batch,), jnp.int32),
  }
  return placed(rows, mesh)


def key(mesh: Mesh) -> Any:
  """A random key's shape, on every device."""
  spec = NamedSharding(mesh, PartitionSpec())
  one = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=spec)


def placed(rows: Batch, mesh: Mesh) -> Batch:
  """Rows of a batch, cut over the mesh as every source cuts them."""
  sharding = mesh_lib.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    for name, x in rows.items()
  }


def functions(experiment: Experiment, model: Model) -> reinforcing.Functions:
  """How the policy draws, and how what it drew is scored."""
  return reinforcing.functions(experiment, model, _STOP)


def _rows(where: DataSettings, size: int) -> dict[str, Any]:
  """Of data that are there before training begins."""
  names: dict[str, Any] = dict(_TOKENS)
  columns: dict[str, Any] = {}
  packing = getattr(where, "packing", "cut")
  if isinstance(where, Preferences):
    names |= _ASKED
    columns = {"row_B": jnp.int32, **_COLUMNS[where.rows]}
    if packing != "one":
      names |= _APART
  elif isinstance(where, Tags):
    names |= _APART | _TYPES | {"tag_BT": jnp.int32, "word_BT": jnp.int32}
  elif isinstance(where, Passages):
    names |= _APART | _TYPES
    columns = dict.fromkeys(("start_B", "end_B", "row_B"), jnp.int32)
  elif isinstance(where, Examples):
    names, columns = names | _APART | _TYPES, _TOLD[where.rows]
  elif isinstance(where, Instructions):
    names |= _APART if where.source.length else _APART | _ASKED
  elif isinstance(where, Text):
    names |= _of_text(where)
  out = {n: _shape((size, where.length), dtype) for n, dtype in names.items()}
  source = getattr(where, "source", SourceSide())
  if source.length:
    read = _shape((size, source.length), jnp.int32)
    out |= dict.fromkeys(_READ, read)
  for name, dtype in columns.items():
    if packing != "one" and isinstance(where, Preferences):
      out[f"{name}S"] = _shape((size, _PACKED), dtype)
    else:
      out[name] = _shape((size,), dtype)
  return out


def _of_text(where: Text) -> dict[str, Any]:
  """What rows of text have beside tokens and targets."""
  packed = where.packing == "best_fit" or where.source.length
  names = dict(_APART) if packed else {}
  if isinstance(where.corruption, Masked):
    return names | {"asked_BT": bool}
  if isinstance(where.corruption, Plain) or where.source.length:
    return names
  return names | _ASKED


def _drawn(
  experiment: Experiment, model: Model, roles: Any, mesh: Mesh
) -> dict[str, Any]:
  """What an update has drawn and credited."""
  made = functions(experiment, model)
  rows = jax.eval_shape(made.draw, roles, prompts(experiment, mesh), key(mesh))
  rows = {**rows, **jax.eval_shape(made.score, roles, rows)}
  wide = rows["old_logp_BT"].dtype
  B = experiment.rollouts.batch
  rows |= {name: _shape((B,), wide) for name in _SCORED}
  objective: Any = experiment.objective
  if experiment.draws_pairs:
    objective = DrawnPairs(experiment.group)
  return dict(jax.eval_shape(objective.credit, rows))


def _resized(x: Any, rows: int) -> Any:
  return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
