"""Instruction tuning beside TRL's, on the same examples, in one run.

  python -m benchmarks.sft --data=gsm8k_train.jsonl [--torch_python=PATH]
      [--rounds=3] [--cores=1] [--steps=6]

PATH is an interpreter that has trl; without it only llm_jax is timed. The
figure is trained tokens (of answers, stop tokens included) a second, with
examples packed into rows of 512 and not: llm_jax then pads every row to 512,
TRL to the longest of each batch. Both sides train the same Llama shape from
scratch on the same ids; sides take turns on the same cores.
"""

from collections.abc import Sequence
import json
import pathlib
import statistics
import tempfile

from absl import app, flags
import numpy as np

from benchmarks import sft_jax_side, tuning

_DATA = flags.DEFINE_string(
  "data", None, "questions and answers", required=True
)
_TORCH = flags.DEFINE_string("torch_python", None, "interpreter with trl")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_STEPS = flags.DEFINE_integer("steps", 6, "steps timed in a turn", 1)

_LENGTH, _BATCH = 512, 8


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  sides = ["llm_jax", *(["trl"] if _TORCH.value else [])]
  with tempfile.TemporaryDirectory() as folder:
    turns = tuning.alternate(
      [(side, mode) for side in sides for mode in ("packed", "padded")],
      "sft",
      _prepare(pathlib.Path(folder)),
      python=_TORCH.value,
      rounds=_ROUNDS.value,
      cores=_CORES.value,
      steps=_STEPS.value,
    )
  tuning.show(turns, {"tokens": "trained"})


def _prepare(folder: pathlib.Path) -> pathlib.Path:
  """A tokenizer of the text, and its ids for the other side; where they are."""
  given = {
    "paths": str(pathlib.Path(_DATA.value).absolute()),
    "cache": str(folder / "cache"),
    "tokenizer": str(folder / "tokenizer"),
    "shape": tuning.SHAPE,
    "length": _LENGTH,
    "batch_size": _BATCH,
  }
  corpus = sft_jax_side.instructions(given, "best_fit").prepare(tuning.PLAIN)
  tokenizer = tuning.tokenizer(
    lambda: corpus.texts("train"), folder / "tokenizer"
  )
  found = corpus.tokenise(tokenizer, tuning.PLAIN).tokens("train")
  assert found.trained is not None
  at = found.offsets[1:-1]
  ids, trained = np.split(found.ids, at), np.split(found.trained, at)
  kept = [i for i, x in enumerate(ids) if len(x) <= _LENGTH]
  given |= {
    "ids": [ids[i].tolist() for i in kept],
    "trained": [trained[i].astype(int).tolist() for i in kept],
  }
  lengths = [len(x) for x in given["ids"]]
  print(
    f"{len(lengths)} examples, {statistics.mean(lengths):.0f} tokens each, the"
    f" longest {max(lengths)}; rows of {_LENGTH}, {_BATCH} a step"
  )
  path = folder / "given.json"
  path.write_text(json.dumps(given))
  return path


if __name__ == "__main__":
  app.run(main)
