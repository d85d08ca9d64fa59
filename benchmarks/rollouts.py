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
import pathlib
import tempfile

from absl import app, flags

from benchmarks import drawing, tuning

_TORCH = flags.DEFINE_string("torch_python", None, "with transformers")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_DRAWS = flags.DEFINE_integer("draws", 3, "drawings timed in a turn", 1)
_SHAPES = flags.DEFINE_list("shapes", ["tiny", "small"], "of the model")
_MODES = flags.DEFINE_list("modes", ["each", "group"], "how prompts are shared")


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  sides = ["llm_jax", *(["transformers"] if _TORCH.value else [])]
  with tempfile.TemporaryDirectory() as folder:
    for name in _SHAPES.value:
      turns = tuning.alternate(
        [(side, mode) for mode in _MODES.value for side in sides],
        "rollouts",
        drawing.prepare(pathlib.Path(folder), drawing.SHAPES[name]),
        python=_TORCH.value,
        rounds=_ROUNDS.value,
        cores=_CORES.value,
        steps=_DRAWS.value,
      )
      print(name)
      tuning.show(turns, {"tokens": "tokens"})


if __name__ == "__main__":
  app.run(main)
