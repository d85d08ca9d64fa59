"""Rows whose positions are cut over devices: one device's step, every way."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import small
from tests.sharding import steps
from tests.sharding.laws_test import difference

T = 16
CONFIGS = {
  "plain": steps.CONFIG,
  "window": dataclasses.replace(steps.CONFIG, window=5, num_kv_heads=2),
  "grouped": dataclasses.replace(
    steps.CONFIG,
    num_kv_heads=1,
    positions="learned",
    head_chunk=6,
    remat="full",
    unroll=0,
  ),
}


def batch(packed=True):
  """Rows of three documents and padding, or of one each."""
  r = np.random.default_rng(0)
  tokens = r.integers(0, small.DIMS.V, (small.DIMS.B, T + 1)).astype(np.int32)
  found = {"tokens_BT": tokens[:, :-1], "target_BT": tokens[:, 1:]}
  ends = np.sort(r.integers(1, T + 1, (small.DIMS.B, 3)), axis=1)
  place = np.arange(T)
  if not packed:
    return found | {"mask_BT": place < ends[:, -1:]}
  before = (place[None, None] >= ends[:, :, None]).sum(1)
  starts = np.concatenate([np.zeros_like(ends[:, :1]), ends], 1)
  position = place - np.take_along_axis(starts, before, 1)
  segment = np.where(before < 3, before + 1, 0)
  return found | {
    "mask_BT": segment > 0,
    "segment_BT": segment.astype(np.int32),
    "position_BT": position.astype(np.int32),
  }


@functools.cache
def one_device(name, packed):
  with jax.enable_x64(True):
    return steps.run((1, 1, 1), config=CONFIGS[name], batch=batch(packed))


def cut(shape, way, name="plain", packed=True, **more):
  config = dataclasses.replace(CONFIGS[name], context_attention=way)
  with jax.enable_x64(True):
    return steps.run(shape, config=config, batch=batch(packed), **more)


# (data, fsdp, tensor, context), shape of model, packed, microbatches
CASES = [
  ((1, 1, 1, 2), "plain", True, 1),
  ((1, 1, 1, 4), "window", True, 1),
  ((1, 1, 1, 8), "plain", False, 1),
  ((2, 1, 2, 2), "grouped", True, 1),
  ((1, 2, 1, 4), "plain", True, 2),
  ((1, 1, 4, 2), "window", False, 2),
]


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize(("shape", "name", "packed", "parts"), CASES)
def test_cut_rows_are_whole_rows(shape, name, packed, parts, way):
  got = cut(shape, way, name, packed, microbatches=parts)
  assert difference(got, one_device(name, packed)) < 1e-12
