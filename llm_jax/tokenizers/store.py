"""A tokenizer in a folder: made once, used by every later start."""

from collections.abc import Callable, Iterator
import dataclasses
import json
import os
import pathlib
from typing import Any

from llm_jax.contracts import Tokenizer
from llm_jax.tokenizers.bytes import Bytes, ByteTokenizer
from llm_jax.tokenizers.sentencepiece import (
  SentencePiece,
  SentencePieceTokenizer,
  train,
)

_NAME, _MODEL = "tokenizer.json", "sentencepiece.model"


def obtain(
  settings: SentencePiece | Bytes,
  texts: Callable[[], Iterator[str]],
  folder: str | os.PathLike[str],
) -> Tokenizer:
  """The tokenizer of `folder`; trained on `texts()` and saved if none is."""
  folder = pathlib.Path(folder)
  if not (folder / _NAME).exists():
    model = (
      train(settings, texts()) if isinstance(settings, SentencePiece) else b""
    )
    save(settings, model, folder)
  return load(folder)


def load(folder: str | os.PathLike[str]) -> Tokenizer:
  """The tokenizer saved in a folder."""
  folder = pathlib.Path(folder)
  try:
    about = json.loads((folder / _NAME).read_text(encoding="utf-8"))
  except (OSError, json.JSONDecodeError) as e:
    raise ValueError(f"{folder}: holds no tokenizer ({e})") from e
  if about["kind"] == "bytes":
    return ByteTokenizer()
  settings = SentencePiece(**about["settings"])
  return SentencePieceTokenizer(settings, (folder / _MODEL).read_bytes())


def save(
  settings: SentencePiece | Bytes, model: bytes, folder: pathlib.Path
) -> None:
  """Writes the model, then the file that says it is there."""
  folder.mkdir(parents=True, exist_ok=True)
  about: dict[str, Any] = {"kind": "bytes"}
  if isinstance(settings, SentencePiece):
    about = {
      "kind": "sentencepiece",
      "settings": dataclasses.asdict(settings),
    }
    _write(folder / _MODEL, model)
  _write(folder / _NAME, json.dumps(about, indent=1).encode())


def copy(source: str | os.PathLike[str], target: pathlib.Path) -> None:
  """Takes the tokenizer of one folder over into another."""
  if (target / _NAME).exists():
    return
  target.mkdir(parents=True, exist_ok=True)
  source = pathlib.Path(source)
  if not (source / _NAME).exists():
    raise ValueError(f"{source}: holds no tokenizer")
  for name in (_MODEL, _NAME):
    if (source / name).exists():
      _write(target / name, (source / name).read_bytes())


def _write(path: pathlib.Path, data: bytes) -> None:
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  partial.write_bytes(data)
  os.replace(partial, path)
