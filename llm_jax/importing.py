"""--init_from=hf:PATH: a folder of the ecosystem as the base of a run.

The folder says what weights mean: all settings of shape. The experiment says
how they are computed with.
"""

from collections.abc import Collection, Sequence
import contextlib
import dataclasses
import operator
import pathlib
from typing import Any

from llm_jax import config, storage
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Progress, Tokenizer
from llm_jax.experiment import Experiment
from llm_jax.interop import families, heads, peft, reading
from llm_jax.interop.family import Family
from llm_jax.interop.folder import CONFIG, Folder
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.shape import Shape
from llm_jax.reporting import progress
from llm_jax.tokenizers import store

PREFIX, ADAPTERS = "hf:", "peft:"
_TAKEN_BY = {
  PREFIX: ("init_from", "value_from", "judge.run"),
  ADAPTERS: ("init_from", "adapter"),
}
# Settings of a model that change how it is computed or trained, not what its
# weights mean: these are the experiment's own.
OWN = (
  *("dropout", "init_std", "dtype", "attention", "context_attention"),
  *("unroll", "remat", "stage_microbatches", "stage_remat", "head_chunk"),
  *("experts.balance", "experts.z_loss"),
)


def is_folder(given: str | None) -> bool:
  """Whether a flag names a folder of the ecosystem, and no run."""
  return given is not None and given.startswith(PREFIX)


def meant(path: pathlib.Path, flag: str) -> str:
  """The end of an error: how a folder that is no run is to be given.

  "" where it is none of the ecosystem's, or none that the flag takes.
  """
  for prefix, name in ((PREFIX, CONFIG), (ADAPTERS, peft.CONFIG)):
    with contextlib.suppress(OSError):  # no name of a file at all
      if flag in _TAKEN_BY[prefix] and (path / name).is_file():
        return f"; it has {name}, so that it is --{flag}={prefix}{path}"
  return ""


def parted(given: str) -> tuple[str, str | None]:
  """The base, and the adapters "peft:FOLDER" that it is to have, if any."""
  base, plus, adapters = given.partition(f"+{ADAPTERS}")
  return base, f"{ADAPTERS}{adapters}" if plus else None


def folder(given: str, flag: str = "init_from") -> Folder:
  """The folder that a flag names; ValueError where it holds no model."""
  base, _ = parted(given)
  name = base.removeprefix(PREFIX)
  if not name:
    raise ValueError(f"--{flag}={given}: no folder is named")
  return Folder(storage.local(name, flag), f"--{flag}={given}")


def words(given: str) -> Sequence[Family]:
  """Families in whose words a base may be named: a folder in its own alone."""
  base, _ = parted(given)
  return (families.of(folder(base)),) if is_folder(base) else families.FAMILIES


def model(
  given: str,
  own: Shape,
  fixed: Collection[str] = (),
  flag: str = "init_from",
) -> TransformerConfig:
  """The model that a folder holds, computed as an experiment says.

  Args:
    given: "hf:PATH".
    own: the experiment's model.
    fixed: settings of it that were given as flags, without "model.".
    flag: that named it, for errors.

  Raises:
    ValueError: no model that is known, or a flag that says something else.
  """
  where = folder(given, flag)
  found = _as_settings(families.settings(where), where.given)
  if type(own) is not type(found):
    raise ValueError(
      f"{where.given}: its model is of kind {found.kind}, and --model is of"
      f" kind {own.kind}; take an experiment with"
      f" model={type(found).__name__}()"
    )
  same: Any = own  # kind
  if isinstance(found, EncoderDecoderConfig) and "first_id" not in fixed:
    same = dataclasses.replace(same, first_id=found.first_id)
  return adopted(found, same, fixed, where.given)


def classes(given: str) -> tuple[str, ...]:
  """Names of what a folder's head tells apart; none where they have none."""
  where = folder(given)
  if where.architecture not in families.of(where).heads:
    return ()
  found = heads.labels(where)
  return () if found == heads.plain(len(found)) else found


def speaks_of(given: str) -> str:
  """What a folder's head speaks of: "text", "token", "span"; "" without one."""
  where = folder(given)
  head = families.of(where).heads.get(where.architecture)
  return head.of if head else ""


def resolved(experiment: Experiment, fixed: Collection[str]) -> Experiment:
  """An experiment with the model of the folder that it begins from.

  Says in a line what that changes.

  Args:
    experiment: with `init_from` "hf:PATH".
    fixed: as for `model`.

  Raises:
    ValueError: as `model`, or a head of something else than is learned here.
  """
  given, objective = experiment.init_from, experiment.objective
  assert given is not None
  found = model(given, experiment.model, fixed)
  reads = experiment.model.outputs or objective.problem_type
  wanted, there = objective.outputs_of, speaks_of(given)
  if there not in ("", wanted) and (reads or wanted != "text"):
    raise ValueError(
      f"--init_from={given}: its head says numbers of a {there}, and"
      f" --objective={type(objective).__name__} reads those of a {wanted}"
    )
  if changed := differing(experiment.model, found):
    progress.say(f"the model of {given}: {changed}")
  return dataclasses.replace(experiment, model=found)


def tokenizer(given: str, flag: str = "init_from") -> Tokenizer:
  """That of a folder; ValueError where it holds none that can be read."""
  where = folder(given, flag)
  try:
    return store.theirs(where.path, where.config)
  except ValueError as e:
    raise ValueError(f"{where.given}: {e}") from e


def untrained(experiment: Experiment, run: pathlib.Path) -> bool:
  """Whether a folder of the ecosystem stands for a run, which has no step."""
  begins = is_folder(experiment.init_from)
  return begins and not Store(run / "checkpoints").steps()


def tokenizer_of(experiment: Experiment, run: pathlib.Path) -> Tokenizer:
  """That of a run, or of the folder of the ecosystem that it begins from."""
  if untrained(experiment, run) and experiment.init_from:
    return tokenizer(experiment.init_from)
  return store.load(run / "tokenizer")


def adopt_tokenizer(given: str, target: pathlib.Path) -> None:
  """Takes over the tokenizer of a folder, unless there is one already."""
  where = folder(given)
  try:
    store.adopt(where.path, where.config, target)
  except ValueError as e:
    raise ValueError(f"{where.given}: {e}") from e


def adopted(
  found: TransformerConfig,
  own: TransformerConfig,
  fixed: Collection[str],
  given: str,
) -> TransformerConfig:
  """What weights mean as in one model, and the rest as in another.

  Where no weights are of positions, those of `fixed` may be fewer; of factors
  for short and for long contexts (LongRoPE) that chooses.
  """
  out: Any = found
  for name in OWN:
    out = _put(out, name.split("."), operator.attrgetter(name)(own))
  if isinstance(own, EncoderDecoderConfig):  # of drawing, not of weights
    out = dataclasses.replace(out, first_id=own.first_id)
  if own.outputs and not found.outputs:
    its = {name: getattr(own, name) for name in heads.SETTINGS}
    try:
      out = dataclasses.replace(out, **its)
    except ValueError as e:
      raise ValueError(f"{given}: {e}") from e
  elif own.outputs not in (0, found.outputs):
    raise ValueError(
      f"--model.outputs={own.outputs}: the model of {given} says"
      f" {found.outputs} numbers; 0 takes as many"
    )
  for name in fixed:
    old, new = (operator.attrgetter(name)(its) for its in (out, own))
    if name == "max_length" and new < old and found.positions != "learned":
      out = _put(out, [name], new)
    elif old != new:
      raise ValueError(f"--model.{name}={new}: the model of {given} has {old}")
  return out


def differing(old: Shape, new: Shape) -> str:
  """In what a model differs from another, in a line; "" where in nothing."""
  changed = config.differences(config.to_json(old), config.to_json(new))
  return ", ".join(f"{name}={its[1]}" for name, its in changed.items())


def params(
  given: str,
  flag: str,
  shape: Shape,
  abstract: Any,
  suffixes: Any,
  bar: Progress = progress.progress,
) -> Any:
  """A folder's weights, placed; without an output head where it has none.

  Args:
    given: "hf:PATH".
    flag: that named it, for errors.
    shape: of the model that they are for.
    abstract: its params, as shapes with shardings.
    suffixes: their dims.
    bar: shows that it goes on.

  Raises:
    ValueError: the folder's model is another, or its tensors are not those
      that its config.json says.
  """
  where = folder(given, flag)
  said = families.settings(where)
  assert isinstance(shape, TransformerConfig)  # `model` has seen to it
  family, fixed = families.of(where), ("max_length",)
  new: tuple[str, ...] = ("output_",)
  if where.architecture in family.heads:  # one for tokens is the experiment's
    new = () if shape.tied else ("head",)
    said |= {"tied": shape.tied, "head_scale": shape.head_scale}
  found = _as_settings(said, where.given)
  there = adopted(found, shape, fixed, where.given)
  if there != shape:
    raise ValueError(
      f"{where.given}: is another model than the run's:"
      f" {differing(shape, there)} there"
    )
  said |= {name: getattr(shape, name) for name in heads.SETTINGS}
  return reading.params(
    where,
    family,
    heads.lines(family, said, where.architecture),
    abstract,
    suffixes,
    bar,
    new=new,
  )


def _as_settings(found: dict[str, Any], given: str) -> TransformerConfig:
  """A model of the settings that are told, all others as they are by default.

  Raises:
    ValueError: what the settings themselves refuse.
  """
  out = EncoderDecoderConfig() if "encoder" in found else TransformerConfig()
  for leaf in config.leaves(out):
    part, _, last = leaf.name.rpartition(".")
    told = found.get(part, {}) if part else found
    if last in told and not config.fits(leaf._replace(value=told[last])):
      raise ValueError(
        f"{given}: its config.json makes --model.{leaf.name}="
        f"{told[last]!r:.80}; must be {config.allowed(leaf)}"
      )
  try:
    new = {
      name: dataclasses.replace(getattr(out, name), **its)
      if isinstance(its, dict)
      else its
      for name, its in found.items()
    }
    return dataclasses.replace(out, **new)
  except ValueError as e:
    raise ValueError(f"{given}: its config.json makes {e}") from e


def _put(settings: Any, names: list[str], value: Any) -> Any:
  name, *rest = names
  if rest:
    value = _put(getattr(settings, name), rest, value)
  return dataclasses.replace(settings, **{name: value})
