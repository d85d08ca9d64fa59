"""Updates of TRL's experimental PPOTrainer. Prints a JSON object.

Arguments: the file that `ppo` prepares, a name, updates. Needs trl 1.12.0.
"""

import copy
import json
import os
import statistics
import sys
from typing import Any

from benchmarks import (
  rollouts_transformers_side,
  tuning_trl,
)  # before what it sets the environment for

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

# isort: split
import datasets
import torch
import transformers
import trl
from trl.experimental import ppo
from trl.experimental.ppo import ppo_trainer


def main() -> None:
  """Runs a few updates and times the later ones."""
  with open(sys.argv[1]) as f:
    given = json.load(f)
  rows, parts, updates = len(given["prompts"]), given["parts"], int(sys.argv[3])
  warm = tuning_trl.WARM
  tokenizer = tuning_trl.tokenizer()
  tokenizer.padding_side = "left"
  shared = tuning_trl.settings(given, updates) | {"learning_rate": 3e-6}
  del shared["max_steps"]
  settings = ppo.PPOConfig(
    **shared,
    per_device_train_batch_size=rows // parts,
    gradient_accumulation_steps=parts,
    num_mini_batches=parts,
    num_ppo_epochs=given["epochs"],
    total_episodes=(warm + updates) * rows,
    local_rollout_forward_batch_size=rows,
    response_length=given["new"],
    temperature=given["temperature"],
    num_sample_generations=0,
    stop_token=None if given["stop"] is None else "eos",
  )
  policy = rollouts_transformers_side.load(tuning_trl.model(given), given)
  lengths = counted_lengths()
  trainer = ppo.PPOTrainer(
    args=settings,
    processing_class=tokenizer,
    model=policy,
    ref_model=copy.deepcopy(policy),
    reward_model=_scorer(policy),
    value_model=_scorer(policy),
    train_dataset=datasets.Dataset.from_dict({"input_ids": given["prompts"]}),
  )
  clock = tuning_trl.Clock()
  trainer.add_callback(clock)
  told: list[dict[str, Any]] = []
  trainer.log = lambda metrics, *args, **kwargs: told.append(metrics)
  trainer.train()
  (w0, c0), (w1, c1) = clock.ends[warm - 1], clock.ends[-1]
  assert len(clock.ends) == warm + updates
  drawn = given["new"]
  if lengths:
    drawn = statistics.mean(lengths[warm:])
  found = {
    "tokens": updates * rows * drawn,
    "length": statistics.mean(lengths) if lengths else drawn,
    "updates": updates,
    "wall": w1 - w0,
    "cpu": c1 - c0,
    # Its mean is over as many places again as there are parts, all 0.
    "losses": [parts * float(x["policy/entropy_avg"]) for x in told],
    "version": f"trl {trl.__version__}, torch {torch.__version__}",
  }
  print(json.dumps(found))


def counted_lengths() -> list[float]:
  """Fills with the mean length of each drawing, the stop token included."""
  lengths: list[float] = []
  cut = ppo_trainer.truncate_response

  def counted(stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
    out = cut(stop, pad, responses)
    lengths.append(float((out != pad).sum(1).float().mean()))
    return out

  ppo_trainer.truncate_response = counted
  return lengths


def _scorer(
  policy: transformers.PreTrainedModel,
) -> transformers.PreTrainedModel:
  """Of the policy's size, with one number to say."""
  config = copy.deepcopy(policy.config)
  config.num_labels = 1
  torch.manual_seed(1)
  return transformers.LlamaForSequenceClassification(config)


if __name__ == "__main__":
  main()
