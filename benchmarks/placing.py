"""Programs compiled until every buffer has its place, without machine code.

libtpu's passes over a program take seconds, its machine code minutes. What is
sent, and where in memory each buffer lies, stands in what it dumps in between:
for `pretrain_llama3_8b` on v5e-256 the same collectives to the byte, and 8 MB
of 15 GiB more than the peak that the whole compiler tells. Nothing stops a
compiler, so it goes on in a thread, and its process ends by `leave`.
"""

from collections.abc import Callable
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
from typing import Any

_DUMP = "XLA_FLAGS"
_LAST = "after_optimizations_after_buffer_assignment.txt"
_REPORT = "after_optimizations-memory-usage-report.txt"
_BUFFERS = "after_optimizations-buffer-assignment.txt"
_SIZE = re.compile(r"^allocation \d+: size (\d+), (.*)$", re.MULTILINE)
_whole: list[Callable[..., Any]] = []  # the compiler to its end


def begin() -> None:
  """For this process, before jax is imported: compilers stop short."""
  folder = tempfile.mkdtemp(prefix="llm_jax_plans_")
  os.environ[_DUMP] = (
    f"--xla_dump_to={folder} --xla_dump_hlo_module_re=jit_(train_step|draw)"
  )
  from llm_jax.sharding import compiling

  _whole.append(compiling.compiled)
  setattr(compiling, "compiled", compiled)  # noqa: B010


def leave() -> None:
  """Ends the process, compilers included."""
  shutil.rmtree(_folder(), ignore_errors=True)
  _heard().unlink(missing_ok=True)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(0)


def _folder() -> pathlib.Path:
  return pathlib.Path(os.environ[_DUMP].split()[0].partition("=")[2])


def _heard() -> pathlib.Path:
  """What the compiler says meanwhile, see `compiling`."""
  name = f"llm_jax_compiler_{os.getpid()}.log"
  return pathlib.Path(tempfile.gettempdir()) / name


def compiled(lowered: Any, options: Any = None) -> Any:
  """What `compiling.compiled` gives, but for the size of the machine code."""
  folder, start = _folder(), time.monotonic()
  before = set(folder.glob("*"))
  ended: list[Any] = []

  def work() -> None:
    try:
      ended.append(_whole[0](lowered, options))
    except BaseException as e:  # for the thread that waits
      ended.append(e)

  threading.Thread(target=work, daemon=True).start()
  while not ended:
    new = list(set(folder.glob(f"*{_LAST}")) - before)
    if new:
      time.sleep(3)  # until all is written
      return _read(str(new[0]).removesuffix(_LAST), time.monotonic() - start)
    time.sleep(0.5)
  if isinstance(ended[0], BaseException):
    raise ended[0]
  return ended[0]


def _read(stem: str, seconds: float) -> Any:
  """From the files of one program."""
  from llm_jax.sharding import compiling

  read = lambda name: pathlib.Path(stem + name).read_text()
  total = re.search(r"\(color=0\)\s*Total bytes: (\d+)", read(_REPORT))
  assert total, stem
  found = [(int(n), how) for n, how in _SIZE.findall(read(_BUFFERS))]
  given = sum(n for n, how in found if "parameter" in how)
  left = sum(n for n, how in found if "maybe-live-out" in how)
  kept = [n for n, how in found if "parameter" in how and "live-out" in how]
  new = left - sum(kept)
  return compiling.Compiled(
    seconds=seconds,
    text=read(_LAST),
    arguments=given,
    outputs=left,
    aliased=sum(kept),
    temporaries=int(total[1]) - given - new,
    code=0,
    warnings=[
      line
      for line in _heard().read_text(errors="replace").splitlines()
      if "full rematerialization" in line.lower()
    ],
  )
