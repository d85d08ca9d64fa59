"""The verb `plan` for machines that are not here."""

from llm_jax import checks, searching, topology_plan, topology_report
from llm_jax.experiment import Experiment
from llm_jax.reporting import tables
from llm_jax.reporting.progress import say
from llm_jax.sharding import topologies
from llm_jax.sharding.topologies import Topology
from llm_jax.topology_plan import Plan


def plan(
  experiment: Experiment,
  topology: str | None,
  slices: int = 1,
  search: bool = False,
  compile_it: bool = True,
) -> int:
  """Prints what the run needs there; 3 where it does not fit.

  Args:
    experiment: what is planned.
    topology: name of the machines.
    slices: how many of them.
    search: also say which settings may be better there.
    compile_it: compile for them, too.

  Raises:
    ValueError: no machines are named, or they cannot be used so.
  """
  checks.settings(experiment)
  if topology is None:
    given = "nocompile"
    if slices != 1 or search:
      given = f"slices={slices}" if slices != 1 else "search"
    raise ValueError(f"--{given}: needs --topology, as in v5p-128")
  there = topologies.of(topology, slices)
  advice: list[str] = []
  if search:
    its, advice = _best(experiment, there, compile_it)
  else:
    its = topology_plan.make(experiment, there, compile_it)
  print(tables.columns(topology_report.rows(its)))
  print("\n".join([*topology_report.sent(its), *advice]))
  if not its.fits:
    say("does not fit")
  return 0 if its.fits else 3


def _best(
  experiment: Experiment, topology: Topology, compile_it: bool
) -> tuple[Plan, list[str]]:
  """The plan of the settings that may be best, and what to say of them."""
  compile_it = compile_it and bool(topology.compiler)
  found = searching.best(experiment, topology, compile_it)
  if not found:
    raise ValueError(
      f"--batch_size={experiment.batch_size}: no mesh of {topology.total}"
      f" devices cuts it, for --topology={topology.name}"
    )
  return found[0][1], searching.advice(found)
