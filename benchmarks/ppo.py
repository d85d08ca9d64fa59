"""A whole update of PPO beside TRL's, on the same prompts, in one run.

  python -m benchmarks.ppo [--torch_python=PATH] [--rounds=3] [--cores=1]
      [--updates=2] [--shapes=tiny,small] [--new=64] [--ends=none,early]

PATH is an interpreter that has trl 1.12.0, a late one that has a PPO (pip
install 'trl==1.12.0' 'transformers==5.23.0' torch); without it only llm_jax is
timed. An update draws completions of 64 prompts at temperature 0.7, has them
scored by a reward model, the reference and a critic of its own, all of the
policy's size, and learns from them in 4 epochs of 4 minibatches. Policy and
reference have the same small random weights on both sides, so the first entropy
is nearly that of the whole vocabulary. With `none` no completion stops; with
`early` each token is the last with one probability, and completions are a third
of --new on average if none is cut: "length" is what each side drew. The sides
take turns on the same cores. A last line is of llm_jax with a critic on the
policy's own trunk.
"""

from collections.abc import Sequence
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

from benchmarks import drawing, ending, ppo_jax_side, tuning

_TORCH = flags.DEFINE_string("torch_python", None, "with trl 1.12.0")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_UPDATES = flags.DEFINE_integer("updates", 2, "updates timed in a turn", 1)
_SHAPES = flags.DEFINE_list("shapes", ["tiny", "small"], "of the models")
_NEW = flags.DEFINE_integer("new", 64, "tokens of a completion", 1)
_ENDS = flags.DEFINE_list("ends", ["none", "early"], "when completions stop")


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  sides = ["llm_jax", *(["trl"] if _TORCH.value else [])]
  with tempfile.TemporaryDirectory() as folder:
    for name, ends in itertools.product(_SHAPES.value, _ENDS.value):
      path = drawing.prepare(pathlib.Path(folder), drawing.SHAPES[name])
      given = json.loads(path.read_text())
      length = drawing.PROMPT + _NEW.value
      given |= {"new": _NEW.value, "length": length, "epochs": 4, "parts": 4}
      given["stop"] = ending.STOP if ends == "early" else None
      path.write_text(json.dumps(given))
      if ends == "early":
        mean = str(_NEW.value / 3)
        what = [sys.executable, "-m", "benchmarks.ending", str(path), mean]
        subprocess.run(what, check=True)  # as JAX and a fork do not go together
      modes = f"{name}, ends" if ends == "early" else name
      variants = [(side, modes) for side in sides]
      # Half the work, which the other side has no setting for.
      variants.append(("llm_jax", f"{modes}{ppo_jax_side.SHARED}"))
      turns = tuning.alternate(
        variants,
        "ppo",
        path,
        python=_TORCH.value,
        rounds=_ROUNDS.value,
        cores=_CORES.value,
        steps=_UPDATES.value,
      )
      counted = {"tokens": "tokens", "updates": "updates"}
      for (side, mode), found in turns.items():
        print(f"{side} {mode}: length {found[0]['length']:.1f}")
      tuning.show(turns, counted, first="first entropy")


if __name__ == "__main__":
  app.run(main)
