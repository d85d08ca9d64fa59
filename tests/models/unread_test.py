"""Settings that nothing reads are refused, each in a line that names it."""

import dataclasses

import pytest

from llm_jax.models.config import Experts, RopeScaling, TransformerConfig
from tests import small

LONG = RopeScaling("longrope", short_factors=(1.0,), long_factors=(2.0,))
# What is wrong, what makes it right, and what the line begins with.
REFUSED = [
  ({"window_theta": 50.0}, {"window": 4}, "window_theta=50.0"),
  ({"full_layers": (1,)}, {"window": 4}, "full_layers=1"),
  ({"head_dense_bias": False}, {"head_dense": True}, "head_dense_bias=False"),
  ({"output_dense": "tanh"}, {"outputs": 1}, "output_dense=tanh"),
  ({"output_bias": True}, {"outputs": 1}, "output_bias=True"),
  ({"norm_bias": True}, {"norm": "layer"}, "norm_bias=True"),
  ({"qk_norm_over": "all"}, {"qk_norm": True}, "qk_norm_over=all"),
  ({"token_types": 2}, {"sees": "all"}, "token_types=2"),
  ({"position_offset": 2}, {"positions": "learned"}, "position_offset=2"),
  ({"relative_buckets": 8}, {"positions": "relative"}, "relative_buckets=8"),
  (
    {"relative_distance": 99},
    {"positions": "relative"},
    "relative_distance=99",
  ),
  ({"first_norm": False, "norm_at": "sum"}, {"norm_at": "both"}, "first_norm"),
  (
    {"rope_theta": 5.0, "positions": "none"},
    {"positions": "rope"},
    "rope_theta=5.0",
  ),
  (
    {"rope_dim": 2, "positions": "learned"},
    {"positions": "rope"},
    "rope_dim=2",
  ),
  (
    {"rope_scaling": RopeScaling(factor=8.0), "positions": "learned"},
    {"positions": "rope"},
    "rope_scaling.factor=8.0",
  ),
  (
    {"rope_scaling": LONG, "positions": "none"},
    {"positions": "rope", "rope_dim": 2},
    "rope_scaling.short_factors=1.0",
  ),
  (
    {"experts": Experts(per_token=1)},
    {"experts": Experts(4, 1)},
    "experts.per_token=1",
  ),
  ({"attention_scale": 0.0}, {"attention_scale": 0.1}, "attention_scale=0.0"),
  ({"attention_scale": -1.0}, {"attention_scale": 1}, "attention_scale=-1.0"),
  (
    {"full_layers": (1, 1), "window": 4},
    {"full_layers": (1,)},
    "full_layers=1,1: names a layer twice",
  ),
  (
    {"full_layers": (2,), "window": 4},
    {"full_layers": (1,)},
    "full_layers=2: there are layers 0 to 1",
  ),
  ({"rope_dim": 3}, {"rope_dim": 2}, "rope_dim=3"),
  ({"rope_dim": 8}, {"rope_dim": 4}, "rope_dim=8"),
  (
    {"rope_scaling": LONG},
    {"rope_dim": 2},
    "rope_scaling.short_factors: there",
  ),
]


@pytest.mark.parametrize("wrong,right,said", REFUSED)
def test_what_nothing_reads_is_refused(wrong, right, said):
  with pytest.raises(ValueError) as e:
    dataclasses.replace(small.CONFIG, **wrong)
  assert str(e.value).startswith(f"--model.{said}") and "\n" not in str(e.value)
  dataclasses.replace(small.CONFIG, **wrong | right)  # and then it is read


@pytest.mark.parametrize(
  "said",
  [
    {"kind": "longrope"},
    {"short_factors": (1.0,)},
    {"sharpness": 1.2},
    {"kind": "longrope", "short_factors": (1.0,), "long_factors": (0.0,)},
    {**dataclasses.asdict(LONG), "sharpness": 0.0},
    {**dataclasses.asdict(LONG), "original_length": 1},
  ],
)
def test_longrope_is_whole_or_not_there(said):
  with pytest.raises(ValueError, match=r"^--model\.rope_scaling\."):
    RopeScaling(**said)


def test_all_settings_as_by_default_are_read():
  TransformerConfig()
