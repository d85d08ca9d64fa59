"""Steps of DPO with llm_jax. Prints a JSON object.

Arguments: a JSON file ({"paths", "cache", "tokenizer", "shape", "length",
"batch_size"}), a mode of `MODES`, packed or not, steps.
"""

import json
import pathlib
import sys

import numpy as np

from benchmarks import tuning_jax
from llm_jax.contracts import Batch
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.objectives.dpo import DPO
from llm_jax.ops import slots
from llm_jax.peft.lora import LoRA

MODES = {
  "each step": {},
  "once": {"reference": "once"},
  "lora": {"peft": LoRA(rank=8)},
}
PACKED = ", packed"  # after the name of a mode


def preferences(given: dict, packing: str = "one") -> Preferences:
  """The data, by the settings that both sides share."""
  return Preferences(
    sources=(
      PreferenceFiles(
        paths=(given["paths"],), format="transcript", faulty="drop"
      ),
    ),
    length=given["length"],
    packing=packing,
    too_long="drop",
    validation=0.0,
    cache=given["cache"],
  )


def count(batch: Batch) -> dict[str, int]:
  """Pairs, and tokens of prompts and completions."""
  tokens = int((batch["mask_BT"] | batch["prompt_BT"]).sum())
  pairs = int((np.asarray(slots.lengths(batch)) > 0).sum()) // 2
  return {"tokens": tokens, "pairs": pairs}


def main() -> None:
  """Trains for a few steps and times the later ones."""
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  mode = sys.argv[2].removesuffix(PACKED)
  packing = "one" if mode == sys.argv[2] else "best_fit"
  tuning_jax.time_steps(
    tuning_jax.experiment(
      given, preferences(given, packing), objective=DPO(), **MODES[mode]
    ),
    given,
    int(sys.argv[3]),
    count,
    pathlib.Path(sys.argv[2]),
  )


if __name__ == "__main__":
  main()
