"""Weights by which completions end early, on either side of a comparison.

Arguments: the file of `drawing.prepare`, mean tokens of a completion.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import rollouts_jax_side, tuning_jax
from llm_jax.models import transformer

STOP = 2  # the id that ends a completion
_CONSTANT = 0.5  # what the first number of every embedding is


def end_early(path: pathlib.Path, mean: float) -> None:
  """Changes the weights of a comparison: a token is the last with 1 / mean.

  The first number of the residual stream is one that no layer adds to, so that
  the head's row of the stop id, which is nothing else, says nearly the same
  wherever it is asked. How large that is, is found by bisection.

  Args:
    path: of the file that `drawing.prepare` wrote.
    mean: tokens of a completion, were there no limit.
  """
  given = json.loads(path.read_text())
  with np.load(given["weights"]) as found:
    weights = dict(found)
  for name, x in weights.items():
    if name.endswith(("o_proj", "down_proj")):
      x[0] = 0
  table = weights["model.embed_tokens"]
  table[:, 0], table[STOP] = _CONSTANT, 0
  np.savez(given["weights"], **weights)
  x_TD = _activations(given)
  z_TV = x_TD @ table.T / given["temperature"]
  others_T = np.log(np.exp(np.delete(z_TV, STOP, 1)).sum(1))
  low, high = 0.0, 100.0
  for _ in range(50):
    middle = (low + high) / 2
    own_T = middle * x_TD[:, 0] / given["temperature"]
    often = (1 / (1 + np.exp(others_T - own_T))).mean() > 1 / mean
    low, high = (low, middle) if often else (middle, high)
  table[STOP, 0] = low
  np.savez(given["weights"], **weights)


def _activations(given: dict[str, Any]) -> np.ndarray:
  """After the last norm, of all positions of prompts."""
  model = transformer.Decoder(tuning_jax.shape(given, norm_eps=1e-6))
  variables = {"params": rollouts_jax_side.params(given)}
  run = jax.jit(model.apply)
  ids = [np.array([p], np.int32) for p in given["prompts"] if len(p) > 60]
  width = min(x.shape[1] for x in ids)
  found = run(variables, np.concatenate([x[:, :width] for x in ids]))
  return np.asarray(found, np.float64).reshape(-1, found.shape[-1])


if __name__ == "__main__":
  end_early(pathlib.Path(sys.argv[1]), float(sys.argv[2]))
