"""Direct preference optimisation beside TRL's, on the same pairs, in one run.

  python -m benchmarks.dpo --data=hh_harmless_pairs.jsonl.gz
      [--torch_python=PATH] [--rounds=3] [--cores=1] [--steps=4]
      [--modes='each step,once,lora']

PATH is an interpreter that has trl and peft; without it only llm_jax is timed.
Both sides train the same Llama shape from scratch, on the same ids and, but
where llm_jax packs them, in the same batches; they take turns on the same
cores. One pair in two rows, TRL pads to the longest of each batch and llm_jax
to the next of eight widths up to 512. Counted are pairs, and tokens of prompts
and completions; no padding. The reference is asked at each step, or once before
the steps that are timed, or it is the base beneath LoRA.
"""

from collections.abc import Sequence
import json
import pathlib
import random
import statistics
import tempfile

from absl import app, flags
import numpy as np

from benchmarks import dpo_jax_side, tuning
from llm_jax.contracts import Batch
from llm_jax.data import tables

_DATA = flags.DEFINE_string("data", None, "transcripts", required=True)
_TORCH = flags.DEFINE_string("torch_python", None, "interpreter with trl")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_STEPS = flags.DEFINE_integer("steps", 4, "steps timed in a turn", 1)
_MODES = flags.DEFINE_list("modes", [*dpo_jax_side.MODES], "which of them")

_LENGTH, _ROWS = 512, 16


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  variants = []
  for mode in _MODES.value:
    packed = f"{mode}{dpo_jax_side.PACKED}"
    variants += [("llm_jax", packed), ("llm_jax", mode)]
    variants += [("trl", mode)] if _TORCH.value else []
  with tempfile.TemporaryDirectory() as folder:
    turns = tuning.alternate(
      variants,
      "dpo",
      _prepare(pathlib.Path(folder)),
      python=_TORCH.value,
      rounds=_ROUNDS.value,
      cores=_CORES.value,
      steps=_STEPS.value,
    )
  tuning.show(turns, {"tokens": "tokens", "pairs": "pairs"})


def _prepare(folder: pathlib.Path) -> pathlib.Path:
  """A tokenizer of all pairs, and some of them as ids; where they are."""
  given = {
    "paths": str(pathlib.Path(_DATA.value).absolute()),
    "cache": str(folder / "cache"),
    "tokenizer": str(folder / "tokenizer"),
    "shape": tuning.SHAPE,
    "length": _LENGTH,
    "batch_size": _ROWS,
  }
  all_pairs = dpo_jax_side.preferences(given).prepare(tuning.PLAIN)
  tokenizer = tuning.tokenizer(
    lambda: all_pairs.texts("train"), folder / "tokenizer"
  )
  steps = tuning.WARM + _STEPS.value
  rows = [row for _, row in tables.rows(pathlib.Path(_DATA.value))]
  rows = random.Random(0).sample(rows, 5 * steps * _ROWS // 8)
  path = folder / "pairs.jsonl"
  path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  given["paths"] = str(path)
  found = dpo_jax_side.preferences(given).prepare(tuning.PLAIN)
  source = found.tokenise(tokenizer, tuning.PLAIN).train(_ROWS, 0)
  batches = [source.next() for _ in range(steps)]
  given["pairs"] = [x for b in batches for x in _as_ids(b)]
  lengths = np.concatenate([_lengths(b) for b in batches])
  longest = statistics.mean(int(_lengths(b).max()) for b in batches)
  print(
    f"{len(given['pairs'])} pairs, {lengths.mean():.0f} tokens a row, of a"
    f" batch the longest {longest:.0f}; {_ROWS} rows a step"
  )
  path = folder / "given.json"
  path.write_text(json.dumps(given))
  return path


def _lengths(batch: Batch) -> np.ndarray:
  return (batch["mask_BT"] | batch["prompt_BT"]).sum(-1)


def _as_ids(batch: Batch) -> list[dict[str, list[int]]]:
  """Pairs as TRL has them."""
  out = []
  for i in range(0, len(batch["tokens_BT"]), 2):
    ids = lambda of, i: batch["target_BT"][i][batch[of][i]].tolist()
    out.append(
      {
        "prompt_ids": [int(batch["tokens_BT"][i][0]), *ids("prompt_BT", i)],
        "chosen_ids": ids("mask_BT", i),
        "rejected_ids": ids("mask_BT", i + 1),
      }
    )
  return out


if __name__ == "__main__":
  app.run(main)
