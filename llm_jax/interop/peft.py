"""adapter_config.json, as the `peft` library has it, both ways.

LoRA and DoRA, IA3, and prompt tuning. LoRA's scale is lora_alpha / r, or
/ sqrt(r) with use_rslora; both may be others for some maps (rank_pattern,
alpha_pattern). Read as of peft 0.21.2.
"""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any, NamedTuple

from llm_jax.interop.family import alike, Keys
from llm_jax.interop.folder import Folder

ONE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
KINDS = ("LORA", "IA3", "PROMPT_TUNING")

# Ways to begin that leave the base as it is; others (pissa, olora, corda, ...)
# move a part of it into the adapters.
_BEGINS = (True, False, "gaussian", "eva", "orthogonal")
_HARMLESS = (
  *("auto_mapping", "peft_version", "revision", "inference_mode"),
  *("fan_in_fan_out", "init_ia3_weights", "megatron_core", "layers_pattern"),
  *("qalora_group_size", "eva_config", "ensure_weight_tying", "token_dim"),
  *("num_layers", "num_attention_heads", "prompt_tuning_init"),
  *("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
)
_PLAIN = re.compile(r"[\w.-]+")


class Told(NamedTuple):
  """What adapter_config.json says.

  Attributes:
    kind: one of `KINDS`.
    base: where the base is, as it was named there; "" where it is not said.
    rank: R.
    alpha: size of the update, before / R.
    dropout: on what A reads.
    stabilised: the scale is alpha / sqrt(R).
    dora: columns have lengths of their own.
    ranks: of maps that have another.
    alphas: likewise.
    targets: names of maps; None where they are a pattern, which is not run.
    left_out: likewise, of those that have no adapter all the same.
    layers: the only ones that have adapters; None = all.
    saved: names of parts of the base that are replaced.
    tokens: virtual ones.
  """

  kind: str
  base: str = ""
  rank: int = 8
  alpha: float = 8.0
  dropout: float = 0.0
  stabilised: bool = False
  dora: bool = False
  ranks: Mapping[str, int] = {}
  alphas: Mapping[str, float] = {}
  targets: Sequence[str] | None = None
  left_out: Sequence[str] | None = ()
  layers: Sequence[int] | None = None
  saved: Sequence[str] = ()
  tokens: int = 0

  @property
  def says_all(self) -> bool:
    """Whether it says of each map if it has an adapter, and not by patterns."""
    return self.targets is not None and self.left_out is not None

  def rank_of(self, module: str) -> int:
    """R of a map."""
    return _of(self.ranks, module, self.rank)

  def scale_of(self, module: str) -> float:
    """What A B of a map is multiplied by."""
    rank = self.rank_of(module)
    alpha = _of(self.alphas, module, self.alpha)
    return alpha / (rank**0.5 if self.stabilised else rank)

  def wants(self, module: str, layer: int) -> bool:
    """Whether a map must have an adapter; False where only patterns say so."""
    if self.targets is None or self.left_out is None:  # not `says_all`
      return False
    chosen = self.layers is None or layer in self.layers
    left_out = any(ends(module, name) for name in self.left_out)
    return (
      chosen
      and not left_out
      and any(ends(module, name) for name in self.targets)
    )


def ends(module: str, name: str) -> bool:
  """Whether a map is meant by the last parts of its name."""
  return module == name or module.endswith(f".{name}")


def _of(told: Mapping[str, Any], module: str, plain: Any) -> Any:
  """The first that is told of a map, else what is told of all."""
  return next((x for name, x in told.items() if ends(module, name)), plain)


def read(folder: Folder) -> Told:
  """What a folder says of its adapters.

  Raises:
    ValueError: another kind, or a key that changes what they do and is not
      known.
  """
  keys = Keys(folder.config, folder.given, CONFIG)
  kind = str(keys.get("peft_type", ""))
  if kind not in KINDS:
    raise ValueError(
      f"{folder.given}: {CONFIG} has peft_type={kind!r:.80}; known are"
      f" {', '.join(KINDS)}"
    )
  keys.skip(*_HARMLESS, "task_type", "feedforward_modules")
  where = f"{folder.given}: {CONFIG} has"
  layers = keys.get("layers_to_transform", None)
  keys.get("modules_to_save", [])  # no pattern
  out = Told(
    kind=kind,
    base=str(keys.get("base_model_name_or_path", "")),
    targets=_names(keys, "target_modules", where),
    left_out=_names(keys, "exclude_modules", where, ()),
    layers=_whole([layers] if isinstance(layers, int) else layers, where),
    saved=_names(keys, "modules_to_save", where) or (),
  )
  for name in ("loftq_config", "trainable_token_indices"):
    keys.must(name, None, {}, [])
  if kind == "LORA":
    keys.must("bias", "none")
    begins = keys.get("init_lora_weights", None)
    if begins is not None and begins not in _BEGINS:
      raise ValueError(
        f"{where} init_lora_weights={begins!r:.80}, with which the base was"
        " changed, too; save them with path_initial_model_for_weight_conversion"
      )
    dropout = keys.get("lora_dropout", 0.0)
    if not 0 <= dropout < 1:
      raise ValueError(
        f"{where} lora_dropout={dropout}; it must be from 0, less than 1"
      )
    out = out._replace(
      rank=alike(keys.get("r", 8), 1, f"{where} r", low=1),
      alpha=keys.get("lora_alpha", 8.0),
      dropout=dropout,
      stabilised=keys.get("use_rslora", False),
      dora=keys.get("use_dora", False),
      ranks=_pattern(keys, "rank_pattern", where, 1),
      alphas=_pattern(keys, "alpha_pattern", where, 1.0),
    )
  if kind == "PROMPT_TUNING":
    keys.must("num_transformer_submodules", 1)
    out = out._replace(tokens=keys.need("num_virtual_tokens"))
  keys.check()
  return out


def _names(
  keys: Keys, name: str, where: str, absent: Sequence[str] | None = None
) -> Sequence[str] | None:
  """A list of names; None for one pattern; ValueError for anything else."""
  found = keys.get(name, None)
  if found is None or isinstance(found, str):
    return absent if found is None else None
  if not (isinstance(found, list) and all(isinstance(n, str) for n in found)):
    raise ValueError(
      f"{where} {name}={found!r:.80}; it must be a list of names"
    )
  return tuple(found)


def _whole(found: Any, where: str) -> Sequence[int] | None:
  if found in (None, []):  # all
    return None
  for number in alike(found, [], f"{where} layers_to_transform"):
    alike(number, 1, f"{where} layers_to_transform")
  return tuple(found)


def _pattern(keys: Keys, name: str, where: str, like: Any) -> dict[str, Any]:
  """Numbers of some maps, by the ends of their names."""
  found = keys.get(name, {})
  for key in found:
    if not _PLAIN.fullmatch(key):
      raise ValueError(
        f"{where} {key!r:.80} in {name}; read are names of maps, and no other"
        " patterns"
      )
  return {k: alike(x, like, f"{where} {name}", low=1) for k, x in found.items()}


def lora(
  base: str | None,
  names: Mapping[str, Sequence[str]],
  arrays: Mapping[str, tuple[int, float]],
  rank: int,
  alpha: float,
  dropout: float,
  stabilised: bool,
  dora: bool,
) -> dict[str, Any]:
  """adapter_config.json of LoRA.

  Args:
    base: where the base is; None = not told.
    names: of each map with an adapter, as `targets` says it.
    arrays: its rank, and its scale.
    rank: R.
    alpha: size of the update, before / R.
    dropout: on what A reads.
    stabilised: the scale is alpha / sqrt(R).
    dora: columns have lengths of their own.
  """
  ranks: dict[str, int] = {}
  alphas: dict[str, float] = {}
  for module, (its_rank, scale) in arrays.items():
    if its_rank != rank:
      ranks |= dict.fromkeys(names[module], its_rank)
      divisor = its_rank**0.5 if stabilised else its_rank
      alphas |= dict.fromkeys(names[module], scale * divisor)
  return _config("LORA", base, _all(names)) | {
    "bias": "none",
    "r": rank,
    "lora_alpha": alpha,
    "lora_dropout": dropout,
    "use_rslora": stabilised,
    "use_dora": dora,
    "rank_pattern": ranks,
    "alpha_pattern": alphas,
  }


def ia3(
  base: str | None, names: Mapping[str, Sequence[str]], inputs: Iterable[str]
) -> dict[str, Any]:
  """adapter_config.json of IA3; `inputs` are maps whose inputs are scaled."""
  fed = {module: names[module] for module in inputs}
  return _config("IA3", base, _all(names)) | {"feedforward_modules": _all(fed)}


def prompt(
  base: str | None, tokens: int, width: int, layers: int, heads: int
) -> dict[str, Any]:
  """adapter_config.json of a soft prompt.

  Args:
    base: where the base is; None = not told.
    tokens: X, virtual tokens.
    width: of the residual stream.
    layers: of the base.
    heads: of the base, for queries.
  """
  return _config("PROMPT_TUNING", base, None) | {
    "num_virtual_tokens": tokens,
    "token_dim": width,
    "num_layers": layers,
    "num_attention_heads": heads,
    "num_transformer_submodules": 1,
    "prompt_tuning_init": "RANDOM",
  }


def target(modules: Sequence[str], others: Iterable[str]) -> list[str]:
  """Names that mean some modules, one map's in each layer, and no others.

  The shortest end that they share, where it means no other; else all of them.
  """
  others = list(others)
  parts = modules[0].split(".")
  for start in range(len(parts) - 1, 0, -1):
    name = ".".join(parts[start:])
    if not all(ends(module, name) for module in modules):
      break
    # peft compares some by their last letters alone.
    if not any(other.endswith(name) for other in others):
      return [name]
  return list(modules)


def _all(names: Mapping[str, Sequence[str]]) -> list[str]:
  return sorted({name for its in names.values() for name in its})


def _config(
  kind: str, base: str | None, names: list[str] | None
) -> dict[str, Any]:
  out: dict[str, Any] = {
    "peft_type": kind,
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "inference_mode": True,
  }
  return out if names is None else out | {"target_modules": names}
