"""A model's folder as the ecosystem writes it: config.json and safetensors.

The safetensors library checks the files and says what is where. Numbers are
then read by numpy: threads read at once, mapped pages do not count as memory of
this process, and a file that is cut short meanwhile is an error and no crash.
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from llm_jax import storage

CONFIG = "config.json"
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
}
_BLOCK = 2**22  # numbers of rows that are read at once to keep some of each
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Tensor(NamedTuple):
  """Where a tensor is, and what it is."""

  file: pathlib.Path
  name: str  # there
  shape: tuple[int, ...]
  dtype: str  # as safetensors names it
  start: int  # its first byte
  stop: int


class Folder:
  """One model's folder; nothing of it is ever run.

  Args:
    path: of the folder.
    given: what named it, for errors: "--init_from=hf:PATH".
    about: name of the file that says what the tensors are.
    one: name of the file that holds all tensors, where one does.

  Raises:
    ValueError: no folder, no config.json, code of its own, or quantised.
  """

  def __init__(
    self, path: pathlib.Path, given: str, about: str = CONFIG, one: str = ONE
  ):
    self.path, self.given = path, given
    self._one, self._index = one, f"{one}.index.json"
    try:
      is_there = path.is_dir()
    except OSError as e:  # as of a name that is too long
      raise ValueError(f"{given:.200}: {e.strerror}") from e
    if not is_there:
      raise ValueError(f"{given}: no such folder")
    self.config = self.read_json(about)
    if not self.config:
      raise ValueError(f"{given}: holds no {about}")
    if "auto_map" in self.config:
      raise ValueError(
        f"{given}: its {about} asks for code of its own (auto_map), and no"
        " code of a folder is run"
      )
    names = self.config.get("architectures") or []
    if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
      raise ValueError(
        f"{given}: its {about} has architectures={names!r:.80}; it must be a"
        " list of names"
      )
    if self.config.get("quantization_config"):
      raise ValueError(
        f"{given}: its weights are quantised (quantization_config); give the"
        " folder that they were made of"
      )

  @property
  def architecture(self) -> str:
    """The first name under `architectures`."""
    names = self.config.get("architectures") or [""]
    return str(names[0])

  def read_json(self, name: str) -> dict[str, Any]:
    """A file's object, {} without the file; ValueError where it is none."""
    path = self.path / name
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
      return {}
    except (OSError, ValueError, RecursionError) as e:
      raise ValueError(f"{self.given}: {name} cannot be read ({e})") from e
    if not isinstance(found, dict):
      raise ValueError(f"{self.given}: {name} is no object of JSON")
    return found

  def tensors(self) -> dict[str, Tensor]:
    """{name: what it is} of every tensor, in the order in which they lie.

    Raises:
      ValueError: no safetensors, a file that is missing, cut short or none of
        its kind, or one without a tensor that the index says it has.
    """
    listed = self.read_json(self._index).get("weight_map")
    if listed:
      if not isinstance(listed, dict):
        raise ValueError(
          f"{self.given}: weight_map of {self._index} is no object"
        )
      for name in listed.values():
        if not isinstance(name, str) or "/" in name or "\0" in name:
          raise ValueError(
            f"{self.given}: {self._index} names {name!r:.80}, which is no name"
            " of a file beside it"
          )
      names = sorted(set(listed.values()))
    elif (self.path / self._one).exists():
      names = [self._one]
    else:
      raise ValueError(f"{self.given}: {self._without()}")
    found: dict[str, Tensor] = {}
    for name in names:
      file = self.path / name
      if len(name) > 255 or not file.is_file():
        said = f"{self._index} names {name!r:.80}, which is absent"
        if not listed:
          said = f"{name} is no file"
        raise ValueError(f"{self.given}: {said}")
      with self._opened(file) as f:
        places = _places(file)
        for key in f.offset_keys():
          if key in found:
            raise ValueError(f"{self.given}: {key} is in two files")
          at = f.get_slice(key)
          shape = tuple(at.get_shape())
          found[key] = Tensor(file, key, shape, at.get_dtype(), *places[key])
    for name, file_name in (listed or {}).items():
      if name not in found or found[name].file.name != file_name:
        raise ValueError(f"{self.given}: {file_name} holds no {name}")
    return found

  def read(
    self, tensor: Tensor, index: Sequence[slice] | None = None
  ) -> np.ndarray:
    """A tensor, or the part of it that slices of its first dims name."""
    if tensor.dtype not in _FLOATS:
      raise ValueError(
        f"{self.given}: {tensor.name} is of {tensor.dtype}; read are"
        f" {', '.join(_FLOATS)}"
      )
    shape, kind = tensor.shape or (1,), np.dtype(_FLOATS[tensor.dtype])
    bits, width = np.dtype(f"u{kind.itemsize}"), math.prod(shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
      place = tensor.start + start * width * kind.itemsize
      size = (stop - start) * width
      try:
        found = np.fromfile(tensor.file, bits, size, offset=place)
      except OSError as e:  # it was there when headers were read
        raise ValueError(
          f"{self.given}: {tensor.file.name} cannot be read"
          f" ({storage.reason(e)})"
        ) from e
      if found.size < size:
        raise ValueError(
          f"{self.given}: {tensor.file.name} is shorter than it was"
        )
      return found.view(kind).reshape(stop - start, *shape[1:])

    wanted = [*(index or ()), *[slice(None)] * len(shape)]
    cut = [
      slice(*s.indices(n)[:2]) for s, n in zip(wanted, shape, strict=False)
    ]
    first, inner = cut[0], tuple(cut[1:])
    if inner == tuple(slice(0, n) for n in shape[1:]):
      return rows(first.start, first.stop).reshape(
        (first.stop - first.start, *shape[1:]) if tensor.shape else ()
      )
    out = np.empty([s.stop - s.start for s in cut], kind)
    step = max(1, _BLOCK // max(1, width))
    for at in range(first.start, first.stop, step):
      stop = min(at + step, first.stop)
      here = slice(at - first.start, stop - first.start)
      out[here] = rows(at, stop)[(slice(None), *inner)]
    return out

  @contextlib.contextmanager
  def _opened(self, file: pathlib.Path) -> Iterator[Any]:
    try:
      opened = safetensors.safe_open(file, "numpy")
    except (safetensors.SafetensorError, OSError) as e:
      raise ValueError(
        f"{self.given}: {file.name} is no whole safetensors file"
        f" ({storage.reason(e)})"
      ) from e
    with opened as f:
      yield f

  def _without(self) -> str:
    """Why there are no tensors to read."""
    pickles = [p.name for kind in _PICKLES for p in self.path.glob(kind)]
    if pickles:
      return (
        f"holds weights as pickles only ({sorted(pickles)[0]}), which can run"
        f" code; save it as {self._one}, as save_pretrained of its library does"
      )
    return f"holds neither {self._one} nor {self._index}"


def _places(file: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Name -> first byte and end of each tensor, by a header that is whole."""
  with file.open("rb") as f:
    size = int.from_bytes(f.read(8), "little")
    header = json.loads(f.read(size))
  begin = 8 + size
  return {
    name: (begin + said["data_offsets"][0], begin + said["data_offsets"][1])
    for name, said in header.items()
    if name != "__metadata__"
  }
