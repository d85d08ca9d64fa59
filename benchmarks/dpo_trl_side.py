"""Training steps of TRL's DPOTrainer on tokenised pairs. Prints JSON.

Arguments: a JSON file ({"pairs": [{"prompt_ids", "chosen_ids",
"rejected_ids"}], "shape", "length", "batch_size"}), "each step", "once" or
"lora", steps. Pairs are taken in their order.
"""

import copy
import json
import sys

from benchmarks import tuning_trl  # before what it sets the environment for

# isort: split
import datasets
import peft
import trl


def main() -> None:
  """Trains for a few steps and times the later ones."""
  with open(sys.argv[1]) as f:
    given = json.load(f)
  mode = sys.argv[2]
  model = tuning_trl.model(given)
  settings = trl.DPOConfig(
    **tuning_trl.settings(given, int(sys.argv[3])),
    beta=0.1,
    max_length=given["length"] + 1,
    precompute_ref_log_probs=mode == "once",
    per_device_train_batch_size=given["batch_size"] // 2,
    train_sampling_strategy="sequential",
  )
  trainer = _Tokenised(
    model=model,
    ref_model=copy.deepcopy(model) if mode == "each step" else None,
    args=settings,
    train_dataset=datasets.Dataset.from_list(given["pairs"]),
    processing_class=tuning_trl.tokenizer(),
    peft_config=peft.LoraConfig(
      r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    if mode == "lora"
    else None,
  )
  tuning_trl.time_steps(trainer, _count)


def _count(inputs: dict) -> dict[str, int]:
  """Pairs, and tokens of prompts and completions but the first of a row."""
  rows = len(inputs["input_ids"])
  tokens = int(inputs["attention_mask"].sum()) - rows
  return {"tokens": tokens, "pairs": rows // 2}


class _Tokenised(trl.DPOTrainer):
  """Of data that are ids already."""

  def _prepare_dataset(self, dataset, *args, **kwargs):
    del args, kwargs
    return dataset


if __name__ == "__main__":
  main()
