"""Steps of instruction tuning with llm_jax. Prints a JSON object.

Arguments: a JSON file ({"paths", "cache", "tokenizer", "shape", "length",
"batch_size"}), "packed" or "padded", steps.
"""

import json
import pathlib
import sys

from benchmarks import tuning_jax
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions


def instructions(given: dict, packing: str) -> Instructions:
  """The data, by the settings that both sides share."""
  return Instructions(
    sources=(
      Conversations(paths=(given["paths"],), task="question_answering"),
    ),
    length=given["length"],
    packing=packing,
    too_long="drop",
    cache=given["cache"],
  )


def main() -> None:
  """Trains for a few steps and times the later ones."""
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  packing = "best_fit" if sys.argv[2] == "packed" else "one"
  tuning_jax.time_steps(
    tuning_jax.experiment(given, instructions(given, packing)),
    given,
    int(sys.argv[3]),
    lambda batch: {"tokens": int(batch["mask_BT"].sum())},
  )


if __name__ == "__main__":
  main()
