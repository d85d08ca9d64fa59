"""The verbs: `python -m experiments.NAME VERB [--flag=value ...]`."""

import difflib
import os
import pathlib
import sys
import traceback

from absl import flags

from llm_jax import config, host
from llm_jax.experiment import Experiment
from llm_jax.training.hooks import NonFiniteError

FLAGS = flags.FLAGS
VERBS = {
  "train": "runs, or resumes what --workdir holds",
  "plan": "parameters, flops, bytes a device, expected time",
  "evaluate": "measures a checkpoint; a table and evaluation.json",
  "generate": "text from --prompt, --prompts_file or the terminal",
  "show": "resolved settings, and each parameter's shape and placement",
}


def run(experiment: Experiment) -> None:
  """The main program of an experiment file. Does not return."""
  sys.exit(main(experiment, sys.argv, _module_name()))


def main(experiment: Experiment, argv: list[str], name: str) -> int:
  """Runs one verb; returns the exit code of the contract."""
  _define(experiment)
  if {"--help", "-h", "help"} & set(argv[1:]) or len(argv) == 1:
    print(_manual(experiment, name))
    return 0 if len(argv) > 1 else 2
  try:
    verb, settings = _parse(experiment, argv)
    return _run_verb(verb, settings, name)
  except (ValueError, OSError) as e:
    if os.environ.get("LLM_JAX_TRACEBACK"):
      traceback.print_exc()
    line = " ".join(str(e).split()) or type(e).__name__
    print(f"error: {line}", file=sys.stderr)
    return 2
  except NonFiniteError as e:
    print(f"stopped: {e}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130


def _define(experiment: Experiment) -> None:
  config.define(experiment)
  flags.DEFINE_multi_string("prompt", [], "generate: continue this text")
  flags.DEFINE_string("prompts_file", None, "generate: a prompt a line")
  flags.DEFINE_integer("step", None, "evaluate, generate: checkpoint's step")
  flags.DEFINE_string("coordinator", None, "several processes: host:port")
  flags.DEFINE_integer("num_processes", None, "several processes: how many")
  flags.DEFINE_integer("process_id", None, "several processes: which is this")


def _parse(experiment: Experiment, argv: list[str]) -> tuple[str, Experiment]:
  try:
    rest = FLAGS(argv)[1:]
  except flags.UnrecognizedFlagError as e:
    near = difflib.get_close_matches(e.flagname, list(FLAGS), 1, 0.5)
    hint = f"; did you mean --{near[0]}?" if near else "; --help lists all"
    raise ValueError(f"unknown flag --{e.flagname}{hint}") from e
  except flags.Error as e:
    raise ValueError(str(e).replace("flag --", "--", 1)) from e
  if len(rest) != 1 or rest[0] not in VERBS:
    raise ValueError(
      f"got {' '.join(rest) or 'no verb'}; expected one of {', '.join(VERBS)}"
    )
  return rest[0], config.resolve(experiment)


def _run_verb(verb: str, experiment: Experiment, name: str) -> int:
  """Joins the processes, sets the compile cache, and runs the verb."""
  host.keep_memory()
  import jax  # noqa: PLC0415  (a bad flag is told before JAX is loaded)

  if FLAGS.coordinator:
    jax.distributed.initialize(
      FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
    )
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    compiled = host.cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(compiled))
  from llm_jax import verbs  # noqa: PLC0415

  folder = pathlib.Path(experiment.workdir or f"runs/{name}")
  if verb in ("evaluate", "generate"):
    # A run is used with the settings it was trained with, but for the flags
    # given now.
    experiment = config.resolve(verbs.settings(folder))
  if verb == "train":
    return verbs.train(experiment, folder, name)
  if verb == "plan":
    return verbs.plan(experiment)
  if verb == "evaluate":
    return verbs.evaluate(experiment, folder, FLAGS.step)
  if verb == "generate":
    return verbs.generate(
      experiment, folder, FLAGS.step, FLAGS.prompt, FLAGS.prompts_file
    )
  return verbs.show(experiment, name)


def _module_name() -> str:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  path = spec.name if spec else pathlib.Path(sys.argv[0]).stem
  return path.split(".")[-1]


def _manual(experiment: Experiment, name: str) -> str:
  verbs = "\n".join(f"  {v:<10} {text}" for v, text in VERBS.items())
  lines = []
  for leaf in config.leaves(experiment):
    lines.append(f"  --{leaf.name}={leaf.value!r}\n      {leaf.help}")
  for flag in (
    "prompt",
    "prompts_file",
    "step",
    "coordinator",
    "num_processes",
    "process_id",
  ):
    lines.append(f"  --{flag}\n      {FLAGS[flag].help}")
  about = (sys.modules["__main__"].__doc__ or "").strip()
  return (
    f"{about}\n\npython -m experiments.{name} VERB [--flag=value ...]\n\n"
    f"{verbs}\n\nSettings, with their values here:\n\n" + "\n".join(lines)
  )
