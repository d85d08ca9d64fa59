"""What the outputs of a run are called, and whether there are as many."""

from collections.abc import Sequence
import pathlib

import jax

from llm_jax import host, importing, storage
from llm_jax.data.exampled import Exampled
from llm_jax.data.examples import Examples
from llm_jax.data.marked import Marked
from llm_jax.data.passages import Passages
from llm_jax.data.preferences import Preferences
from llm_jax.data.windowed import Windowed
from llm_jax.experiment import Experiment, Marks
from llm_jax.reporting import files

FILE = "classes.json"  # of a run's folder: names, by number


def names(experiment: Experiment, folder: pathlib.Path) -> tuple[str, ...]:
  """Names of a run's outputs, by number; none where they have no names."""
  data = experiment.data
  if isinstance(data, Preferences):
    return data.classes if data.rows == "classes" else ()
  return _kept(folder) or _begun(experiment)


def keep(
  experiment: Experiment, tokens: Exampled | Marked, folder: pathlib.Path
) -> None:
  """Checks the names of classes that were found, and writes them down.

  Raises:
    ValueError: the model tells another number of classes apart, or begins with
      a head that has them in another order.
  """
  if isinstance(tokens, Windowed):  # whose outputs are start and end
    return
  classes(experiment, tokens.classes)
  host.check_same(" ".join(tokens.classes), "--data: the classes")
  begun = _begun(experiment)
  if begun != tokens.classes and sorted(begun) == sorted(tokens.classes):
    there, here = (", ".join(its) for its in (begun, tokens.classes))
    raise ValueError(
      f"--init_from={experiment.init_from}: its head tells {there} apart, and"
      f" the data have {here}; --data.classes={','.join(begun)} has its order"
    )
  if jax.process_index() == 0 and tokens.classes:
    files.write_json(folder / FILE, list(tokens.classes))


def _kept(folder: pathlib.Path) -> tuple[str, ...]:
  """What a run's folder says."""
  found = files.read_json(folder / FILE)
  whole = isinstance(found, list) and all(isinstance(n, str) for n in found)
  return tuple(found) if whole else ()


def _begun(experiment: Experiment) -> tuple[str, ...]:
  """Names of the outputs of the weights that a run begins with."""
  given = experiment.init_from
  if given is None:
    return ()
  if importing.is_folder(given):
    return importing.classes(given)
  return _kept(storage.path(given, "init_from"))


def examples(experiment: Experiment, data: Examples) -> None:
  """ValueError where a model cannot tell what there is to tell of texts."""
  if data.classes or data.rows == "numbers":
    classes(experiment, data.classes)
  elif not experiment.model.outputs:
    raise ValueError(
      "--model.outputs=0: as many as there are classes; --data.classes names"
      " them, or they are found in the training split"
    )
  sees = getattr(experiment.model, "sees", "before")
  wanted = "first" if sees == "all" else "last"
  if data.read_at != wanted:
    kind = "an encoder" if sees == "all" else "what sees no later token"
    raise ValueError(
      f"--data.read_at={data.read_at}: {kind} (--model.sees={sees}) tells of a"
      f" text at its {wanted} token; {wanted}"
    )
  if experiment.samples.every:
    raise ValueError(
      f"--samples.every={experiment.samples.every}: what tells"
      f" {data.rows} of texts goes on with no text; 0 = no samples"
    )


def marks(experiment: Experiment, data: Marks) -> None:
  """ValueError where a model cannot tell what there is at positions."""
  outputs = experiment.model.outputs
  if isinstance(data, Passages):
    if outputs != 2:
      raise ValueError(
        f"--model.outputs={outputs}: spans are told by 2, where they start and"
        " where they end"
      )
    sees = getattr(experiment.model, "sees", "before")
    wanted = "first" if sees == "all" else "last"
    if data.none_at != wanted:
      raise ValueError(
        f"--data.none_at={data.none_at}: with --model.sees={sees} no answer is"
        f" told at the {wanted} token; {wanted}"
      )
  elif data.classes:
    classes(experiment, data.classes)
  elif not outputs:
    raise ValueError(
      "--model.outputs=0: as many as there are tags; --data.classes names"
      " them, or they are found in the training split"
    )
  if experiment.samples.every:
    raise ValueError(
      f"--samples.every={experiment.samples.every}: what tells {data.rows} of"
      " texts goes on with no text; 0 = no samples"
    )


def classes(experiment: Experiment, names: Sequence[str]) -> None:
  """ValueError where settings are not of as many classes as there are.

  Where there are none a number is told.
  """
  objective, outputs = experiment.objective, experiment.model.outputs
  if not names:
    if outputs != 1:
      raise ValueError(
        f"--model.outputs={outputs}: a number (--data.rows=numbers) is told by"
        " 1"
      )
    return
  whose = "" if isinstance(experiment.data, Examples | Marks) else "sources.N."
  count = len(names)
  most = ", ".join(names[:12])
  named = f"{most} and {count - 12} more" if count > 12 else most
  if outputs != count:
    raise ValueError(
      f"--model.outputs={outputs}: there are {count} classes ({named}), as"
      f" --data.{whose}classes names them, or the data"
    )
  positive = getattr(objective, "positive", 0)
  if positive >= count:
    raise ValueError(
      f"--objective.positive={positive}: there are {count} classes"
      f" ({named}), numbered from 0"
    )
  weights = getattr(objective, "weights", ())
  if weights and len(weights) != count:
    raise ValueError(
      f"--objective.weights={','.join(map(str, weights))}: there are"
      f" {count} classes ({named})"
    )
