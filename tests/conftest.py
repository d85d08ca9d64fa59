"""Eight simulated devices, quick compiles, and the root on the path.

Half of a cold suite's time was LLVM's optimisation of programs that run once:
it is off, here and in processes that tests start. A test marked `optimised`
has it on, as have all with JAX_DISABLE_MOST_OPTIMIZATIONS=0.
"""

import os
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
  os.environ["XLA_FLAGS"] = (
    _flags + " --xla_force_host_platform_device_count=8"
  ).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiled programs are kept between workers and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell that starts tests beside it has them ignore the key; and scripts that
# tests start could not hear it then.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _optimised(request):
  """Programs as users have them, for what is said of their last bits."""
  if request.node.get_closest_marker("optimised") is None:
    yield
    return
  import jax

  from tests import compiling

  jax.clear_caches()  # of the same programs, compiled quickly
  with compiling.optimised():
    yield
