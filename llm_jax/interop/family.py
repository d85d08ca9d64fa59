"""What a table says of a family of models, and how its config.json is read."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_jax.interop.lines import Line

Settings = dict[str, Any]
"""Our settings of a model, by name; those of a part of it as a dict."""

# Keys that change nothing that a model computes, but for training.
HARMLESS = frozenset((
  *("architectures", "model_type", "transformers_version", "torch_dtype"),
  *("dtype", "use_cache", "initializer_range", "bos_token_id"),
  *("eos_token_id", "pad_token_id", "id2label", "label2id", "num_labels"),
  *("attention_dropout", "output_router_logits", "router_aux_loss_coef"),
  *("output_attentions", "output_hidden_states", "return_dict"),
  *("pretraining_tp", "problem_type", "task_specific_params"),
  *("gradient_checkpointing", "unsloth_version"),
  *("unsloth_fixed", "use_bfloat16"),
  *("chunk_size_feed_forward", "torchscript", "finetuning_task"),
))  # fmt: skip

# Of how text was drawn from it, which an experiment says here (--samples).
DRAWING = (
  *("max_length", "min_length", "do_sample", "temperature", "top_k", "top_p"),
  *("num_beams", "num_beam_groups", "num_return_sequences", "early_stopping"),
  *("length_penalty", "repetition_penalty", "diversity_penalty"),
  *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "prefix"),
  "forced_eos_token_id",
)


class Family(NamedTuple):
  """One table: their names and settings, and ours.

  Attributes:
    name: of the file, for errors.
    architectures: names in config.json of models of tokens.
    settings: what their config.json says, as our settings.
    config: our settings as their config.json; ValueError where it cannot say
      one of them.
    lines: our parameters and their tensors, for some settings.
    prefix: of names in a model with a head, that one without leaves out.
    extra: ends of names of tensors that are no weights.
    heads: architectures that say numbers, beside those, with what says them.
    copies: (name, our path) of tensors that may be there besides, alike.
    renamed: (old, new) ends of names, of older files.
    known: settings that its config.json can say; others must be as they are by
      default.
    own_head: the tensor without which the head is the table, whatever
      config.json says of it; "" = that says it.
  """

  name: str
  architectures: tuple[str, ...]
  settings: Callable[["Keys"], Settings]
  config: Callable[[Settings], dict[str, Any]]
  lines: Callable[[Settings], list[Line]]
  prefix: str = "model."
  extra: tuple[str, ...] = ("rotary_emb.inv_freq",)
  known: tuple[str, ...] = ()
  copies: tuple[tuple[str, str], ...] = (("lm_head.weight", "embedding"),)
  renamed: tuple[tuple[str, str], ...] = ()
  heads: Mapping[str, Any] = MappingProxyType({})  # of `heads.Head`
  own_head: str = ""


class Keys:
  """config.json, each key of which is read, known to be harmless, or refused.

  Args:
    config: as in the file.
    given: what named the folder, for errors.
    file: its name, for errors.
  """

  def __init__(
    self, config: Mapping[str, Any], given: str, file: str = "config.json"
  ):
    self.config, self.given = config, given
    self._file = file
    self._read: set[str] = set()

  @property
  def architecture(self) -> str:
    """The first name under `architectures`."""
    return str((self.config.get("architectures") or [""])[0])

  def get(self, name: str, default: Any) -> Any:
    """A key's value, the default where it is absent or null.

    Raises:
      ValueError: a value of another kind than the default.
    """
    self._read.add(name)
    found = self.config.get(name)
    if found is None:
      return default
    return alike(found, default, f"{self.given}: {self._file} has {name}")

  def need(self, name: str) -> int:
    """A key's value, a size; ValueError where it is absent or none."""
    found = self.get(name, None)
    if found is None:
      raise ValueError(f"{self.given}: {self._file} has no {name}")
    return alike(found, 1, f"{self.given}: {self._file} has {name}", low=1)

  def nullable(self, name: str, default: Any) -> Any:
    """A key's value, the default where it is absent; null is None."""
    found = self.get(name, default)
    return None if name in self.config and self.config[name] is None else found

  def must(self, name: str, *allowed: Any) -> Any:
    """A key's value, which may be absent; ValueError unless it is allowed."""
    found = self.get(name, allowed[0])
    if found not in allowed:
      these = " or ".join(repr(a) for a in allowed)
      raise ValueError(
        f"{self.given}: {self._file} has {name}={found!r}; known is {these}"
      )
    return found

  def first_id(self) -> int:
    """The id that what is written begins with, or -1."""
    # An older word for the same.
    if self.get("force_bos_token_to_be_generated", False):
      return int(self.get("bos_token_id", 0))
    return int(self.get("forced_bos_token_id", -1))

  def skip(self, *names: str) -> None:
    """Says that keys change nothing here."""
    self._read.update(names)

  def check(self) -> None:
    """ValueError for a key that nobody has read."""
    for name, value in self.config.items():
      known = name in self._read or name in HARMLESS or name.startswith("_")
      if not known and value not in (None, False):
        raise ValueError(
          f"{self.given}: {self._file} has {name}={value!r:.80}, which is not"
          f" known of {self.architecture or 'adapters'}; take it out if it"
          " changes nothing"
        )


def alike(found: Any, like: Any, where: str, low: int = 0) -> Any:
  """A value, of the kind of another; None is of any kind.

  Args:
    found: in a file.
    like: a value of the kind that is meant.
    where: it was found, for errors: "FOLDER: config.json has NAME".
    low: least whole number.

  Raises:
    ValueError: another kind, no finite number, or a size that none has.
  """
  number = isinstance(found, int | float) and not isinstance(found, bool)
  right, words = True, ""
  if isinstance(like, bool):
    right, words = isinstance(found, bool), "true or false"
  elif isinstance(like, int):
    right = number and low <= found < 2**31 and found == int(found)
    found = int(found) if right else found
    words = f"a whole number from {low} to {2**31 - 1}"
  elif isinstance(like, float):
    right = number and abs(found) < 1e38
    found = float(found) if right else found
    words = "a finite number"
  elif isinstance(like, dict):
    right, words = isinstance(found, dict), "an object"
  elif isinstance(like, list | tuple):
    right, words = isinstance(found, list), "a list"
  if not right:
    raise ValueError(f"{where}={found!r:.80}; it must be {words}")
  return found


def only(settings: Settings, known: Sequence[str]) -> None:
  """ValueError where settings say more than a family's config.json can."""
  for name in settings:
    if name not in known:
      raise ValueError(f"--model.{name}={settings[name]}: it has no such thing")


def encoder(settings: Settings) -> Settings:
  """Of an encoder-decoder, its encoder; ValueError for another kind."""
  if "encoder" not in settings:
    raise ValueError("--model: it reads no source of its own")
  return dict(settings["encoder"])


def begins(settings: Mapping[str, Any]) -> dict[str, int]:
  """What all that it writes begins with; {} where no encoder reads."""
  start, first = settings.get("start_id"), settings.get("first_id", -1)
  out = {} if start is None else {"decoder_start_token_id": start}
  return out if first < 0 else out | {"forced_bos_token_id": first}


class Told:
  """Our settings, None standing for what nobody told.

  Args:
    settings: by name.
    kind: of model, for errors.
  """

  def __init__(self, settings: Settings, kind: str):
    self._settings, self._kind = settings, kind

  def get(self, name: str, default: Any) -> Any:
    """A setting's value, the default where nobody told it."""
    found = self._settings.get(name)
    return default if found is None else found

  def must(self, **allowed: tuple) -> None:
    """ValueError unless each setting is one of some values."""
    for name, these in allowed.items():
      found = self._settings.get(name)
      if found not in these:
        raise ValueError(
          f"--model.{name}={found}: no family of {self._kind} kind has it"
        )
