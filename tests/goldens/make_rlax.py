"""Advantages and the clipped surrogate of rlax 0.1.9, in float64.

Run by hand, in an environment that has rlax:

  python tests/goldens/make_rlax.py
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import rlax


def main():
  r = np.random.default_rng(0)
  T, gamma, lam, epsilon = 7, 0.9, 0.8, 0.2
  reward, value = r.normal(size=T), r.normal(size=T)
  # What comes after the last action is worth nothing.
  advantage = rlax.truncated_generalized_advantage_estimation(
    jnp.array(reward), jnp.full(T, gamma), lam, jnp.append(value, 0.0)
  )
  ratio = np.exp(0.4 * r.normal(size=T))
  surrogate = lambda x: rlax.clipped_surrogate_pg_loss(x, advantage, epsilon)
  loss, gradient = jax.value_and_grad(surrogate)(jnp.array(ratio))
  out = {
    "gamma": gamma,
    "lam": lam,
    "epsilon": epsilon,
    "reward": reward.tolist(),
    "value": value.tolist(),
    "advantage": np.asarray(advantage).tolist(),
    "ratio": ratio.tolist(),
    "loss": float(loss),
    "gradient": np.asarray(gradient).tolist(),
  }
  path = pathlib.Path(__file__).with_name("rlax.json")
  path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
  with jax.enable_x64(True):
    main()
