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
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags
import numpy as np

from benchmarks import sft_jax_side
from llm_jax.tokenizers import store
from llm_jax.tokenizers.sentencepiece import SentencePiece

_DATA = flags.DEFINE_string(
  "data", None, "questions and answers", required=True
)
_TORCH = flags.DEFINE_string("torch_python", None, "interpreter with trl")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)
_STEPS = flags.DEFINE_integer("steps", 6, "steps timed in a turn", 1)

_ROOT = pathlib.Path(__file__).parents[1]
_LENGTH, _BATCH = 512, 8
_SHAPE = {"layers": 4, "width": 256, "mlp": 688, "heads": 4, "vocab": 4096}


def main(argv: Sequence[str]) -> None:
  """Prints a table."""
  del argv
  sides = ["llm_jax", *(["trl"] if _TORCH.value else [])]
  turns: dict[tuple[str, str], list[dict]] = {}
  with tempfile.TemporaryDirectory() as folder:
    given = _prepare(pathlib.Path(folder))
    for i in range(_ROUNDS.value):
      for side in sides:
        for mode in ("packed", "padded"):
          found = _turn(side, mode, given)
          turns.setdefault((side, mode), []).append(found)
          print(
            f"{i + 1}/{_ROUNDS.value} {side} {mode}:"
            f" {found['cpu_tokens']:.0f} trained tokens a cpu second",
            file=sys.stderr,
          )
  print(f"{'':<16}{'a cpu second':>14}{'a second':>12}{'first loss':>12}")
  for (side, mode), found in turns.items():
    middle = lambda key, found=found: statistics.median(x[key] for x in found)
    print(
      f"{side:<8}{mode:<8}{middle('cpu_tokens'):>14.0f}"
      f"{middle('wall_tokens'):>12.0f}{float(found[0]['losses'][0]):>12.3f}"
    )
  print(", ".join(sorted({x[0]["version"] for x in turns.values()})))


def _prepare(folder: pathlib.Path) -> pathlib.Path:
  """A tokenizer of the text, and its ids for the other side; where they are."""
  given = {
    "paths": str(pathlib.Path(_DATA.value).absolute()),
    "cache": str(folder / "cache"),
    "tokenizer": str(folder / "tokenizer"),
    "shape": _SHAPE,
    "length": _LENGTH,
    "batch_size": _BATCH,
  }
  plain = lambda items, total=None, label="": items
  corpus = sft_jax_side.instructions(given, "best_fit").prepare(plain)
  settings = SentencePiece(kind="bpe", vocab_size=_SHAPE["vocab"])
  tokenizer = store.obtain(
    settings, lambda: corpus.texts("train"), folder / "tokenizer"
  )
  found = corpus.tokenise(tokenizer, plain).tokens("train")
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


def _turn(side: str, mode: str, given: pathlib.Path) -> dict:
  cores = sorted(os.sched_getaffinity(0))[-_CORES.value :]
  python = sys.executable if side == "llm_jax" else _TORCH.value
  module = {"llm_jax": "sft_jax_side", "trl": "sft_trl_side"}[side]
  done = subprocess.run(
    [python, "-m", f"benchmarks.{module}", given, mode, str(_STEPS.value)],
    env=os.environ
    | {"OMP_NUM_THREADS": str(len(cores)), "PYTHONPATH": str(_ROOT)},
    cwd=given.parent,
    capture_output=True,
    text=True,
    check=False,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )
  if done.returncode:
    raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
  app.run(main)
