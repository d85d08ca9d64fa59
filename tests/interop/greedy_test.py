"""Imported models go on as transformers does, token by token from a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.generation import decode as decode_lib
from llm_jax.models import cache as cache_lib
from llm_jax.models.transformer import Decoder
from llm_jax.ops.sampling import Sampler
from tests.interop import families_test, tiny

NAMES = [n for n in families_test.NAMES if tiny.golden(n)["greedy_T"].size]


@pytest.mark.parametrize("name", NAMES)
def test_the_likeliest_tokens_are_those_of_transformers(name, tmp_path):
  golden = tiny.golden(name)
  folder = tiny.write(tmp_path / name, golden["config"], golden["tensors"])
  prompt_BP = jnp.asarray(golden["ids_BT"][:1], jnp.int32)
  want_T = golden["greedy_T"]
  P, T = prompt_BP.shape[1], len(want_T)
  with families_test.float64():
    shape, params = families_test.read(folder)
    module = Decoder(shape)

    @jax.jit
    def run(params):
      return decode_lib.rollout(
        lambda v, *args: module.apply(v, *args, method="decode"),
        {"params": params},
        prompt_BP,
        jnp.full(1, P),
        cache_lib.empty(shape, 1, P + T),
        jax.random.key(0),
        limit=T,
        sampler=Sampler(temperature=0.0),
        stop_ids=(),
      ).tokens_BT

    np.testing.assert_array_equal(run(params)[0], want_T)
