"""What a run ran on."""

from importlib import metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "tensorflow-datasets",
  "sentencepiece",
  "numpy",
)


def describe() -> dict[str, Any]:
  """Versions, devices and revision, as JSON values."""
  devices = jax.devices()
  return {
    "python": platform.python_version(),
    "packages": {p: _version(p) for p in _PACKAGES},
    "device": devices[0].device_kind,
    "devices": len(devices),
    "processes": jax.process_count(),
    "platform": platform.platform(),
    "cores": os.cpu_count(),
    "revision": _revision(),
  }


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def _revision() -> str | None:
  if sent := os.environ.get("LLM_JAX_REVISION"):  # without its repository
    return sent[:12]
  here = pathlib.Path(__file__).parent
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      cwd=here,
      capture_output=True,
      text=True,
      timeout=5,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
