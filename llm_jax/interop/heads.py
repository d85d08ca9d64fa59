"""Heads that say numbers of a text, of each token or of a span's two ends.

Which of them a folder has, the name of its architecture says. A model with one
has no head for tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.interop.family import alike, Family, Keys, Settings
from llm_jax.interop.folder import Folder
from llm_jax.interop.lines import Line

# Ends of names of models with a head for tokens, and of those without any.
_OTHERS = (
  *("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"),
  "Model",
)
# Our settings that a head decides, with what they are of a model without one.
SETTINGS: Settings = {
  "outputs": 0,
  "output_bias": False,
  "output_dense": "none",
}
# What of a head for tokens is written beside none of these.
_TOKEN_HEAD = ("head", "head_bias", "head_dense", "head_norm")
PROBLEMS = (
  "regression",
  "single_label_classification",
  "multi_label_classification",
)


class Head(NamedTuple):
  """One of them, as some families have it.

  Attributes:
    of: what numbers are said of: "text", "token" or "span".
    end: of the name of an architecture that has it.
    map: name of the map from activations to numbers.
    bias: whether that has one.
    dense: `output_dense` of our settings.
    lines: of what comes before it, where only models with this head have that.
    root: what the model's own names begin with there; "" = as elsewhere.
    untold: how many it says where config.json does not tell.
  """

  of: str
  end: str
  map: str
  bias: bool = True
  dense: str = "none"
  lines: tuple[Line, ...] = ()
  root: str = ""
  untold: int = 2


def dense(their: str) -> tuple[Line, ...]:
  """Lines of a map before that to numbers, of their name."""
  return (
    Line("output_dense/kernel", f"{their}.weight", "_ D"),
    Line("output_dense/bias", f"{their}.bias", "_"),
  )


def named(stems: Sequence[str], *heads: Head) -> dict[str, Head]:
  """{architecture: head} of families whose names begin with some stems."""
  return {f"{stem}{head.end}": head for stem in stems for head in heads}


def stem(family: Family, architecture: str) -> str:
  """The name of an architecture without its head."""
  head = family.heads.get(architecture)
  for end in (head.end,) if head else _OTHERS:
    if architecture.endswith(end):
      return architecture.removesuffix(end)
  raise KeyError(architecture)


def settings(family: Family, folder: Folder) -> Settings:
  """Our settings that the head of a folder decides, {} where it has none."""
  head = family.heads.get(folder.architecture)
  if head is None:
    return {}
  keys = Keys(folder.config, folder.given)
  keys.must("problem_type", None, *PROBLEMS)
  return {
    "outputs": len(labels(folder, head.untold)),
    "output_bias": head.bias,
    "output_dense": head.dense,
    "tied": True,  # which stands in for the head for tokens
    "head_scale": False,  # which that alone reads
  }


def labels(folder: Folder, default: int = 2) -> tuple[str, ...]:
  """Names of classes, in order, as config.json says them.

  Args:
    folder: that holds it.
    default: how many there are where it says nothing.

  Raises:
    ValueError: they are not numbered from 0, two are alike, or label2id
      numbers them otherwise.
  """
  keys = Keys(folder.config, folder.given)
  told = keys.get("id2label", {})
  where = f"{folder.given}: config.json has"
  count = alike(keys.get("num_labels", None) or 0, 0, f"{where} num_labels")
  if not told:
    return plain(count or default)
  if count not in (0, len(told)):
    raise ValueError(
      f"{where} num_labels={count}, and {len(told)} names in id2label"
    )
  if sorted(told) != sorted(map(str, range(len(told)))):
    raise ValueError(
      f'{where} id2label={told!r:.80}; its keys must be "0" to'
      f' "{len(told) - 1}"'
    )
  names = tuple(told[str(i)] for i in range(len(told)))
  if not all(isinstance(name, str | int) for name in names):
    raise ValueError(f"{where} id2label={told!r:.80}; names must be texts")
  if len(set(map(str, names))) < len(names):
    raise ValueError(f"{where} id2label={told!r:.80}; two names are alike")
  _check_inverse(keys.get("label2id", {}), names, where)
  return tuple(map(str, names))


def _check_inverse(
  ids: Mapping[str, Any], names: Sequence[Any], where: str
) -> None:
  """ValueError where label2id says another name of a number than id2label.

  It may be left as it is of a model whose classes have no names.
  """
  by_number = {str(i): str(name) for i, name in enumerate(names)}
  for name, i in ids.items():
    found = by_number.get(str(i), "none")
    if name not in (found, f"LABEL_{i}"):
      raise ValueError(
        f"{where} label2id with {name!r:.60} as {i!r:.20}, which by id2label is"
        f" {found!r:.60}"
      )


def lines(family: Family, settings: Settings, architecture: str) -> list[Line]:
  """All of a model: the family's lines and those of its head."""
  found, head = family.lines(settings), family.heads.get(architecture)
  if head is None:
    return found
  old, new = family.prefix, root(family, architecture)
  own = lambda line: new + line.name.removeprefix(old)
  out = [
    line._replace(name=own(line)) if line.name.startswith(old) else line
    for line in found
  ]
  out += [*head.lines, Line("output_head", f"{head.map}.weight", "O D")]
  if head.bias:
    out.append(Line("output_bias", f"{head.map}.bias", "O"))
  return out


def root(family: Family, architecture: str) -> str:
  """What names in a model with a head begin with, and without one do not."""
  head = family.heads.get(architecture)
  return head.root or family.prefix if head else family.prefix


def without_tokens(settings: Settings) -> Settings:
  """Settings of a model that says numbers only."""
  dense = settings["head_dense"] and settings["output_dense"] == "head"
  its = {"tied": True, "head_bias": False, "head_dense": dense}
  return {n: x for n, x in settings.items() if n != "head_scale"} | its


def params_without_tokens(
  params: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
  """Params likewise."""
  gone = set(_TOKEN_HEAD)
  if settings["output_dense"] == "head":
    gone -= {"head_dense", "head_norm"}
  return {name: x for name, x in params.items() if name not in gone}


def config(
  family: Family,
  said: dict[str, Any],
  settings: Settings,
  of: str,
  names: Sequence[str] = (),
) -> dict[str, Any]:
  """config.json of a model with a head, from that of one without.

  Args:
    family: of the model.
    said: config.json of the family, of any head or none.
    settings: ours.
    of: what numbers are said of.
    names: of classes, in order; () = they have none.

  Raises:
    ValueError: the family has no such head, or one of other settings.
  """
  its = stem(family, said["architectures"][0])
  found = [
    head
    for name, head in family.heads.items()
    if head.of == of and name == its + head.end
  ]
  if not found:
    raise ValueError(f"there is no {its} that says numbers of a {of}")
  (head,) = found
  wanted = {"output_bias": head.bias, "output_dense": head.dense}
  if of == "span":
    wanted["outputs"] = 2
  for name, value in wanted.items():
    if settings[name] != value:
      raise ValueError(
        f"--model.{name}={settings[name]}: that of {its}{head.end} is {value}"
      )
  out = said | {"architectures": [its + head.end]}
  if of == "span":
    return out
  names = names or plain(settings["outputs"])
  return out | {
    "id2label": {str(i): name for i, name in enumerate(names)},
    "label2id": {name: i for i, name in enumerate(names)},
  }


def plain(count: int) -> tuple[str, ...]:
  """Names of classes that have none."""
  return tuple(f"LABEL_{i}" for i in range(count))
