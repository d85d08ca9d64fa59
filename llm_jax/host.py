"""What is this process's own: its machine's memory, its folder, its fellows."""

from collections import Counter
import ctypes
import hashlib
import os
import pathlib
import sys

import numpy as np

# glibc's mallopt parameters, malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_M_MMAP_MAX, _M_ARENA_MAX = -4, -8
_MIB = 2**20
# Of one buffer; larger ones cost more as holes than as new pages.
_LARGEST = 256 * _MIB


def keep_memory() -> None:
  """Keeps freed memory for the next step instead of giving it back.

  To be called before the first computation.

  XLA on a CPU allocates a step's temporaries anew each time. By default large
  ones are mapped and unmapped by the kernel, which clears every page of them
  in every step: a third of a small model's time. Where several threads
  allocate, what they hold cuts up the place that a very large buffer left, so
  that it never fits again: such ones stay the kernel's. Without glibc, does
  nothing.
  """
  if not sys.platform.startswith("linux"):
    return
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return
  mallopt(_M_ARENA_MAX, 1)  # the other arenas unmap whatever is free
  if len(os.sched_getaffinity(0)) == 1:
    mallopt(_M_MMAP_MAX, 0)
  else:  # older glibc allow 32 MiB at most
    _ = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(
      _M_MMAP_THRESHOLD, 32 * _MIB
    )
  mallopt(_M_TRIM_THRESHOLD, -1)
  mallopt(_M_TOP_PAD, 64 * _MIB)


def cache_folder() -> pathlib.Path:
  """Where prepared data and compiled programs are kept between runs."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "llm_jax"


class SharedError(ValueError):
  """What all processes fail of, at the same place."""


def agreed(said: bool) -> bool:
  """What the first process says, on all of them; each waits for it."""
  return bool(_of_first(np.array(said)))


def first_says(text: str) -> str:
  """What the first process says, likewise."""
  said = np.frombuffer(text.encode(), np.uint8)
  size = int(_of_first(np.array(len(said))))
  return _of_first(np.resize(said, size)).tobytes().decode()


def check_same(text: str, what: str) -> None:
  """ValueError, in all processes, where one of them has another text.

  Args:
    text: of this process.
    what: it stands for: "--data: the text".
  """
  import jax  # noqa: PLC0415  (slow, and some verbs need none)

  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils  # noqa: PLC0415

  mine = hashlib.blake2b(text.encode(), digest_size=8).digest()
  said = np.frombuffer(mine, np.uint8)
  found = [x.tobytes() for x in multihost_utils.process_allgather(said)]
  usual = Counter(found).most_common(1)[0][0]
  others = [str(i) for i, x in enumerate(found) if x != usual]
  if others:
    raise ValueError(
      f"{what} of process {', '.join(others[:8])} is not that of the others:"
      " its files differ, or its cache is of other ones"
    )


def _of_first(said: np.ndarray) -> np.ndarray:
  import jax  # noqa: PLC0415  (slow, and some verbs need none)

  if jax.process_count() == 1:
    return said
  from jax.experimental import multihost_utils  # noqa: PLC0415

  return np.asarray(multihost_utils.broadcast_one_to_all(said))
