"""A tokenizer in a folder: made once, used by every later start."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from llm_jax import storage
from llm_jax.contracts import Tokenizer
from llm_jax.tokenizers import characters, folders, older
from llm_jax.tokenizers import sentencepiece as pieces
from llm_jax.tokenizers.bytes import Bytes, ByteTokenizer
from llm_jax.tokenizers.extra import Extended
from llm_jax.tokenizers.pretrained import PretrainedTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece

# Written last, and names the digest of the rest.
_NAME = "tokenizer.json"
_MODELS = {"char": "characters.txt", "other": "sentencepiece.model"}
_PRETRAINED = "pretrained.json"  # a tokenizer.json of others
_BESIDE = ("tokenizer_config.json", "chat_template.jinja")


def obtain(
  settings: SentencePiece | Bytes,
  texts: Callable[[], Iterator[str]],
  folder: str | os.PathLike[str],
) -> Tokenizer:
  """The tokenizer of `folder`; trained on `texts()` and saved if none is."""
  folder = storage.path(folder)
  if not (folder / _NAME).exists():
    model = b""
    if isinstance(settings, SentencePiece):
      if settings.kind == "char":
        model = characters.learn(texts()).encode()
      else:
        model = pieces.train(settings, texts())
    save(settings, model, folder)
  return load(folder)


def load(folder: str | os.PathLike[str]) -> Tokenizer:
  """The tokenizer saved in a folder; ValueError where it is not whole."""
  folder = storage.path(folder)
  try:
    about = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    settings: SentencePiece | Bytes
    if about["kind"] == "bytes":
      settings = Bytes(**about.get("settings", {}))
      return _extended(ByteTokenizer(), settings)
    if about["kind"] == "pretrained":
      model = (folder / _PRETRAINED).read_bytes()
      if _digest(model) != about["digest"]:
        raise ValueError(f"{_PRETRAINED} is not the file once written")
      return PretrainedTokenizer(model, about["named"])
    settings = SentencePiece(**about["settings"])
    model = (folder / _model_name(settings)).read_bytes()
    if _digest(model) != about["digest"]:
      raise ValueError(f"{_model_name(settings)} is not the file once written")
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f"{folder}: holds no whole tokenizer ({type(e).__name__}: {e})"
    ) from e
  if settings.kind == "char":
    found = characters.CharacterTokenizer(
      model.decode("utf-8"), settings.byte_fallback
    )
    return _extended(found, settings)
  return _extended(pieces.SentencePieceTokenizer(model), settings)


def save(
  settings: SentencePiece | Bytes, model: bytes, folder: pathlib.Path
) -> None:
  """Writes the model, then the file that says it is there."""
  about: dict[str, Any] = {
    "kind": "bytes",
    "settings": dataclasses.asdict(settings),
  }
  if isinstance(settings, SentencePiece):
    about |= {"kind": "sentencepiece", "digest": _digest(model)}
    storage.write(folder / _model_name(settings), model)
  storage.write(folder / _NAME, json.dumps(about, indent=1).encode())


def adopt(
  folder: pathlib.Path, config: Mapping[str, Any], target: pathlib.Path
) -> None:
  """Takes the tokenizer of a folder of the ecosystem over, with a digest.

  Args:
    folder: that holds one.
    config: its config.json.
    target: of a run that has no tokenizer yet, else nothing is done.

  Raises:
    ValueError: no tokenizer that can be read.
  """
  if (target / _NAME).exists():
    return
  model, named = _theirs(folder, config)
  PretrainedTokenizer(model, named)
  about: dict[str, Any] = {"kind": "pretrained", "digest": _digest(model)}
  about["named"] = named
  about["beside"] = {}  # what else the folder says of text, and its digest
  for name in _BESIDE:
    if (folder / name).is_file():
      content = (folder / name).read_bytes()
      about["beside"][name] = _digest(content)
      storage.write(target / name, content)
  storage.write(target / _PRETRAINED, model)
  storage.write(target / _NAME, json.dumps(about, indent=1).encode())


def theirs(folder: pathlib.Path, config: Mapping[str, Any]) -> Tokenizer:
  """The tokenizer of a folder of the ecosystem, as it stands there."""
  return PretrainedTokenizer(*_theirs(folder, config))


def _theirs(
  folder: pathlib.Path, config: Mapping[str, Any]
) -> tuple[bytes, dict[str, Any]]:
  """A tokenizer.json, made where there is none, and what ends a text."""
  said = folders.Said(folder, config)
  if (folder / folders.FILE).is_file():
    return (folder / folders.FILE).read_bytes(), said.special_ids({})
  model, words = older.made(said)
  return model, said.special_ids(words)


def copy(source: str | os.PathLike[str], target: pathlib.Path) -> None:
  """Takes the tokenizer of one folder over into another that has none."""
  if (target / _NAME).exists():
    return
  source = storage.path(source)
  load(source)
  for name in (*_MODELS.values(), _PRETRAINED, *_BESIDE, _NAME):
    if (source / name).exists():
      storage.write(target / name, (source / name).read_bytes())


def _extended(
  tokenizer: Tokenizer, settings: SentencePiece | Bytes
) -> Tokenizer:
  extra = settings.extra_ids
  return Extended(tokenizer, extra) if extra else tokenizer


def _model_name(settings: SentencePiece) -> str:
  return _MODELS["char" if settings.kind == "char" else "other"]


def _digest(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=16).hexdigest()
