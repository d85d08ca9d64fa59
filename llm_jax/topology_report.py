"""A plan for machines that are not here, as lines for people."""

from collections.abc import Iterable
from typing import NamedTuple

from llm_jax.planning import EXPECTED_MFU, human
from llm_jax.sharding import compiling
from llm_jax.sharding.compiling import Compiled, DoesNotFit
from llm_jax.topology_plan import Plan


def rows(plan: Plan) -> list[tuple[str, str]]:
  """(name, value) of all that is one number, or a few."""
  t, chip = plan.topology, plan.topology.chip
  mesh = " x ".join(f"{k} {v}" for k, v in plan.mesh.items() if v > 1)
  slices = f"{t.slices} slices of " if t.slices > 1 else ""
  torus = f", {t.shape}" if t.shape else ""
  out = [
    (
      "topology",
      f"{slices}{t.name}: {t.total} x {chip.kind}{torus}, {t.hosts} hosts",
    ),
    ("mesh", mesh or "one device"),
    ("fits", fits(plan)),
  ]
  for name, its in (("step", plan.step), ("drawing", plan.drawing)):
    if isinstance(its, Compiled):
      out += _memory(plan, name, its)
  if plan.step is None:
    out.append(("bytes a device: state", human(plan.state)))
    out.append(("bytes a device: all, by analysis", human(plan.by_analysis)))
  return out + _speed(plan)


def fits(plan: Plan) -> str:
  """Whether it does, and by how much."""
  has, needs = plan.topology.chip.memory, plan.needs
  parts = [p for p in (plan.step, plan.drawing) if isinstance(p, DoesNotFit)]
  if parts and not parts[0].needs:
    return f"no: {parts[0]}"
  how = "by analysis" if plan.step is None else "as compiled"
  if not plan.fits:
    return f"no, {how}: needs {human(needs)} of {human(has)} a device"
  return (
    f"yes, {how}: {human(needs)} of {human(has)} a device,"
    f" {human(has - needs)} left"
  )


def _memory(plan: Plan, name: str, its: Compiled) -> list[tuple[str, str]]:
  each = f"bytes a device, {name}: {{}}".format
  out = [
    (
      f"{name} compiled",
      f"in {its.seconds:.0f} s, by libtpu {compiling.version()}",
    )
  ]
  if name == "step":
    new = f"{human(its.aliased)} of {human(plan.state)}"
    out += [
      (each("state"), human(plan.state)),
      (each("batch"), human(max(its.arguments - plan.state, 0))),
      (
        "state donated",
        f"{'yes' if plan.donated else 'NO'}: {new}"
        " take the place of what they replace",
      ),
    ]
  else:
    out.append((each("arguments"), human(its.arguments)))
  return [
    *out,
    (each("temporaries"), human(its.temporaries)),
    (each("new outputs"), human(its.outputs - its.aliased)),
    (each("program"), human(its.code)),
    (each("all"), human(its.total)),
  ]


def _speed(plan: Plan) -> list[tuple[str, str]]:
  t, f = plan.times, plan.flops
  seconds = lambda x: f"{x * 1e3:,.1f} ms"
  chips = plan.topology.total
  peak = plan.topology.chip.flops
  share = lambda s: f"{plan.mfu(s, causal=True):.1%} ({plan.mfu(s):.1%} full)"
  rate = lambda s: f"{plan.tokens / s / chips:,.0f} tokens/s a device"
  work = plan.tokens * f.full * plan.trainings * plan.experiment.steps
  warned = len(plan.warnings)
  remat = f"{warned} warnings: {plan.warnings[0]}" if warned else "no warning"
  return [
    *(
      [("involuntary full rematerialisation", remat)]
      if isinstance(plan.step, Compiled)
      else []
    ),
    ("flops a token, full attention", f"{f.full:,.0f}"),
    ("flops a token, causal attention", f"{f.causal:,.0f}"),
    ("tokens a step", f"{plan.tokens:,}"),
    ("a step's computing", f"{seconds(t.compute)} at {peak / 1e12:,.0f} TF/s"),
    ("a step's memory traffic", seconds(t.hbm)),
    (
      "a step's ICI" if plan.topology.shape else "a step's NVLink",
      seconds(t.ici),
    ),
    ("a step's DCN", seconds(t.dcn)),
    ("limited by", plan.limit),
    ("a step, if all overlaps", f"{seconds(t.least)}, {rate(t.least)}"),
    ("a step, if nothing does", f"{seconds(t.most)}, {rate(t.most)}"),
    ("roofline MFU, if all overlaps", share(t.least)),
    ("roofline MFU, if nothing does", share(t.most)),
    (
      f"the run, at {EXPECTED_MFU:.0%} MFU",
      f"{work / (EXPECTED_MFU * peak * chips) / 3600:,.1f} h",
    ),
  ]


class _Line(NamedTuple):
  name: str
  runs: int
  ici: float
  dcn: float


def totals(found: Iterable) -> list[_Line]:
  """Bytes by kind and axes, most first."""
  out: dict[str, list[float]] = {}
  for its in found:
    name = f"{its.kind} over {' x '.join(its.axes) or 'nothing'}"
    total = out.setdefault(name, [0, 0, 0])
    total[0] += getattr(its, "runs", 1)
    total[1] += its.ici
    total[2] += its.dcn
  lines = [_Line(n, int(c), i, d) for n, (c, i, d) in out.items()]
  return sorted(lines, key=lambda x: -x.ici - x.dcn)


def sent(plan: Plan) -> list[str]:
  """What is received by a device in a step, beside the least there can be."""
  out = []
  if isinstance(plan.step, Compiled) and not plan.step.text:
    out = ["", "what is sent as compiled cannot be read by this jaxlib"]
  for title, found in (
    ("received by a device in a step, as compiled", plan.sent),
    ("the least that this placement needs", plan.least),
  ):
    lines = totals(found)
    if not lines:
      continue
    width = max(len(line.name) for line in lines)
    out += ["", title]
    for line in lines:
      times = f"{line.runs:>6} x" if found is plan.sent else ""
      out.append(
        f"  {line.name:<{width}} {times}  ICI {human(line.ici):>10}"
        f"  DCN {human(line.dcn):>10}"
      )
    out.append(
      f"  {'all':<{width}} {' ' * len(times)}"
      f"  ICI {human(sum(x.ici for x in lines)):>10}"
      f"  DCN {human(sum(x.dcn for x in lines)):>10}"
    )
  return out
