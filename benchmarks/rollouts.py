"""Drawing completions beside `transformers`' generate, in one run.

  python -m benchmarks.rollouts [--torch_python=PATH] [--rounds=5] [--cores=1]
      [--draws=3] [--shapes=tiny,small] [--modes=each,group]

PATH is an interpreter that has torch and transformers; without it only llm_jax
is timed. Both sides have the same weights (the first loss, on the prompts,
tells), draw at temperature 0.7 from the whole vocabulary, 128 tokens for each
of 64 rows, none of which stops, after prompts of 16 to 64 tokens; they take
turns on the same cores. llm_jax also keeps the log-probability of every token,
as its training does. Rows have prompts of their own ("each"), or eight of them
share one ("group", for which generate has `num_return_sequences`).
"""

from collections.abc import Sequence
import json
import pathlib
import tempfile

from absl import app, flags
import numpy as np

from benchmarks import tuning

_TORCH = flags.DEFINE_string("torch_python", None, "with transformers")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_DRAWS = flags.DEFINE_integer("draws", 3, "drawings timed in a turn", 1)
_SHAPES = flags.DEFINE_list("shapes", ["tiny", "small"], "of the model")
_MODES = flags.DEFINE_list("modes", ["each", "group"], "how prompts are shared")

SHAPES = {
  # The demo's.
  "tiny": {"layers": 4, "width": 192, "mlp": 512, "heads": 6, "vocab": 2048},
  # That of the other comparisons.
  "small": tuning.SHAPE,
}
ROWS, PROMPT, NEW = 64, 64, 128
GROUP = 8  # completions of a prompt


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  sides = ["llm_jax", *(["transformers"] if _TORCH.value else [])]
  with tempfile.TemporaryDirectory() as folder:
    for name in _SHAPES.value:
      turns = tuning.alternate(
        [(side, mode) for mode in _MODES.value for side in sides],
        "rollouts",
        prepare(pathlib.Path(folder), SHAPES[name]),
        python=_TORCH.value,
        rounds=_ROUNDS.value,
        cores=_CORES.value,
        steps=_DRAWS.value,
      )
      print(name)
      tuning.show(turns, {"tokens": "tokens"})


def prepare(folder: pathlib.Path, shape: dict[str, int]) -> pathlib.Path:
  """Prompts and weights for both sides; where they are."""
  r = np.random.default_rng(0)
  lengths = r.integers(PROMPT // 4, PROMPT + 1, ROWS)
  lengths[0] = PROMPT
  given = {
    "shape": shape,
    "length": PROMPT + NEW,
    "new": NEW,
    "group": GROUP,
    "temperature": 0.7,
    "prompts": [r.integers(3, shape["vocab"], n).tolist() for n in lengths],
    "weights": str(folder / "weights.npz"),
  }
  np.savez(given["weights"], **weights(shape, r))
  path = folder / "given.json"
  path.write_text(json.dumps(given))
  return path


def weights(
  shape: dict[str, int], r: np.random.Generator
) -> dict[str, np.ndarray]:
  """Of a Llama, [out, in] of each layer, by the names of `transformers`."""
  D, F = shape["width"], shape["mlp"]
  normal = lambda *dims: r.normal(0, 0.05, dims).astype(np.float32)
  out = {"model.embed_tokens": normal(shape["vocab"], D)}
  for i in range(shape["layers"]):
    layer = f"model.layers.{i}"
    for name in ("q", "k", "v", "o"):
      out[f"{layer}.self_attn.{name}_proj"] = normal(D, D)
    for name, dims in (("gate", (F, D)), ("up", (F, D)), ("down", (D, F))):
      out[f"{layer}.mlp.{name}_proj"] = normal(*dims)
  return out


if __name__ == "__main__":
  app.run(main)
