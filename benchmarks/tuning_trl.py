"""What the sides of TRL have in common. It must be installed."""

import json
import os
import tempfile
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before what reads it

import tokenizers
import torch
import transformers
import trl

from benchmarks import llama

WARM = 2  # steps before those that are timed


def model(given: dict) -> transformers.PreTrainedModel:
  """A Llama of the shape that both sides share."""
  config = llama.config(
    given, max_position_embeddings=given["length"] + 1, eos_token_id=2
  )
  torch.manual_seed(0)
  return transformers.LlamaForCausalLM(config)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
  """One that knows how to pad."""
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 2}, "<pad>")
  )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
  )


def settings(given: dict, steps: int) -> dict[str, Any]:
  """Of a trainer: as on the other side, and nothing written."""
  return {
    "output_dir": tempfile.mkdtemp(dir="."),
    "max_steps": WARM + steps,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": not torch.cuda.is_available(),
    "bf16": torch.cuda.is_available(),
    "gradient_checkpointing": False,
    "dataloader_num_workers": 0,
    "seed": 0,
  }


def time_steps(trainer: Any, count: Any) -> None:
  """Trains, and prints what `tuning` reads.

  Args:
    trainer: with `settings`.
    count: inputs of a step -> what is counted of them.
  """
  clock = Clock()
  trainer.add_callback(clock)
  counts = []
  forward = trainer.compute_loss

  def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    counts.append(count(inputs))
    return forward(model, inputs, *args, **kwargs)

  trainer.compute_loss = counted
  trainer.train()
  (w0, c0), (w1, c1) = clock.ends[WARM - 1], clock.ends[-1]
  timed = counts[WARM:]
  losses = [x["loss"] for x in trainer.state.log_history if "loss" in x]
  found = {
    "wall": w1 - w0,
    "cpu": c1 - c0,
    "losses": [float(x) for x in losses],
    "version": f"trl {trl.__version__}, torch {torch.__version__}",
  }
  print(json.dumps({k: sum(x[k] for x in timed) for k in timed[0]} | found))


class Clock(transformers.TrainerCallback):
  """When each step ended, in wall and processor time."""

  def __init__(self) -> None:
    self.ends: list[tuple[float, float]] = []

  def on_step_end(
    self, args: Any, state: Any, control: Any, **kwargs: Any
  ) -> None:
    """Called by the trainer."""
    del args, state, control, kwargs
    self.ends.append((time.perf_counter(), time.process_time()))
