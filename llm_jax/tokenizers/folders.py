"""What a folder of the ecosystem says of text, as a tokenizer.json and names.

Where there is no tokenizer.json, one is made of what older folders have.
"""

from collections.abc import Iterator, Mapping
import json
import pathlib
from typing import Any, NamedTuple

from tokenizers import AddedToken

FILE = "tokenizer.json"  # theirs

# Words of tokens where a folder names none, by the class of its tokenizer.
_BERT = {"bos": "[CLS]", "eos": "[SEP]", "pad": "[PAD]"} | {
  "unk": "[UNK]",
  "mask": "[MASK]",
}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"} | {
  "unk": "<unk>",
  "mask": "<mask>",
}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
WORDS = {"Bert": _BERT, "Roberta": _ROBERTA, "Bart": _ROBERTA, "GPT2": _GPT2}
_CLASSES = {  # by model_type
  **{"bert": "Bert", "roberta": "Roberta", "bart": "Bart", "gpt2": "GPT2"},
  **{"t5": "T5", "mt5": "T5", "umt5": "T5"},
}
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Added(NamedTuple):
  """A token beside those of a model; its id where the folder says it."""

  token: AddedToken
  id: int | None = None


class Said:
  """The settings of a folder's tokenizer.

  Args:
    path: of the folder.
    config: its config.json.

  Raises:
    ValueError: a file that is no object of JSON.
  """

  def __init__(self, path: pathlib.Path, config: Mapping[str, Any]):
    self.path, self.config = path, config
    self._words = _json(path / "special_tokens_map.json")
    self._own = _json(path / "tokenizer_config.json")
    self._generation = _json(path / "generation_config.json")

  @property
  def kind(self) -> str:
    """The class of its tokenizer, as "Llama" or "T5"; "" where unsaid."""
    found = str(self._own.get("tokenizer_class") or "")
    if found.startswith("PreTrained") or not found:
      return _CLASSES.get(str(self.config.get("model_type")), "")
    return found.removesuffix("Fast").removesuffix("Tokenizer")

  def flag(self, name: str, default: bool | None) -> Any:
    """A switch of tokenizer_config.json.

    Raises:
      ValueError: it is neither true nor false.
    """
    found = self._own.get(name)
    if found is None:
      return default
    if not isinstance(found, bool):
      raise ValueError(
        f"tokenizer_config.json has {name}={found!r:.80}; it must be true or"
        " false"
      )
    return found

  def count(self, name: str, default: int) -> int:
    """A number of tokenizer_config.json; ValueError for another thing."""
    found = self._own.get(name, default)
    if type(found) is not int or not 0 <= found <= 100_000:
      raise ValueError(
        f"tokenizer_config.json has {name}={found!r:.80}; it must be a whole"
        " number from 0 to 100000"
      )
    return found

  def word(self, name: str) -> Any:
    """The text of a special token that the folder names, None for none."""
    for said in (self._own, self._words):
      found = _content(said.get(f"{name}_token"))
      if found is not None:
        return found
    return None

  def special_ids(self, usual: Mapping[str, str]) -> dict[str, Any]:
    """{"bos", "eos", "pad": text of a token, or its id}.

    Words go before the ids of generation_config and of config.json; where
    there are none, what BERT puts around a text is what begins and ends it.

    Args:
      usual: words where nothing is said.
    """
    out: dict[str, Any] = {}
    instead = {"bos": "cls", "eos": "sep"}
    usual = usual or WORDS.get(self.kind, {})
    for name in ("bos", "eos", "pad"):
      key, found = f"{name}_token_id", self.word(name)
      if found is None:
        ids = self._generation.get(key, self.config.get(key))
        found = ids[0] if isinstance(ids, list) and ids else ids
      if found is None and name in instead:
        found = self.word(instead[name])
      out[name] = usual.get(name) if found is None else found
    return out

  def added(self) -> list[Added]:
    """Tokens beside those of the model: first those whose ids are said.

    Raises:
      ValueError: what is listed is no token.
    """
    special = dict(self._special())
    found: dict[str, Added] = {}
    for word, i in _json(self.path / "added_tokens.json").items():
      token = special.get(word) or AddedToken(word, normalized=True)
      found[word] = Added(token, _id(i, "added_tokens.json"))
    listed = self._own.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
      raise ValueError(
        "tokenizer_config.json: added_tokens_decoder is no object"
      )
    for i, its in listed.items():
      token = _token(its, special=False)
      found[token.content] = Added(token, _id(i, "tokenizer_config.json"))
    out = sorted(found.values(), key=lambda its: its.id or 0)
    return out + [Added(t) for w, t in special.items() if w not in found]

  def _special(self) -> Iterator[tuple[str, AddedToken]]:
    for said in (self._own, self._words):
      more = said.get("additional_special_tokens") or []
      if not isinstance(more, list):
        raise ValueError("additional_special_tokens is no list of tokens")
      for its in (*(said.get(f"{name}_token") for name in _NAMES), *more):
        if its is not None and its != "":
          token = _token(its, special=True)
          yield token.content, token


def _content(found: Any) -> Any:
  return found.get("content") if isinstance(found, dict) else found


def _token(found: Any, special: bool) -> AddedToken:
  word = _content(found)
  if not isinstance(word, str) or not word:
    raise ValueError(f"{found!r:.80} is named as a token, and is none")
  said = found if isinstance(found, dict) else {}
  switch = lambda name, usual: bool(said.get(name, usual))
  special = special or switch("special", False)
  return AddedToken(
    word,
    special=special,
    normalized=switch("normalized", not special),
    lstrip=switch("lstrip", False),
    rstrip=switch("rstrip", False),
    single_word=switch("single_word", False),
  )


def _id(found: Any, file: str) -> int:
  try:
    return int(found)
  except (TypeError, ValueError, OverflowError) as e:
    raise ValueError(f"{file}: {found!r:.80} is no id of a token") from e


def _json(path: pathlib.Path) -> dict[str, Any]:
  """What a file says; nothing where there is none."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, RecursionError) as e:
    raise ValueError(f"{path}: cannot be read ({e})") from e
  if not isinstance(found, dict):
    raise ValueError(f"{path}: is no object of JSON")
  return found
