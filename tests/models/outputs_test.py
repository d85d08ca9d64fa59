"""The output head: numbers of each position, beside the next token."""

import dataclasses

import jax
import numpy as np

from llm_jax import axes, trees
from llm_jax.models import sizing, transformer
from tests import small

BATCH = small.causal_batch()
SHAPE = dataclasses.replace(small.CONFIG, outputs=2)


def test_what_the_head_says():
  """A matrix product of the last activations, and tokens are as without it."""
  with jax.enable_x64(True):
    model, variables = small.build(SHAPE)
    plain, _ = small.build(small.CONFIG)
    params = {
      k: v for k, v in variables["params"].items() if k != "output_head"
    }
    score = lambda m, v: jax.jit(lambda v: m.apply(v, BATCH, method="score"))(v)
    got, want = score(model, variables), score(plain, {"params": params})
    x_BTD = jax.jit(
      lambda v: plain.apply(
        v,
        BATCH["tokens_BT"],
        segment_BT=BATCH.get("segment_BT"),
        position_BT=BATCH.get("position_BT"),
      )
    )({"params": params})
    np.testing.assert_array_equal(got.logp_BT, want.logp_BT)
    assert want.output_BTO is None
    assert got.output_BTO.dtype == np.float64
    np.testing.assert_allclose(
      got.output_BTO,
      np.asarray(x_BTD) @ variables["params"]["output_head"],
      rtol=1e-12,
    )


def test_its_size_and_its_beginning():
  """Normal of variance 1 / (D + 1), and counted. arXiv:2009.01325, B.1."""
  wide = dataclasses.replace(SHAPE, embed_dim=64, num_heads=4, outputs=16)
  boxed = transformer.Decoder(wide).init(
    jax.random.key(0), np.zeros((1, 1), np.int32)
  )
  params = axes.unbox(boxed)["params"]
  head = np.asarray(params["output_head"])
  assert abs(head.std() * 65**0.5 - 1) < 0.05
  assert sizing.parameters(wide).total == trees.size(params)
