"""Numbers worked out once for every row of a data set, and kept in a file.

They are of use only as long as rows hold what they held: a file says what its
numbers were made of, and is refused when anything of that has changed.
"""

from collections.abc import Mapping
import io
import json
import pathlib
import zipfile

import numpy as np

from llm_jax import storage

Columns = Mapping[str, Mapping[str, np.ndarray]]
"""Split -> name of a column -> a number for each row."""

_ABOUT = "about"


def save(
  path: pathlib.Path, columns: Columns, about: Mapping[str, str]
) -> None:
  """Writes all of it, or nothing; `about` says what it was made of."""
  arrays = {
    f"{split}/{name}": values
    for split, named in columns.items()
    for name, values in named.items()
  }
  arrays[_ABOUT] = np.array(json.dumps(dict(about)))
  whole = io.BytesIO()
  np.savez(whole, **arrays)  # type: ignore[arg-type]
  storage.write(path, whole.getvalue())


def load(path: pathlib.Path, about: Mapping[str, str]) -> Columns:
  """What was saved.

  Raises:
    ValueError: no such file, a broken one, or one made of something else.
  """
  try:
    with path.open("rb") as f, np.load(f) as saved:
      arrays = dict(saved)
    was = json.loads(str(arrays.pop(_ABOUT)))
  except OSError as e:
    raise ValueError(f"{path}: cannot be read ({storage.reason(e)})") from e
  except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(f"{path}: holds no columns of rows") from e
  for name in [*about, *(n for n in was if n not in about)]:
    old, new = was.get(name), about.get(name)
    if old != new:
      raise ValueError(
        f"{path}: was made with {name}={old}, now it is {new}; make it again"
      )
  out: dict[str, dict[str, np.ndarray]] = {}
  for key, values in arrays.items():
    split, _, name = key.partition("/")
    out.setdefault(split, {})[name] = values
  return out
