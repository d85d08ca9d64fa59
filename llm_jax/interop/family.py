"""What a table says of a family of models, and how its config.json is read."""

from collections.abc import Callable, Mapping, Sequence
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
  *("pretraining_tp", "problem_type", "task_specific_params", "is_decoder"),
  *("gradient_checkpointing", "unsloth_version"),
  *("unsloth_fixed", "use_bfloat16"),
  *("chunk_size_feed_forward", "torchscript", "finetuning_task"),
))  # fmt: skip


class Family(NamedTuple):
  """One table: their names and settings, and ours.

  Attributes:
    name: of the file, for errors.
    architectures: names in config.json, each with the head that it has.
    settings: what their config.json says, as our settings.
    config: our settings as their config.json; ValueError where it cannot say
      one of them.
    lines: our parameters and their tensors, for some settings.
    prefix: of names in a model with a head, that one without leaves out.
    extra: ends of names of tensors that are no weights.
    known: settings that its config.json can say; others must be as they are by
      default.
  """

  name: str
  architectures: tuple[str, ...]
  settings: Callable[["Keys"], Settings]
  config: Callable[[Settings], dict[str, Any]]
  lines: Callable[[Settings], list[Line]]
  prefix: str = "model."
  extra: tuple[str, ...] = ("rotary_emb.inv_freq",)
  known: tuple[str, ...] = ()


class Keys:
  """config.json, each key of which is read, known to be harmless, or refused.

  Args:
    config: as in the file.
    given: what named the folder, for errors.
  """

  def __init__(self, config: Mapping[str, Any], given: str):
    self.config, self.given = config, given
    self._read: set[str] = set()

  @property
  def architecture(self) -> str:
    """The first name under `architectures`."""
    return str((self.config.get("architectures") or [""])[0])

  def get(self, name: str, default: Any) -> Any:
    """A key's value, the default where it is absent or null."""
    self._read.add(name)
    found = self.config.get(name)
    return default if found is None else found

  def need(self, name: str) -> Any:
    """A key's value; ValueError where it is absent."""
    found = self.get(name, None)
    if found is None:
      raise ValueError(f"{self.given}: config.json has no {name}")
    return found

  def must(self, name: str, *allowed: Any) -> Any:
    """A key's value, which may be absent; ValueError unless it is allowed."""
    found = self.get(name, allowed[0])
    if found not in allowed:
      these = " or ".join(repr(a) for a in allowed)
      raise ValueError(
        f"{self.given}: config.json has {name}={found!r}; known is {these}"
      )
    return found

  def skip(self, *names: str) -> None:
    """Says that keys change nothing here."""
    self._read.update(names)

  def check(self) -> None:
    """ValueError for a key that nobody has read."""
    for name, value in self.config.items():
      known = name in self._read or name in HARMLESS or name.startswith("_")
      if not known and value not in (None, False):
        raise ValueError(
          f"{self.given}: config.json has {name}={value!r:.80}, which is not"
          f" known of {self.architecture}; take it out if it changes nothing"
        )


def rope(keys: Keys, default_theta: float = 10_000.0) -> Settings:
  """Rotary settings, in the form of transformers 5 or the one before.

  "linear" (arXiv:2306.15595) is Llama 3.1's scaling with no wavelength kept.
  """
  new = keys.get("rope_parameters", {})
  old = keys.get("rope_scaling", {})
  said = dict(new or old)
  theta = keys.get("rope_theta", default_theta)
  theta = said.pop("rope_theta", theta)
  kind = said.pop("rope_type", said.pop("type", "default"))
  said.pop("type", None)
  out: Settings = {"rope_theta": float(theta)}
  if kind == "linear":
    out["rope_scaling"] = {
      "factor": float(said.pop("factor")),
      "original_length": 0,
    }
  elif kind == "llama3":
    out["rope_scaling"] = {
      "factor": float(said.pop("factor")),
      "low_factor": float(said.pop("low_freq_factor")),
      "high_factor": float(said.pop("high_freq_factor")),
      "original_length": int(said.pop("original_max_position_embeddings")),
    }
  elif kind != "default":
    raise ValueError(
      f"{keys.given}: config.json has rope_type={kind!r}; known are default,"
      " linear and llama3"
    )
  said.pop("original_max_position_embeddings", None)
  if said:
    name, value = next(iter(said.items()))
    raise ValueError(
      f"{keys.given}: config.json has {name}={value!r} among its rotary"
      f" settings, which is not known of {kind!r}"
    )
  return out


def rope_config(settings: Settings) -> dict[str, Any]:
  """The inverse of `rope`, in both forms."""
  theta = settings.get("rope_theta", 10_000.0)
  scaling = {"factor": 1.0} | settings.get("rope_scaling", {})
  if scaling["factor"] == 1.0:
    said: dict[str, Any] = {"rope_type": "default"}
  elif scaling["original_length"] == 0:
    said = {"rope_type": "linear", "factor": scaling["factor"]}
  else:
    said = {
      "rope_type": "llama3",
      "factor": scaling["factor"],
      "low_freq_factor": scaling["low_factor"],
      "high_freq_factor": scaling["high_factor"],
      "original_max_position_embeddings": scaling["original_length"],
    }
  older = None if said["rope_type"] == "default" else said
  return {
    "rope_theta": theta,
    "rope_scaling": older,
    "rope_parameters": {"rope_theta": theta, **said},
  }


def only(settings: Settings, known: Sequence[str]) -> None:
  """ValueError where settings say more than a family's config.json can."""
  for name in settings:
    if name not in known:
      raise ValueError(f"--model.{name}={settings[name]}: it has no such thing")
