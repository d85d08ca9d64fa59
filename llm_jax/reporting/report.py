"""A run folder as one page that needs no network."""

import functools
import pathlib
import re
import shlex
from typing import Any

from llm_jax.reporting import (
  answers,
  comparisons,
  files,
  pictures,
  preferences,
  results,
  settings,
)
from llm_jax.reporting.numerals import count
from llm_jax.reporting.progress import waiting

_STEPS = 6  # steps whose samples are shown, at most
_PROMPTS = 8  # samples of one step that are shown, at most

# What HTML cannot hold: controls, and halves of surrogate pairs.
_CONTROLS = re.compile(
  "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes report.html of what the run folder holds, and returns its path.

  A file that is missing leaves its part out; one that cannot be read is named
  on the page. OSError where the page cannot be written.
  """
  path = folder / "report.html"
  with waiting("report"):
    files.write_text(path, page("report.html.jinja", _read(folder)))
  return path


def page(template: str, told: dict[str, Any]) -> str:
  """A template of this folder, filled in; nothing in it that HTML cannot hold.

  Args:
    template: name of its file.
    told: all that it names.
  """
  return _CONTROLS.sub(
    "\ufffd", _templates().get_template(template).render(told)
  )


@functools.cache
def _templates() -> Any:
  import jinja2  # noqa: PLC0415  (only a report needs it)

  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )


def _read(folder: pathlib.Path) -> dict[str, Any]:
  """All that the template names."""
  notes: list[str] = []
  about = _whole(folder / "experiment.json", notes)
  found = _whole(folder / "evaluation.json", notes)
  try:
    rows = results.Rows(files.Rows(folder / "metrics.jsonl").read())
  except ValueError as e:
    notes.append(f"metrics.jsonl could not be read ({e})")
    rows = results.Rows([])
  given = _object(about, "settings")
  name = str(about.get("name") or folder.resolve().name)
  where = given.get("workdir")
  command = f"python -m experiments.{name} evaluate"
  if where:
    command += f" --workdir={shlex.quote(str(where))}"
  evaluation = results.evaluation(found)
  return {
    "name": name,
    "about": _sentence(given, rows, about),
    "notes": [*notes, *_noted(about), *pictures.gaps(rows)],
    "figures": results.figures(rows, evaluation, about),
    "pictures": pictures.pictures(
      rows,
      evaluation,
      _per_update(given),
      settings.kind(given.get("data")) != "Examples",
    ),
    "evaluation": evaluation,
    "preferences": preferences.told(found),
    "datasets": comparisons.datasets(found),
    "best_of": answers.best_of({"": found}),
    "answers": _answers(found),
    "comparison": comparisons.comparison(found),
    "command": command,
    "samples": _samples(folder / "samples", notes),
    "groups": settings.groups(given),
    "environment": _environment(_object(about, "environment")),
    "rows": rows.count,
  }


def _per_update(given: dict[str, Any]) -> int:
  """Steps that learn from the same drawn completions; 1 where not known."""
  its = _object(given, "rollouts")
  rows = count(its.get("epochs")) * count(its.get("batch"))
  if pair_of := count(its.get("pair_of")):
    rows = 2 * rows // pair_of
  return max(1, rows // max(1, count(given.get("batch_size"))))


def _whole(path: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  """A JSON object, {} where there is none."""
  try:
    value = files.read_json(path)
  except ValueError as e:
    notes.append(f"{path.name} could not be read ({e.__cause__ or e})")
    return {}
  if value is not None and not isinstance(value, dict):
    notes.append(f"{path.name} holds no JSON object")
  return value if isinstance(value, dict) else {}


def _object(about: dict[str, Any], name: str) -> dict[str, Any]:
  value = about.get(name)
  return value if isinstance(value, dict) else {}


def _noted(about: dict[str, Any]) -> list[str]:
  """What was left out of the data, or done to them."""
  found = about.get("notes")
  return (
    [n for n in found if isinstance(n, str)] if isinstance(found, list) else []
  )


def _sentence(given: dict, rows: results.Rows, about: dict) -> str:
  """What was trained, on what, how far and where."""
  model, data, parts = _object(given, "model"), _object(given, "data"), []
  if model:
    layers = model.get("num_layers", "?")
    parts.append(
      f"{_shape(model)} of {layers} layer{'' if layers == 1 else 's'},"
      f" {model.get('embed_dim', '?')} wide"
    )
  if data:
    sources = data.get("sources") or [data]
    sources = sources if isinstance(sources, list) else []
    named = [_source(s) for s in sources if isinstance(s, dict)]
    parts.append(f"on {' and '.join(named)}" if named else "")
  if objective := settings.kind(given.get("objective")):
    parts.append(f"objective {objective}")
  if share := results.trained(about):
    parts.append(f"{settings.kind(given.get('peft'))} trains {share}")
  if rows.last:
    parts.append(f"{rows.last:,} of {count(given.get('steps')):,} steps")
  place = _object(about, "environment")
  if place.get("device"):
    parts.append(f"{place.get('devices', '?')} x {place['device']}")
  return ", ".join(p for p in parts if p)


def _shape(model: dict) -> str:
  """What kind of model the settings are of, in words."""
  its = settings.kind(model)
  if its.startswith("Recurrent"):
    cell = str(model.get("cell", "recurrent")).upper()
    both = ", which reads and writes," if "EncoderDecoder" in its else ""
    return f"A model of {cell}s{both}"
  if its == "EncoderDecoderConfig":
    return "An encoder-decoder"
  return "An encoder" if model.get("sees") == "all" else "A decoder"


def _source(source: dict) -> str:
  """A source of text by its class and the first setting that says which."""
  first = [source["paths"]] if source.get("paths") else []
  first += [v for k, v in source.items() if k != "class" and v]
  first = first[:1]
  which = f" ({settings.shown(first[0])})" if first else ""
  return f"{settings.kind(source)}{which}"


def _samples(folder: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  """{"shown": [(prompt, [(step, text)])], "steps", "kept"}, evenly spread."""
  paths = sorted(folder.glob("step_*.json"))
  most = max(len(paths) - 1, 1)
  wanted = {round(i * most / (_STEPS - 1)) for i in range(_STEPS)}
  if len(paths) <= _STEPS:
    wanted = set(range(len(paths)))
  prompts: dict[str, list[tuple[int, str]]] = {}
  for i in sorted(wanted):
    found = _whole(paths[i], notes)
    step, texts = count(found.get("step")), found.get("samples")
    texts = texts if isinstance(texts, list) else []
    for one in [x for x in texts if isinstance(x, dict)][:_PROMPTS]:
      prompt, text = str(one.get("prompt", "")), str(one.get("text", ""))
      prompts.setdefault(prompt, []).append((step, text))
  return {
    "shown": list(prompts.items()),
    "steps": len(wanted),
    "kept": len(paths),
  }


def _answers(
  found: dict[str, Any],
) -> list[tuple[str, str, list[tuple[str, answers.Answer]]]]:
  """Dataset where there are several, question, and who said what."""
  known = answers.answers(found)
  return [
    (
      name if len(known) > 1 else "",
      one.prompt,
      answers.all_of([("answer", one)]),
    )
    for name, its in known.items()
    for one in its[: answers.SHOWN]
  ]


def _environment(found: dict) -> list[tuple[str, str]]:
  """Rows of name and value; packages follow the machine."""
  rest = {k: v for k, v in found.items() if k != "packages"}
  rest |= _object(found, "packages")
  return [
    (k, "not installed" if v is None else settings.shown(v))
    for k, v in rest.items()
  ]
