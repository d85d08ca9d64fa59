"""Names of machines mean what their vendors and libtpu mean by them."""

import math

import pytest

from llm_jax.reporting.throughput import PEAK
from llm_jax.sharding import topologies

# As libtpu has been seen to serve them.
KNOWN = {
  "v4-8": ("v4:2x2x1", "megacore", 4, 1, (False, False, False)),
  "v4-128": ("v4:4x4x4", "megacore", 64, 16, (True, True, True)),
  "v5e-1": ("v5e:1x1", "default", 1, 1, (False, False, False)),
  "v5e-8": ("v5e:2x4", "default", 8, 1, (False, False, False)),
  "v5e-16": ("v5e:4x4", "default", 16, 4, (False, False, False)),
  "v5litepod-16": ("v5e:4x4", "default", 16, 4, (False, False, False)),
  "v5e-128": ("v5e:8x16", "default", 128, 32, (False, True, False)),
  "v5e-256": ("v5e:16x16", "default", 256, 64, (True, True, False)),
  "v5p-128": ("v5:4x4x4", "megacore", 64, 16, (True, True, True)),
  "v5p-512": ("v5:4x8x8", "megacore", 256, 64, (True, True, True)),
  "v6e-256": ("v6e:16x16", "default", 256, 64, (True, True, False)),
  "tpu7x-128": ("tpu7x:4x4x4", "default", 128, 16, (True, True, True)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_name_is_what_libtpu_calls_it(name):
  t = topologies.of(name)
  told = (t.compiler, t.config, t.devices, t.hosts, t.wrap)
  assert told == KNOWN[name]
  chips = math.prod(int(n) for n in t.shape.split("x"))
  assert chips in (t.devices, t.devices / 2)


def test_every_name_that_is_offered_is_known():
  for name in topologies.names():
    t = topologies.of(name)
    assert t.total >= 1 and t.hosts >= 1
    assert t.chip.memory > 2**30 and t.chip.flops > 1e14


def test_slices_and_gpus():
  two = topologies.of("v5p-512", 2)
  assert (two.total, two.hosts) == (512, 128)
  gpus = topologies.of("h100-64")
  assert (gpus.total, gpus.hosts, gpus.compiler) == (64, 8, "")
  with pytest.raises(ValueError, match=r"--slices=2: h100-64 has no slices"):
    topologies.of("h100-64", 2)
  with pytest.raises(ValueError, match=r"--slices=0"):
    topologies.of("v5e-16", 0)


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("v5q-16", "did you mean .*v5e-16"),
    ("V5P_128", "did you mean .*v5p-128"),
    ("nonsense", "there are v4-N"),
    ("v5p-100", "v5p has 8, 16, 32"),
    ("v5e-512", "v5e has 1, 4, 8"),
  ],
)
def test_an_unknown_name_is_told_with_the_nearest(name, said):
  with pytest.raises(ValueError, match=said) as error:
    topologies.of(name)
  assert "\n" not in str(error.value)
  assert str(error.value).startswith(f"--topology={name}: unknown")


def test_the_training_bar_knows_the_same_peaks():
  for chip in topologies.CHIPS.values():
    assert PEAK[chip.kind] == chip.flops
