"""Training steps of TRL's SFTTrainer on tokenised examples. Prints JSON.

Arguments: a JSON file ({"ids": [[...]], "trained": [[...]], "shape",
"length", "batch_size"}), "packed" or "padded", steps.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before what reads it

import datasets
import tokenizers
import torch
import transformers
import trl

_WARM = 3


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


def main() -> None:
  """Trains for a few steps and times the later ones."""
  with open(sys.argv[1]) as f:
    given = json.load(f)
  packed, steps = sys.argv[2] == "packed", int(sys.argv[3])
  s = given["shape"]
  config = transformers.LlamaConfig(
    vocab_size=s["vocab"],
    hidden_size=s["width"],
    intermediate_size=s["mlp"],
    num_hidden_layers=s["layers"],
    num_attention_heads=s["heads"],
    num_key_value_heads=s["heads"],
    max_position_embeddings=given["length"],
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config)
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 2}, "<pad>")
  )
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
  )
  data = datasets.Dataset.from_dict(
    {"input_ids": given["ids"], "completion_mask": given["trained"]}
  )
  clock = Clock()
  with tempfile.TemporaryDirectory() as folder:
    settings = trl.SFTConfig(
      output_dir=folder,
      max_length=given["length"],
      packing=packed,
      completion_only_loss=True,
      per_device_train_batch_size=given["batch_size"],
      max_steps=_WARM + steps,
      learning_rate=1e-4,
      report_to="none",
      save_strategy="no",
      logging_steps=1,
      disable_tqdm=True,
      use_cpu=not torch.cuda.is_available(),
      bf16=torch.cuda.is_available(),
      gradient_checkpointing=False,
      dataloader_num_workers=0,
      seed=0,
    )
    trainer = trl.SFTTrainer(
      model=model,
      args=settings,
      train_dataset=data,
      processing_class=tokenizer,
      callbacks=[clock],
    )
    counts = []
    forward = trainer.compute_loss

    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
      counts.append(int((inputs["labels"][:, 1:] != -100).sum()))
      return forward(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    trainer.train()
  (w0, c0), (w1, c1) = clock.ends[_WARM - 1], clock.ends[-1]
  trained = sum(counts[_WARM:])
  print(
    json.dumps(
      {
        "wall_tokens": trained / (w1 - w0),
        "cpu_tokens": trained / (c1 - c0),
        "losses": [x["loss"] for x in trainer.state.log_history if "loss" in x],
        "version": f"trl {trl.__version__}, torch {torch.__version__}",
      }
    )
  )


if __name__ == "__main__":
  main()
