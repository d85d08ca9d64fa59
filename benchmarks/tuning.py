"""Tuning beside TRL's: what the comparisons of it have in common.

Each side of each variant is a process of its own; they take turns on the same
cores. A side prints, of its timed steps: {"tokens", "wall", "cpu", "losses",
"version"}, and what else is counted.
"""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import statistics
import subprocess
import sys

from llm_jax.contracts import Tokenizer
from llm_jax.tokenizers import store
from llm_jax.tokenizers.sentencepiece import SentencePiece

SHAPE = {"layers": 4, "width": 256, "mlp": 688, "heads": 4, "vocab": 4096}
WARM = 2  # steps before those that are timed
PLAIN = lambda items, total=None, label="": items  # no progress bar
_ROOT = pathlib.Path(__file__).parents[1]

Variant = tuple[str, str]  # (llm_jax or who else, mode)
Turns = dict[Variant, list[dict]]


def tokenizer(
  texts: Callable[[], Sequence[str]], folder: pathlib.Path
) -> Tokenizer:
  """One of `SHAPE`, trained on texts."""
  settings = SentencePiece(kind="bpe", vocab_size=SHAPE["vocab"])
  return store.obtain(settings, texts, folder)


def alternate(
  variants: Sequence[Variant],
  stem: str,
  given: pathlib.Path,
  *,
  python: str | None,
  rounds: int,
  cores: int,
  steps: int,
) -> Turns:
  """What the turns of each variant printed.

  Args:
    variants: in the order of a round.
    stem: `benchmarks.{stem}_jax_side` and that of the other's name are run with
      the arguments given, mode, steps.
    given: a file for both sides, in a folder that they may write to.
    python: interpreter of the other side.
    rounds: turns of each.
    cores: that a side may use, the last ones of this process's.
    steps: timed in a turn.
  """
  out: Turns = {}
  for i in range(rounds):
    for side, mode in variants:
      short = {"llm_jax": "jax"}.get(side, side)
      found = _run(
        sys.executable if side == "llm_jax" else str(python),
        f"benchmarks.{stem}_{short}_side",
        [str(given), mode, str(steps)],
        sorted(os.sched_getaffinity(0))[-cores:],
        given.parent,
      )
      out.setdefault((side, mode), []).append(found)
      print(
        f"{i + 1}/{rounds} {side} {mode}:"
        f" {found['tokens'] / found['cpu']:.0f} tokens a cpu second",
        file=sys.stderr,
      )
  return out


def show(
  turns: Turns, counted: dict[str, str], first: str = "first loss"
) -> None:
  """Prints rates, medians over turns.

  Args:
    turns: of `alternate`.
    counted: what a side counted -> its name in the table.
    first: the first of "losses", in words.
  """
  header = [f"{x}/{s} s" for x in counted.values() for s in ("cpu", "wall")]
  print(f"{'':<32}" + "".join(f"{h:>16}" for h in [*header, first]))
  for (side, mode), found in turns.items():
    rates = [
      statistics.median(x[what] / x[clock] for x in found)
      for what in counted
      for clock in ("cpu", "wall")
    ]
    cells = "".join(f"{x:>16.4g}" for x in [*rates, found[0]["losses"][0]])
    print(f"{side:<13}{mode:<19}{cells}")
  print(", ".join(sorted({x[0]["version"] for x in turns.values()})))


def _run(
  python: str,
  module: str,
  arguments: list[str],
  cores: list[int],
  folder: pathlib.Path,
) -> dict:
  done = subprocess.run(
    [python, "-m", module, *arguments],
    env=os.environ
    | {
      "OMP_NUM_THREADS": str(len(cores)),
      "PYTHONPATH": str(_ROOT),
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    },
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )
  if done.returncode:
    raise SystemExit(f"{module} failed:\n{done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])
