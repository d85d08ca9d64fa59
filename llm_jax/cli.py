"""The verbs: `python -m experiments.NAME VERB [--flag=value ...]`."""

import dataclasses
import difflib
import itertools
import os
import pathlib
import sys
import traceback

from absl import flags

from llm_jax import command_flags, config, host, rollcall, storage
from llm_jax.command_flags import OF_ONE, READ_BY, VERBS
from llm_jax.experiment import Experiment
from llm_jax.judges.function import Function
from llm_jax.judges.reward import RewardModel
from llm_jax.training.hooks import DivergedError, NonFiniteError

# Settings, by how they begin, that only some verbs read.
_READ_BY = {
  ("label.",): ("label",),
  ("judge.", "judges."): ("evaluate", "label"),
}
# Verbs that a folder of the ecosystem can be given to as if it were a run.
_OF_FOLDERS = ("evaluate", "export", "generate")
# Packages that a machine may lack, and what does without them.
WITHOUT = {
  "tensorboardX": "--log.tensorboard=false",
  "tensorflow_datasets": "an experiment with data=Arrays(...)",
  "grain": "an experiment with data=Arrays(...)",
}


def run(experiment: Experiment) -> None:
  """The main program of an experiment file. Does not return."""
  flags.FLAGS.mark_as_parsed()  # libraries may read their own; ours are apart
  try:
    code = main(experiment, sys.argv, _module_name())
  except Exception:  # told as Python would, which then waits for the others
    traceback.print_exc()
    code = 1
  if "jax" not in sys.modules:
    sys.exit(code)
  from llm_jax import joining  # noqa: PLC0415  (JAX is loaded)

  joining.leave(code)


def main(experiment: Experiment, argv: list[str], name: str) -> int:
  """Runs one verb; returns the exit code of the contract."""
  try:
    experiment = _with_function(experiment, argv)
    given = _define(experiment)
    if {"--help", "-h"} & set(argv[1:]) or argv[1:2] == ["help"]:
      print(_manual(experiment, given, name), flush=True)
      return 0
    verb = _parse(given, argv, experiment.draws)
    resolved = config.resolve(experiment, given)
    code = _run_verb(verb, resolved, given, name)
    sys.stdout.flush()
    return code
  except BrokenPipeError:  # `show | head` has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (ValueError, OSError) as e:
    if os.environ.get("LLM_JAX_TRACEBACK"):
      traceback.print_exc()
    line = " ".join(str(e).split()) or type(e).__name__
    if _is_of_runtime(e):
      return _told_lost(e)
    print(f"error: {line}", file=sys.stderr)
    return 2
  except RuntimeError as e:
    if not _is_of_runtime(e):
      raise
    return _told_lost(e)
  except ModuleNotFoundError as e:
    if e.name not in WITHOUT:
      raise
    line = f"{e.name} is not installed; {WITHOUT[e.name]} does without"
    print(f"error: {line}", file=sys.stderr)
    return 2
  except (DivergedError, NonFiniteError) as e:
    print(f"stopped: {e}", file=sys.stderr)
    return 1
  except Exception as e:
    if not storage.is_of_library(e):
      raise
    print(f"error: {storage.reason(e)}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    again = "; the same command goes on from the last checkpoint"
    said = f"interrupted{again if 'train' in argv[1:2] else ''}"
    print(said, file=sys.stderr)
    return 130


def _is_of_runtime(error: Exception) -> bool:
  if "jax" not in sys.modules:
    return False
  from llm_jax import joining  # noqa: PLC0415  (JAX is loaded)

  return joining.is_of_runtime(error)


def _told_lost(error: Exception) -> int:
  """1, where another process failed and the runtime told this one."""
  from llm_jax import joining  # noqa: PLC0415  (JAX is loaded)

  if not joining.is_lost(error):
    raise error
  line = str(error).strip().splitlines()[0]
  print(
    f"stopped: another process of the job is lost ({line}); the same command"
    " goes on from the last checkpoint",
    file=sys.stderr,
  )
  return 1


def _with_function(experiment: Experiment, argv: list[str]) -> Experiment:
  """Judged by the function that --judge names, whose settings are flags."""
  for name, value in itertools.pairwise(
    part for arg in argv for part in arg.split("=", 1)
  ):
    if name in ("--judge", "-judge") and _is_function(value):
      experiment = dataclasses.replace(experiment, judge=Function(path=value))
  return experiment


def _is_function(judge: str) -> bool:
  """Whether it is FILE.py:NAME; else it is a run."""
  file, _, name = judge.rpartition(":")
  return file.endswith(".py") and bool(name)


def _define(experiment: Experiment) -> flags.FlagValues:
  given = flags.FlagValues()
  config.define(experiment, given)
  command_flags.define(given)
  return given


def _parse(given: flags.FlagValues, argv: list[str], draws: bool) -> str:
  """Reads the flags into `given`; returns the verb.

  Args:
    given: filled here.
    argv: the command line.
    draws: whether training asks the judge, too.
  """
  try:
    rest = given(argv)[1:]
  except flags.UnrecognizedFlagError as e:
    raise ValueError(
      f"unknown flag --{e.flagname}{_near(e.flagname, given)}"
    ) from e
  except flags.Error as e:
    said = str(e).replace("flag --", "--", 1)
    if ": already defined as " in said:
      said = f"{said.split('=')[0]}: given twice; give it once"
    if "invalid literal for int()" in said:
      said = f"{said.split(':')[0]}: must be a whole number"
    if said.startswith("Missing value"):
      said = f"{said.split()[-1]}: no value given"
    raise ValueError(said) from e
  verbs = f"expected one of {', '.join(VERBS)}; --help lists every setting"
  if not rest:
    raise ValueError(f"no verb; {verbs}")
  if rest[0] not in VERBS:
    near = difflib.get_close_matches(rest[0], VERBS, 1, 0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown verb {rest[0]!r}; {hint}{verbs}")
  if rest[1:]:
    name = rest[1].split("=")[0]
    hint = f"; did you mean --{rest[1]}?" if name in given else ""
    raise ValueError(
      f"unexpected {rest[1]!r} after {rest[0]}; settings are given as"
      f" --flag=value{hint}"
    )
  for name, verbs_that_read in READ_BY.items():
    if name == "judge" and draws:
      verbs_that_read = ("train", *verbs_that_read)
    if given[name].present and rest[0] not in verbs_that_read:
      raise ValueError(
        f"--{name}: read by {', '.join(verbs_that_read)} only, not by {rest[0]}"
      )
  for name in given:
    if rest[0] == "compare" and given[name].present and name not in READ_BY:
      raise ValueError(f"--{name}: not read by compare, which runs nothing")
    for parts, those in _READ_BY.items():
      readers = ("train", *those) if draws and "evaluate" in those else those
      is_theirs = name.startswith(parts) and given[name].present
      if is_theirs and rest[0] not in (*readers, "show"):
        listed = ", ".join(readers)
        raise ValueError(f"--{name}: read by {listed} only, not by {rest[0]}")
  return rest[0]


def _near(name: str, given: flags.FlagValues) -> str:
  """The flag that was meant, maybe."""
  head, _, last = name.rpartition(".")
  if last == "paths" and any(f.startswith(f"{head}.") for f in given):
    return f"; --{head} reads no files; sources=(...) of a copy may have one"
  # First by the last part alone, --peak for --optimizer.peak, those with few
  # parts before; then among settings of the same part; then among all.
  same = [f for f in given if f.rpartition(".")[2] == last]
  near = sorted(same, key=lambda f: f.count("."))[:3]
  if not near and head:
    same = [f for f in given if f.rpartition(".")[0] == head]
    near = [f for f in same if f.startswith(name)][:3]
    near = near or difflib.get_close_matches(name, same, 1, 0.5)
  near = near or difflib.get_close_matches(name, list(given), 1, 0.65)
  if not near:
    return "; --help lists all"
  return f"; did you mean {' or '.join(f'--{n}' for n in near)}?"


def _run_verb(
  verb: str, experiment: Experiment, given: flags.FlagValues, name: str
) -> int:
  """Joins the processes, sets the compile cache, and runs the verb."""
  _check_processes(given)
  if given.check is not None:
    from llm_jax import checking  # noqa: PLC0415  (it loads JAX)

    checking.check(experiment, verb, given.check)
    if verb == "train":
      _check_tokenizer(experiment, given)
      _with_judge(experiment, given, verb)
    return 0
  host.keep_memory()
  import jax  # noqa: PLC0415  (a bad flag is told before JAX is loaded)

  from llm_jax import joining  # noqa: PLC0415  (likewise)

  if given.distributed or given.coordinator:
    # It takes SIGTERM; only training does something with it.
    jax.config.update("jax_enable_preemption_service", verb == "train")
    place = None
    if given.coordinator:
      place = rollcall.Place(
        given.coordinator, given.num_processes, given.process_id
      )
    mine = {
      name: given[name].value
      for name in READ_BY
      if name not in OF_ONE and given[name].present
    }
    joining.join(
      place, joining.about(experiment, verb, mine), given.join_timeout
    )
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    compiled = host.cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(compiled))
  from llm_jax import (  # noqa: PLC0415
    beside,
    evaluating,
    exporting,
    importing,
    importing_adapters,
    labelling,
    verbs,
  )

  if verb != "compare":
    joining.start_devices()
  folder = storage.path(experiment.workdir or f"runs/{name}", "workdir")
  step = given.checkpoint_step
  asked = experiment.data  # where `label` finds its prompts
  experiment = importing_adapters.resolved(experiment)
  begins = importing.is_folder(experiment.init_from)
  there = (folder / "experiment.json").exists()
  if begins and verb in _OF_FOLDERS and not there:
    # A folder of the ecosystem stands for a run that has not begun.
    experiment = _of_folder(experiment, given)
  elif verb in ("evaluate", "export", "generate", "label", "merge"):
    # A run is used with the settings it was trained with, but for the flags
    # given now, and for what it is measured and judged by, which is no part
    # of it.
    trained = dataclasses.replace(
      verbs.settings(folder),
      evaluations=experiment.evaluations,
      judge=experiment.judge,
      judges=experiment.judges,
      label=experiment.label,
    )
    experiment = _resolve_run(trained, given, folder, verb)
    experiment = _with_judge(experiment, given, verb)
  if begins and verb in ("train", "plan", "show"):
    experiment = _of_folder(experiment, given)
  if verb == "train":
    _check_tokenizer(experiment, given)
    return verbs.train(_with_judge(experiment, given, verb), folder, name)
  if verb == "plan":
    pod = given.topology, given.slices, given.search, given.compile
    if pod == (None, 1, False, True):
      return verbs.plan(experiment)
    from llm_jax import pods  # noqa: PLC0415  (other verbs need none of it)

    return pods.plan(experiment, *pod)
  if verb == "evaluate":
    with verbs.begun(experiment, folder, name):
      return evaluating.evaluate(
        experiment, folder, step, given.against, given.kl_from, given.only
      )
  if verb == "generate":
    return verbs.generate(
      experiment,
      folder,
      step,
      given.prompt,
      given.prompts_file,
      given.adapter,
    )
  if verb == "label":
    if not given.into:
      raise ValueError("--into: no .jsonl given to write the labels to")
    return labelling.label(
      experiment,
      asked,
      folder,
      step,
      given.prompts_file,
      given.into,
      given.best,
    )
  if verb == "compare":
    into = given.into or "runs/compared"
    return beside.compare(given.runs, storage.path(into, "into"))
  if verb == "merge":
    if not given.into:
      raise ValueError("--into: no folder given to write the merged run to")
    into = storage.path(given.into, "into")
    return verbs.merge(experiment, folder, step, into, name)
  if verb == "export":
    wanted = exporting.wanted({n: given[n].value for n in exporting.FLAGS})
    return exporting.export(experiment, folder, step, name, wanted)
  return verbs.show(experiment, name)


def _of_folder(experiment: Experiment, given: flags.FlagValues) -> Experiment:
  """The experiment with the model of the folder that it begins from."""
  from llm_jax import importing  # noqa: PLC0415  (JAX is loaded)

  names = [n for n in given if n.startswith("model.") and given[n].present]
  fixed = [n.removeprefix("model.") for n in names]
  fixed = [name for name in fixed if name not in importing.OWN]
  return importing.resolved(experiment, fixed)


def _check_processes(given: flags.FlagValues) -> None:
  """ValueError where the flags of several processes do not fit together."""
  if given.join_timeout < 1:
    raise ValueError(f"--join_timeout={given.join_timeout}: must be 1 or more")
  names = ("coordinator", "num_processes", "process_id")
  missing = [f"--{n}" for n in names if given[n].value is None]
  if len(missing) == len(names):
    return
  if given.distributed:
    raise ValueError("--distributed: finds what --coordinator says; give one")
  if missing:
    raise ValueError(f"{' and '.join(missing)}: must be given with the others")
  if not 0 <= given.process_id < given.num_processes:
    raise ValueError(
      f"--process_id={given.process_id}: must be from 0 to"
      f" --num_processes={given.num_processes} - 1"
    )


def _check_tokenizer(experiment: Experiment, given: flags.FlagValues) -> None:
  """ValueError for a flag of a tokenizer where a base brings its own."""
  if not experiment.init_from:
    return
  for name in given:
    if name.startswith("tokenizer.") and given[name].present:
      raise ValueError(
        f"--{name}: the run in --init_from={experiment.init_from} has its"
        " tokenizer"
      )


def _resolve_run(
  trained: Experiment, given: flags.FlagValues, folder: pathlib.Path, verb: str
) -> Experiment:
  """The settings of a run with the flags given now; none may go unread."""
  known = {leaf.name for leaf in config.leaves(trained)}
  for name in given:
    if not given[name].present or name in READ_BY:
      continue
    if verb == "label" and name.startswith("data."):
      continue  # of the prompts, not of how the run reads them
    if name not in known:
      raise ValueError(f"--{name}: the run in {folder} has no such setting")
    if name.startswith("tokenizer."):
      raise ValueError(f"--{name}: the run in {folder} has its tokenizer")
  resolved = config.resolve(trained, given)
  if verb == "label":
    return dataclasses.replace(resolved, data=trained.data)
  return resolved


def _with_judge(
  experiment: Experiment, given: flags.FlagValues, verb: str
) -> Experiment:
  """The judge that --judge names; ValueError for a flag that nobody reads."""
  names = [n for n in given if n.startswith(("judge.", "judges."))]
  of_one = [n for n in names if n.startswith("judge.") and given[n].present]
  if given.judge is not None and not _is_function(given.judge):
    if of_one:
      raise ValueError(f"--{of_one[0]}: is not read with --judge={given.judge}")
    judge = RewardModel(run=given.judge)
    experiment = dataclasses.replace(experiment, judge=judge)
  asked = [n for n in ("judge", *names) if given[n].present]
  if asked and verb == "evaluate" and not experiment.validation.best_of:
    raise ValueError(
      f"--{asked[0]}: `evaluate` has answers judged with"
      " --validation.best_of=16, say"
    )
  return experiment


def _module_name() -> str:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  path = spec.name if spec else pathlib.Path(sys.argv[0]).stem
  return path.split(".")[-1]


def _manual(experiment: Experiment, given: flags.FlagValues, name: str) -> str:
  """What --help prints."""
  verbs = "\n".join(f"  {v:<10} {text}" for v, text in VERBS.items())
  lines = []
  for leaf in config.leaves(experiment):
    may_be = config.allowed(leaf)
    lines.append(
      f"  --{leaf.name}={leaf.value!r}\n      {leaf.help} ({may_be})"
    )
  for flag, readers in READ_BY.items():
    who = "every verb" if len(readers) == len(VERBS) else ", ".join(readers)
    what = given[flag].help.split(";\n")[0]  # absl adds a line to some
    lines.append(f"  --{flag}\n      {who}: {what}")
  about = (sys.modules["__main__"].__doc__ or "").strip()
  return (
    f"{about}\n\npython -m experiments.{name} VERB [--flag=value ...]\n\n"
    f"{verbs}\n\nSettings, with their values here:\n\n" + "\n".join(lines)
  )
