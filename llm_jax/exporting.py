"""The verb `export`: a run as a folder that transformers loads as it is."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax

from llm_jax import (
  asking,
  checks,
  config,
  exporting_adapters,
  importing,
  naming,
  normalising,
  rewriting,
  state_plan,
  storage,
  trees,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.contracts import Tokenizer
from llm_jax.data import chat, foreign
from llm_jax.data.examples import Examples
from llm_jax.experiment import Asked, Experiment
from llm_jax.interop import families, heads, peft, writing
from llm_jax.interop.family import begins, Family
from llm_jax.interop.lines import Line
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.shape import Shape
from llm_jax.objectives.ranking import Ranking
from llm_jax.reporting import cards, files
from llm_jax.reporting.progress import progress, say
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import exported

_GIGABYTE = 10**9
FLAGS = ("format", "to", "shard_size", "weights_dtype", "licence", "adapter")


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What flags say of an export."""

  to: pathlib.Path
  shard_gigabytes: float = 2.0
  dtype: str = "float32"
  licence: str = "unknown"
  adapter: bool = False  # alone, in peft's format


def wanted(given: Mapping[str, Any]) -> Wanted:
  """What `FLAGS` say; ValueError where one of them says nothing known."""
  form, to, shard_size, dtype, licence, adapter = (given[n] for n in FLAGS)
  if form != "hf":
    raise ValueError(f"--format={form}: must be hf")
  if not to:
    raise ValueError("--to: no folder given to export to")
  if list(adapter) not in ([], ["peft"]):
    raise ValueError(f"--adapter={adapter[0]}: of an export must be peft")
  if not 0 < shard_size < 1e9:
    raise ValueError(
      f"--shard_size={shard_size}: must be more than 0, less than 1e9 (GB)"
    )
  if not str(licence).isprintable():
    raise ValueError(f"--licence={licence!r}: must be one line")
  if dtype not in writing.DTYPES:
    known = ", ".join(writing.DTYPES)
    raise ValueError(f"--weights_dtype={dtype}: one of {known}")
  if "\0" in to:
    raise ValueError(f"--to={to!r}: is no name of a folder")
  path = storage.local(to, "to")
  try:
    (path.parent / storage.partial_name(path.name)).exists()  # a name at all
    is_link, is_empty = (
      path.is_symlink(),
      path.is_dir() and not [*path.iterdir()],
    )
  except (OSError, ValueError) as e:
    raise ValueError(f"--to={to:.200}: {storage.reason(e)}") from e
  if is_link or path.exists() and not is_empty:
    raise ValueError(f"--to={to}: is there already; name a new folder")
  return Wanted(path, shard_size, dtype, licence, bool(adapter))


def export(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  name: str,
  wanted: Wanted,
) -> int:
  """Writes a run's weights, tokenizer, templates and card; adapters merged.

  Args:
    experiment: of the run.
    folder: of the run.
    step: of its checkpoint; None is the newest.
    name: of the experiment.
    wanted: where to, and how.

  Raises:
    ValueError: a folder that is there already; a model, a tokenizer or
      adapters that the format cannot hold.
  """
  if jax.process_count() > 1:
    raise ValueError("export: is done by one process alone")
  to = wanted.to
  if not importing.untrained(experiment, folder):
    checks.checkpoint(folder, step)
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    tokenizer = importing.tokenizer_of(experiment, folder)
    made = _tokenizer(experiment, tokenizer)
    model = model_lib.make(experiment, tokenizer)
    own = settings_of(model.shape)
    if own["outputs"] and model.shape.reads_sources:
      _reads_once(experiment)
    settings = rewriting.settings(own)
    objective = experiment.objective
    names = naming.names(experiment, folder)
    among: Sequence[Family] = families.FAMILIES
    if wanted.adapter:
      among = importing.words(experiment.init_from or "")
    family, said = described(settings, among, objective.outputs_of, names)
    if model.shape.outputs and objective.problem_type:
      said["problem_type"] = objective.problem_type
    plan = state_plan.make(experiment, model, mesh)
    step, roles = weights.load(experiment, plan, mesh, folder, step)
    lines = heads.lines(family, settings, said["architectures"][0])
    policy: Any = roles["policy"]
    more: dict[str, float] = {}
    if isinstance(objective, Ranking):
      params, more = _as_rewarded(experiment, folder, step, policy["params"])
      policy = {**policy, "params": params}
    if wanted.adapter:
      try:
        _adapter(experiment, plan, policy, (family, lines), wanted)
      except ValueError as e:
        raise ValueError(f"--adapter=peft: {folder}: {e}") from e
      say(f"exported the adapters of {folder} after step {step} to {to}")
      return 0
    try:
      params = state_plan.merged(plan, policy)
    except ValueError as e:
      raise ValueError(f"--workdir={folder}: {e}") from e
    params, suffixes = rewriting.params(own, params, plan.suffixes)
    said |= _ids(tokenizer, said.get("pad_token_id"))
    if model.shape.outputs:
      params = heads.params_without_tokens(params, settings)
    facts = {"step": step, "parameters": trees.size(params), **more}
    said["dtype"] = wanted.dtype
    with _made_whole(to) as partial:
      total = writing.write(
        partial,
        lines,
        params,
        suffixes,
        wanted.dtype,
        max(1, int(wanted.shard_gigabytes * _GIGABYTE)),
        progress,
      )
      generation = _generation(experiment, tokenizer, settings)
      _write(partial, "config.json", said)
      _write(partial, "generation_config.json", generation)
      for file, content in made.items():
        storage.write(partial / file, content)
      card = cards.card(
        name,
        wanted.licence,
        config.to_json(experiment),
        files.read_json(folder / "evaluation.json") or {},
        facts,
        said["architectures"][0],
        isinstance(experiment.data, Asked),
        (tokenizer.start_id, tokenizer.eos_id)
        if isinstance(experiment.data, Examples)
        and not model.shape.reads_sources  # whose tokenizer puts them there
        else None,
      )
      storage.write(partial / "README.md", card.encode())
  say(f"exported {folder} after step {step} to {to}: {total:,} bytes")
  return 0


def _as_rewarded(
  experiment: Experiment, folder: pathlib.Path, step: int, params: Any
) -> tuple[Any, dict[str, float]]:
  """Params with the gain and bias that rewards are used with, and facts."""
  if importing.untrained(experiment, folder):
    return params, {}
  found = normalising.read(experiment, folder, step)
  if found is None:
    if experiment.rewards.normalise != "none":
      say(f"{folder}: its rewards were not measured; they are as they are")
    return params, {}
  gain, bias = found["gain"], found["bias"]
  params, left = normalising.folded(params, normalising.Line(gain, bias))
  if left:
    say(
      f"the normalised reward is the exported score plus {left:.6g}: a"
      " model of that family has no bias there; README.md says so, too"
    )
  facts = {"gain, in the weights": gain}
  where = "to be added to the score" if left else "bias, in the weights"
  return params, {**facts, where: bias}


def _adapter(
  experiment: Experiment,
  plan: state_plan.Plan,
  policy: Any,
  table: tuple[Family, Sequence[Line]],
  wanted: Wanted,
) -> None:
  """Writes a run's adapters alone; ValueError where peft knows none such."""
  said, arrays = exporting_adapters.described(
    experiment, plan, policy, table, writing.DTYPES[wanted.dtype]
  )
  with _made_whole(wanted.to) as partial:
    _write(partial, peft.CONFIG, said)
    writing.save(partial / peft.ONE, arrays)


def settings_of(shape: Shape) -> dict[str, Any]:
  """What weights mean, by name; ValueError for another kind of model."""
  if not isinstance(shape, TransformerConfig):
    raise ValueError(
      f"--model: a {shape.kind} model has no form in that format"
    )
  out = {
    name: value
    for name, value in dataclasses.asdict(shape).items()
    if name not in importing.OWN
  }
  out["num_kv_heads"], out["head_dim"] = shape.K, shape.H
  if isinstance(shape, EncoderDecoderConfig):
    its = shape.reader
    out["encoder"] = {
      "num_layers": its.num_layers,
      "num_heads": its.num_heads,
      "num_kv_heads": its.K,
      "head_dim": its.H,
      "mlp_dim": its.mlp_dim,
    }
  for name in importing.OWN:
    part, _, leaf = name.partition(".")
    if leaf:
      out[part].pop(leaf, None)
  return heads.without_tokens(out) if shape.outputs else out


def _reads_once(experiment: Experiment) -> None:
  """ValueError where an encoder reads other text than its decoder."""
  if isinstance(experiment.data, Asked):
    raise ValueError(
      "export: a prompt is read by the encoder and its completion by the"
      " decoder (--data.source.length), and what transformers has for numbers"
      " of a text reads all of it in both; a decoder's can be exported"
    )


def described(
  settings: dict[str, Any],
  among: Sequence[Family] = families.FAMILIES,
  of: str = "text",
  names: Sequence[str] = (),
) -> tuple[Family, dict[str, Any]]:
  """The first family that can say some settings, and its config.json.

  Args:
    settings: ours.
    among: families that are tried.
    of: what its numbers are said of, where it says any.
    names: of classes, in order.

  Raises:
    ValueError: none can.
  """
  plain = settings_of(TransformerConfig())
  far: dict[str, list[str]] = {}  # what families refuse
  near = []  # why those refuse its head that would have the model
  for family in among:
    told = {
      name: value
      for name, value in settings.items()
      if name not in heads.SETTINGS
      and (name in family.known or value != plain.get(name, ...))
    }
    try:
      said = family.config(told)
    except ValueError as e:
      why = str(e) if len(among) == 1 else str(e).partition(": ")[0]
      far.setdefault(why, []).append(family.name)
      continue
    if not settings["outputs"]:
      return family, said
    try:
      return family, heads.config(family, said, settings, of, names)
    except ValueError as e:
      near.append(f"{family.name}: {e}")
  refused = near or [f"{', '.join(its)}: {why}" for why, its in far.items()]
  raise ValueError(
    f"export: no family of the ecosystem is such a model ({'; '.join(refused)})"
  )


def _ids(tokenizer: Tokenizer, pad: int | None = None) -> dict[str, int]:
  """Ids of special tokens; ValueError where padding's is to be another."""
  if pad not in (None, tokenizer.pad_id):
    raise ValueError(
      f"export: with --model.position_offset={pad + 1} the id of padding is"
      f" {pad}, and the tokenizer's is {tokenizer.pad_id}"
    )
  return {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": tokenizer.eos_id,
    "pad_token_id": tokenizer.pad_id,
  }


def _generation(
  experiment: Experiment, tokenizer: Tokenizer, settings: Mapping[str, Any]
) -> dict[str, Any]:
  """generation_config.json: as `generate` draws."""
  sampler = experiment.samples.sampler
  stop = [*dict.fromkeys(asking.stop_ids(experiment.data, tokenizer))]
  out: dict[str, Any] = {
    **_ids(tokenizer),
    **begins(settings),
    "eos_token_id": stop,
    "do_sample": sampler.temperature > 0,
    "max_new_tokens": experiment.samples.max_new_tokens,
  }
  if sampler.temperature > 0:
    out |= {
      "temperature": sampler.temperature,
      "top_k": sampler.top_k,
      "top_p": sampler.top_p,
    }
  return out


def _tokenizer(
  experiment: Experiment, tokenizer: Tokenizer
) -> dict[str, bytes]:
  """The tokenizer's files, with the chat template where questions are data."""
  try:
    apart = experiment.model.reads_sources
    model, said = exported.files(tokenizer, ended=apart)
  except ValueError as e:
    raise ValueError(f"export: {e}") from e
  said["model_max_length"] = experiment.model.max_length
  out = {"tokenizer.json": model}
  if isinstance(experiment.data, Asked):
    source = chat.Template(experiment.data.template).source
    if not experiment.data.template.startswith(foreign.PREFIX):
      source = exported.template(source, tokenizer, apart)
    if apart:
      source = exported.closed(source)
    out["chat_template.jinja"] = source.encode()
  out["tokenizer_config.json"] = json.dumps(said, indent=1).encode()
  return out


def _write(folder: pathlib.Path, name: str, content: dict[str, Any]) -> None:
  storage.write(folder / name, json.dumps(content, indent=1).encode())


@contextlib.contextmanager
def _made_whole(folder: pathlib.Path) -> Any:
  """A folder beside it, which takes its name once it is whole."""
  partial = folder.with_name(storage.partial_name(folder.name))
  try:
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():  # empty
      folder.rmdir()
    os.replace(partial, folder)
  except OSError as e:
    raise ValueError(f"--to={folder}: {storage.reason(e)}") from e
  finally:
    storage.remove(partial)
