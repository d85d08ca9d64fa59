"""What each verb of the command line does, once its flags are read."""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import pathlib
import signal
import sys
from typing import Any

import jax

from llm_jax import (
  adapting,
  asking,
  build,
  checks,
  claim,
  config,
  cuts,
  details,
  importing,
  joining,
  planning,
  state_plan,
  storage,
  trees,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.data.examples import Examples
from llm_jax.experiment import Experiment
from llm_jax.peft.method import Full
from llm_jax.reporting import report, tables
from llm_jax.reporting.progress import heard_by, progress, say, waiting
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding import switches
from llm_jax.training import loop

settings = claim.settings
merge = adapting.merge


class _Stop:
  """SIGTERM: at once before training, after the step while training.

  Several processes stop after the same step, whichever of them was told. JAX
  hears the signal and passes it on; a handler here would keep it from JAX.
  """

  def __init__(self) -> None:
    self.asked, self.training = False, False
    self._alone = jax.process_count() == 1
    if self._alone:
      signal.signal(signal.SIGTERM, self._handle)

  def _handle(self, *_: Any) -> None:
    self.asked = True
    if not self.training:
      sys.exit(143)

  def __call__(self, done: int) -> bool:
    if not self._alone:
      from jax.experimental import multihost_utils  # noqa: PLC0415

      self.asked = multihost_utils.reached_preemption_sync_point(done)
    return self.asked


def train(experiment: Experiment, folder: pathlib.Path, name: str) -> int:
  """Trains, or goes on training; 143 where it was told to stop."""
  stop = _Stop()
  checks.settings(experiment)
  switches.check(experiment.compiler)
  mesh = mesh_lib.make(experiment.mesh)
  cuts.share(experiment, mesh)
  if experiment.peft != Full() or experiment.frozen != "same":
    # What is wrong with these is told before data are prepared.
    model = model_lib.of_shape(model_lib.expected_shape(experiment))
    state_plan.make(experiment, model, mesh)
  with contextlib.ExitStack() as held, jax.set_mesh(mesh):
    with claim.claim(folder, name, experiment, held):
      watch = build.watch(experiment, folder)
      held.callback(watch.close)
      with contextlib.ExitStack() as failed, heard_by(watch.moves):
        failed.callback(watch.close)  # before the folder is left as it was
        run = build.run(experiment, folder, mesh)
        failed.pop_all()
      claim.note(
        folder,
        parameters=trees.size(run.state.roles["policy"]),
        trained=trees.size(run.state.trainable["policy"]),
        notes=run.notes,
      )
    stop.training = True
    try:
      state = loop.train(
        run.state,
        run.step,
        run.source,
        run.hooks,
        experiment.steps,
        stop,
        watch.beat,
      )
      run.save.act(int(state.step), state)
    except Exception as e:
      if joining.is_lost(e) and (who := watch.lost()):
        print(f"no sign of life from {who}", file=sys.stderr)
      raise
    finally:
      watch.close()
      for hook in run.hooks:
        hook.close(*sys.exc_info())
      run.store.wait()
      if jax.process_index() == 0:
        say(f"report: {report.write(folder)}")
    if not stop.asked:
      stop.training = False  # nothing of it has to be saved
      run.normalise(state)
  say(f"{'stopped' if stop.asked else 'done'} after step {int(state.step)}")
  return 143 if stop.asked else 0


@contextlib.contextmanager
def begun(
  experiment: Experiment, folder: pathlib.Path, name: str
) -> Iterator[None]:
  """Of a run of which nothing is trained yet, the folder.

  It is made where there is none; if what follows fails, there is none again.
  """
  with contextlib.ExitStack() as held:
    if (folder / "experiment.json").exists():
      yield
      return
    with claim.claim(folder, name, experiment, held):
      yield


def plan(experiment: Experiment) -> int:
  """Prints what the run costs on this machine; 3 where it does not fit."""
  checks.settings(experiment)
  mesh = mesh_lib.make(experiment.mesh)
  cuts.share(experiment, mesh)
  model = model_lib.of_shape(model_lib.expected_shape(experiment))
  found = planning.describe(
    experiment,
    model.shape,
    state_plan.make(
      experiment, model, mesh, reference=experiment.asks_each_step
    ).abstract,
    dict(mesh.shape),
    jax.devices()[0].device_kind,
  )
  print(tables.columns(found["rows"]))
  if found["limit"] and found["bytes"] > found["limit"]:
    say("does not fit")
    return 3
  return 0


def show(experiment: Experiment, name: str) -> int:
  """Prints every setting, details of drawing, and every parameter."""
  print(f"# {name}")
  for leaf in config.leaves(experiment):
    print(f"--{leaf.name}={leaf.value!r}")
  if experiment.draws:
    print("\n# details of PPO, beside the recipe for TL;DR")
    print(tables.columns(list(details.table(experiment))))
  model = model_lib.of_shape(model_lib.expected_shape(experiment))
  mesh = mesh_lib.make(experiment.mesh)
  rows = planning.table(state_plan.make(experiment, model, mesh).abstract)
  print()
  print(tables.columns(rows))
  return 0


def generate(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  prompts: Sequence[str],
  prompts_file: str | None,
  names: Sequence[str] = (),
) -> int:
  """Continues prompts; without any, asks for them at the terminal.

  With names of adapters, each prompt is continued with each of them.
  """
  prompts = [*prompts, *lines(prompts_file)]
  if not prompts and (jax.process_count() > 1 or not sys.stdin.isatty()):
    raise ValueError("nothing to continue: give --prompt or --prompts_file")
  if getattr(experiment.model, "sees", "before") == "all":
    raise ValueError(
      "generate: an encoder (--model.sees=all) goes on with no text"
    )
  if isinstance(experiment.data, Examples):
    raise ValueError(
      f"generate: a run that tells {experiment.data.rows} of texts"
      " (--data.rows) goes on with no text; evaluate says what it tells"
    )
  if not importing.untrained(experiment, folder):
    checks.checkpoint(folder, step)
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    tokenizer = importing.tokenizer_of(experiment, folder)
    model = model_lib.make(experiment, tokenizer)
    plan = state_plan.make(experiment, model, mesh)
    asked = adapting.asked(experiment, plan, names) or [experiment]
    encoders = [asking.encoder(its.data, tokenizer) for its in asked]

    def check(prompts: Sequence[str]) -> None:
      for its, encode in zip(asked, encoders, strict=True):
        checks.prompts(its, model.shape, encode, prompts)

    check(prompts)
    with waiting("loading the model"):
      if names:
        variables, adapters = adapting.load(
          experiment, plan, folder, step, mesh, model, tokenizer, names
        )
      else:
        _, roles = weights.load(experiment, plan, mesh, folder, step)
        variables, adapters = roles["policy"], []
    by_row = len(names) > 1 and any(adapters)
    if not by_row and any(adapters):
      variables = variables | {"adapters": adapters[0]}
    generator = asking.generator(asked, model, tokenizer, by_row)

    def tell(text: str, end: str = "\n") -> None:
      if jax.process_index() == 0:
        print(text, end=end, flush=True)

    def speak(prompts: Sequence[str]) -> None:
      used = range(len(asked))
      prompts = [p for p in prompts for _ in used]
      which = [*used] * (len(prompts) // len(used))
      mine = variables
      if by_row:
        mine = variables | {"adapters": adapting.rows(adapters, which)}
      stream = generator.stream(
        mine,
        prompts,
        max_new_tokens=experiment.samples.max_new_tokens,
        sampler=experiment.samples.sampler,
        seed=experiment.seed,
        stop=experiment.samples.stop,
        models=which,
      )
      with waiting("compiling"):
        stream = itertools.chain([next(stream)], stream)
      if len(prompts) == 1:
        tell(asking.shown(asked[0].data, prompts[0]), end="")
        for (new,) in stream:
          tell(new, end="")
        tell("")
        return
      texts = [
        asking.shown(asked[i].data, p)
        for p, i in zip(prompts, which, strict=True)
      ]
      for news in progress(stream, label="generating"):
        texts = [a + b for a, b in zip(texts, news, strict=True)]
      for i, text in enumerate(texts):
        name = f" {names[which[i]]}" if names else ""
        tell(f"--- {i}{name}\n{text}")

    if prompts:
      speak(prompts)
      return 0
    while prompt := _ask():
      try:
        check([prompt])
        speak([prompt])
      except ValueError as e:  # too long: the next one need not be
        say(f"error: {e}")
  return 0


def lines(prompts_file: str | None) -> list[str]:
  """A prompt a line; ValueError where the file holds none, or an empty one."""
  if prompts_file is None:
    return []
  given = f"--prompts_file={prompts_file}"
  try:
    path = storage.path(prompts_file, "prompts_file")
    text = path.read_text(encoding="utf-8")
  except OSError as e:
    raise ValueError(f"{given}: cannot be read ({storage.reason(e)})") from e
  except UnicodeDecodeError as e:
    raise ValueError(f"{given}: not UTF-8 at byte {e.start}") from e
  if not text:
    raise ValueError(f"{given}: the file is empty")
  found = text.removesuffix("\n").split("\n")
  for i, line in enumerate(found, 1):
    if not line.strip():
      raise ValueError(f"{given}: line {i} is empty")
  return found


def _ask() -> str:
  """A line of the terminal; nothing at its end."""
  try:
    return input("> ")
  except EOFError:
    print()
    return ""
