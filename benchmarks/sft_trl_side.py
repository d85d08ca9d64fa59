"""Training steps of TRL's SFTTrainer on tokenised examples. Prints JSON.

Arguments: a JSON file ({"ids": [[...]], "trained": [[...]], "shape",
"length", "batch_size"}), "packed" or "padded", steps.
"""

import json
import sys

from benchmarks import tuning_trl  # before what it sets the environment for

# isort: split
import datasets
import trl


def main() -> None:
  """Trains for a few steps and times the later ones."""
  with open(sys.argv[1]) as f:
    given = json.load(f)
  settings = trl.SFTConfig(
    **tuning_trl.settings(given, int(sys.argv[3])),
    max_length=given["length"],
    packing=sys.argv[2] == "packed",
    completion_only_loss=True,
    per_device_train_batch_size=given["batch_size"],
  )
  trainer = trl.SFTTrainer(
    model=tuning_trl.model(given),
    args=settings,
    train_dataset=datasets.Dataset.from_dict(
      {"input_ids": given["ids"], "completion_mask": given["trained"]}
    ),
    processing_class=tuning_trl.tokenizer(),
  )
  tuning_trl.time_steps(
    trainer,
    lambda inputs: {"tokens": int((inputs["labels"][:, 1:] != -100).sum())},
  )


if __name__ == "__main__":
  main()
