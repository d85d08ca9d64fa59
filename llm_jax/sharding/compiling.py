"""Programs compiled for machines that are not here, by libtpu."""

from collections.abc import Iterator
import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies as jax_topologies

from llm_jax.sharding.topologies import GIB, Topology

# Without the first libtpu asks a metadata server, and complains that none
# answers; with the last it warns of what is listed in `Compiled.warnings`.
_ALONE = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "none-0",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  # No device is opened, so others may load it, too.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_STDERR_LOG_LEVEL": "1",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_REMAT = "full rematerialization"


class DoesNotFit(Exception):  # noqa: N818  (an answer, no error)
  """The compiler found no way to do with the memory of a device.

  `needs` and `has` are bytes, None where its message does not say.
  """

  def __init__(self, said: str):
    super().__init__(said.splitlines()[0])
    self.needs, self.has = memory_of(said)


class Compiled(NamedTuple):
  """What the compiler says of a program; bytes are of one device."""

  seconds: float
  text: str  # HLO; "" where this jaxlib cannot read what libtpu wrote
  arguments: int
  outputs: int
  aliased: int  # outputs that take the place of arguments
  temporaries: int
  code: int
  warnings: list[str]  # of involuntary full rematerialisation

  @property
  def total(self) -> int:
    """Bytes in use, at most."""
    kept = self.arguments + self.outputs - self.aliased
    return kept + self.temporaries + self.code


def devices(topology: Topology) -> list[Any]:
  """Devices to compile for. ValueError where libtpu is missing, or busy."""
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"--topology={topology.name}: compiling for TPUs needs libtpu, which is"
      " not installed: pip install 'llm_jax[tpu]'; with --nocompile analysis"
      " does without"
    )
  for name, value in _ALONE.items():
    os.environ.setdefault(name, value)
  try:
    with _heard():
      return list(
        jax_topologies.get_topology_desc(
          topology.compiler,
          "tpu",
          chip_config_name=topology.config,
          chips_per_host_bounds=topology.host,
          num_slices=topology.slices,
          wrap=topology.wrap,
        ).devices
      )
  except (RuntimeError, ValueError) as e:
    line = " ".join(str(e).split())[:200]
    raise ValueError(
      f"--topology={topology.name}: libtpu {version()} does not serve it:"
      f" {line}"
    ) from e


def version() -> str:
  """Of libtpu; "" where it is not installed."""
  try:
    return importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return ""


def compiled(lowered: Any, options: Any = None) -> Compiled:
  """Compiles a lowered program. Raises `DoesNotFit`."""
  start = time.monotonic()
  # What is compiled for others cannot be loaded from the cache here.
  cache = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    with _heard() as said:
      program = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as e:
    if "compile option" in str(e) or "setting option" in str(e):
      raise ValueError(f"--compiler: {str(e).splitlines()[0]}") from e
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    raise DoesNotFit(str(e)) from e
  finally:
    jax.config.update("jax_enable_compilation_cache", cache)
  m = program.memory_analysis()
  kept = m.argument_size_in_bytes + m.output_size_in_bytes
  kept -= m.alias_size_in_bytes
  # What it calls temporaries is summed over all kinds of memory; the peak is
  # of HBM, and what the compiler itself compares with what there is.
  used = m.peak_memory_in_bytes or kept + m.temp_size_in_bytes
  return Compiled(
    seconds=time.monotonic() - start,
    text=_text(program),
    arguments=m.argument_size_in_bytes,
    outputs=m.output_size_in_bytes,
    aliased=m.alias_size_in_bytes,
    temporaries=max(used - kept, 0),
    code=m.generated_code_size_in_bytes,
    warnings=[line for line in said if _REMAT in line.lower()],
  )


def _text(program: Any) -> str:
  """HLO of a program; a libtpu newer than jaxlib may write what it cannot read.

  Seen with jaxlib 0.10.2 and libtpu 0.0.52 on v5p: "async-update instruction
  should have 1 operands but sees 3".
  """
  try:
    return str(program.as_text())
  except jax.errors.JaxRuntimeError:
    return ""


def memory_of(said: str) -> tuple[float | None, float | None]:
  """(bytes needed, bytes there are) of what the compiler says it lacks.

  "... temporaries (26.48G) exceeds available HBM (15.75G)", or "Used 20.1G of
  15.75G hbm".
  """
  size = r"([\d.]+)([KMGT]?)i?B?"
  for pattern in (
    rf"\({size}\) exceeds available HBM \({size}\)",
    rf"[Uu]sed {size} of {size} hbm",
  ):
    if found := re.search(pattern, said):
      needs, unit, has, of = found.groups()
      return float(needs) * _UNITS[unit], float(has) * _UNITS[of]
  return None, None


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
  """Lines that C++ writes to stderr meanwhile; Python's go on to people."""
  lines: list[str] = []
  try:
    sys.stderr.flush()
    mine = os.dup(2)
  except (OSError, ValueError):
    yield lines
    return
  python, folder = sys.stderr, tempfile.gettempdir()
  path = pathlib.Path(folder) / f"llm_jax_compiler_{os.getpid()}.log"
  with path.open("w+b") as file, os.fdopen(mine, "w", closefd=False) as out:
    os.dup2(file.fileno(), 2)
    if python is sys.__stderr__:
      sys.stderr = out
    try:
      yield lines
    finally:
      out.flush()
      os.dup2(mine, 2)
      sys.stderr = python
      file.seek(0)
      lines += file.read().decode(errors="replace").splitlines()
      path.unlink(missing_ok=True)
  os.close(mine)
