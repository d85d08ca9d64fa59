"""Plans of the experiments at scale, on pods: `benchmarks/PLANS.md`.

  python -m benchmarks.plans [--only=pretrain_llama3_8b] [--cells=N]
      [--analyse | --machine_code]

Compiles each experiment for each pod with settings that `plan --search` would
try, one after another, and writes the table. What is done is kept in
runs/plans.jsonl, a line a cell, and not done again; a cell that is not there
says so in the table, and so does one that was only analysed. Needs libtpu. A
cell takes half a minute, as the compiler is stopped before machine code, see
`placing`; with --machine_code minutes, with --analyse seconds.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import subprocess
import sys

EXPERIMENTS = (
  "pretrain_gpt2_fineweb",
  "pretrain_llama3_8b",
  "pretrain_llama3_70b",
  "pretrain_mixtral_8x7b",
  "sft_llama3_8b_messages",
  "dpo_llama3_hh",
  "ppo_llama3_hh",
)
PODS = (
  ("v5e-16", 1),
  ("v5e-256", 1),
  ("v5p-128", 1),
  ("v5p-512", 2),
  ("v6e-256", 1),
)
HERE = pathlib.Path(__file__).parent
CACHE = HERE.parent / "runs" / "plans.jsonl"
HEAD = """# Plans on pods that are not here

Each experiment's own step (of PPO its drawing, too) with the settings that
`plan --topology --search` finds, compiled by `libtpu` on a CPU for each pod;
where "analysis" stands it is not compiled, only reckoned, and what is sent is
the least; "no" is of the eight settings tried at most. By
`python -m benchmarks.plans`, {when}; {versions}, the one that this
jax asks for, whose programs for v5e, v5p and v6e it can print.
The compiler is stopped when every buffer has its place, before machine code,
which takes 98% of its time and some tens of MiB more ({code} cells have it).

Bytes are a device's: all that is used, of what the compiler may use. Sent:
what a device receives in a step as compiled, over the least that its placement
needs (weights gathered for each pass, gradients scattered, activations summed,
tokens of experts gathered and scattered); of it over DCN, in MiB. MFU is the
roofline's, causal attention counted, from none of what is sent overlapping with
computing to all of it, products at the peak; the limit is what takes longest,
or the work that is done anew where computing does. Its flops are those of all
roles that a step computes: DPO's reference is a forward, PPO's critic a second
model (the reference is asked when PPO draws, and drawing is no step). No
measurement.

Why more is sent than the least: weights whose parts are fewer than the 8 rows
of a tile (GPT-2's 768 over 128 or 256 devices) are gathered as sums, twice the
bytes; gradients that fsdp cuts over a whole closed torus (64 of v5p, 256 of any)
are summed whole and then cut, as are those of tables and heads wherever copies
of the model are summed, too; a table whose rows the devices of a slice do not
divide crosses between slices in a few large parts.

| experiment | pod | fits | used of | sent (over the least) | DCN | MFU | limit | with |
|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def done() -> dict:
  """Cell -> what was found, the last line of each; compiled, if it was."""
  if not CACHE.exists():
    return {}
  rows = [json.loads(line) for line in CACHE.read_text().splitlines()]
  rows.sort(key=lambda r: r["compiled"])
  return {(r["experiment"], r["pod"], r["slices"]): r for r in rows}


def cell(name: str, pod: str, slices: int, compile_it: bool) -> dict:
  """Compiles one, with the first settings that fit; or by analysis alone."""
  import jax

  from llm_jax import searching
  from llm_jax.sharding import compiling, topologies

  experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
  out = {"experiment": name, "pod": pod, "slices": slices}
  out |= {"compiled": compile_it, "libtpu": compiling.version()}
  there = topologies.of(pod, slices)
  try:
    tries = 8 if compile_it else 1
    found = searching.best(experiment, there, compile_it, tries, until=1)
  except ValueError as e:
    return out | {"error": str(e)}
  except jax.errors.JaxRuntimeError as e:  # the compiler gave up
    why = " ".join(str(e).split())[:80]
    return cell(name, pod, slices, False) | {"why": why}
  if not found:
    return out | {"error": "no mesh cuts its batch"}
  one, plan = found[0]
  total = lambda sent, what: sum(getattr(x, what) for x in sent)
  least = total(plan.least, "ici") + total(plan.least, "dcn")
  return out | {
    "fits": plan.fits,
    "needs": plan.needs,
    "has": there.chip.memory,
    "ici": total(plan.sent or plan.least, "ici"),
    "dcn": total(plan.sent or plan.least, "dcn"),
    "least": least,
    "mfu": [plan.mfu(s, True) for s in (plan.times.most, plan.times.least)],
    "limit": plan.limit,
    "flags": one.flags,
    "warnings": len(plan.warnings),
    "donated": plan.donated,
    "read": bool(plan.sent),
    "seconds": getattr(plan.step, "seconds", 0.0),
  }


def table(found: dict) -> str:
  """The page."""
  import jax

  used = {r["libtpu"] for r in found.values() if r["compiled"]}
  versions = f"jax {jax.__version__}, libtpu {' and '.join(sorted(used))}"
  when = datetime.date.today().isoformat()
  code = sum(r.get("code", r["compiled"]) for r in found.values())
  lines = [HEAD.format(when=when, versions=versions, code=code)]
  for name in EXPERIMENTS:
    for pod, slices in PODS:
      where = f"{slices} x {pod}" if slices > 1 else pod
      row = found.get((name, pod, slices))
      lines.append(f"| {name} | {where} | {_said(row)} |\n")
  rows = [r for r in found.values() if "fits" in r and r["compiled"]]
  warned = sum(r["warnings"] for r in rows)
  kept = sum(not r["donated"] for r in rows if r["fits"])
  lines.append(
    f"\nInvoluntary full rematerialisation: {warned} warnings in"
    f" {len(rows)} cells. State not donated: {kept} of them.\n"
  )
  return "".join(lines)


def _said(row: dict | None) -> str:
  if row is None:
    return "not run | | | | | | "
  why = f"; not compiled: {row['why']}" if "why" in row else ""
  how = "" if row["compiled"] else f" (analysis{why})"
  if "error" in row:
    return f"no: {row['error']} | | | | | | "
  gib = lambda x: f"{x / 2**30:.1f}"
  used = f"{gib(row['needs'])} of {gib(row['has'])} GiB"
  if not row["fits"]:
    return f"no{how} | {used} | | | | | `{row['flags']}`"
  sent = row["ici"] + row["dcn"]
  over = f" ({sent / row['least']:.2f}x)" if row["least"] else ""
  if not row["compiled"]:
    over = ""
  elif not row.get("read", True):
    over = " (least; not read)"
  low, high = (f"{100 * x:.0f}" for x in row["mfu"])
  return (
    f"yes{how} | {used} | {gib(sent)} GiB{over} | {row['dcn'] / 2**20:,.0f} |"
    f" {low} to {high}% | {row['limit']} | `{row['flags']}`"
  )


def _keep(row: dict) -> None:
  with CACHE.open("a") as file:
    file.write(json.dumps(row) + "\n")


def _apart(name: str, pod: str, slices: int) -> None:
  """A cell in a process of its own, which ends before its compiler does."""
  code = (
    "from benchmarks import placing, plans; placing.begin();"
    f" plans._keep(plans.cell({name!r}, {pod!r}, {slices}, True)"
    " | {'code': False}); placing.leave()"
  )
  subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True)


def main() -> None:
  """Runs what is not done, and writes the page."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", default="", help="experiments, between commas")
  parser.add_argument("--pods", default="", help="pods, between commas")
  parser.add_argument(
    "--cells", type=int, default=1000, help="how many, at most"
  )
  parser.add_argument("--analyse", action="store_true", help="compile nothing")
  parser.add_argument("--machine_code", action="store_true", help="to the end")
  parser.add_argument("--into", default=str(HERE / "PLANS.md"))
  given = parser.parse_args()
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  found, left = done(), given.cells
  names = [n for n in given.only.split(",") if n] or EXPERIMENTS
  pods = [p for p in given.pods.split(",") if p]
  for name in names:
    for pod, slices in PODS:
      key = (name, pod, slices)
      there = importlib.util.find_spec(f"experiments.{name}")
      old = found.get(key)
      if old and (old["compiled"] or given.analyse):
        continue
      if not left or not there or (pods and pod not in pods):
        continue
      print(f"{name} on {slices} x {pod}", file=sys.stderr, flush=True)
      CACHE.parent.mkdir(exist_ok=True)
      if given.analyse or given.machine_code:
        _keep(cell(*key, not given.analyse))
      else:
        _apart(*key)
      found, left = done(), left - 1
  pathlib.Path(given.into).write_text(table(found))


if __name__ == "__main__":
  main()
