"""Rows in the forms that people have -> preferences."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any, Literal, NamedTuple

from llm_jax.config import field
from llm_jax.data import tables
from llm_jax.data.conversation import Message, turns
from llm_jax.data.preference import faulty, Kind, Preference
from llm_jax.data.readers import Renamed, Row

# A row is of the first format whose fields it has.
FIELDS = {
  "pair": ("chosen", "rejected"),
  "ranking": ("prompt", "completions", "ranking"),
  "ranks": ("prompt", "completions", "ranks"),
  "scores": ("prompt", "completions", "scores"),
  "label": ("prompt", "completion", "label"),
  "text": ("text", "label"),
  "messages": ("messages", "label"),
}
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_LABELS = dict.fromkeys(("true", "1", "1.0"), 1.0)
_LABELS |= dict.fromkeys(("false", "0", "0.0"), 0.0)
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class _FaultError(ValueError):
  """A row that is well formed, but says nothing of what is better."""


class _Judged(NamedTuple):
  """What labellers say of the completions of a row."""

  values: tuple[tuple[float, ...], ...]
  labellers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceForm(Renamed):
  r"""What the rows of a table of preferences look like.

  pair        `chosen`, `rejected` and perhaps `prompt`: texts or messages.
              Without a prompt, or where they are whole conversations, the
              prompt is what both begin with, turn for turn.
  transcript  the same as text, "\n\nHuman: ...\n\nAssistant: ..." (HH-RLHF,
              arXiv:2204.05862).
  ranking     `prompt`, `completions`, `ranking`: their numbers from 0, best
              first; those as good in a list of their own, [2, [0, 1]].
  ranks       `ranks` instead: a place for each completion, lowest is best.
  scores      `scores` instead: a number for each completion.
  label       `prompt`, `completion`, `label`: liked or not (KTO), or one of
              `classes`, by its name or its number from 0.
  text        `text`, `label`: the same of a text that answers nothing.
  messages    `messages`, `label`: the same of the assistant's last turn.

  A `labeller` may be named, rows that judge the same completions then become
  one; or `ranking`, `ranks`, `scores` map names to judgements. A row may also
  have a `margin`, by which the first of two completions is better, a `task`
  and a `place` (see `Preference`). `Preference.rows` writes what is read here.
  """

  format: Literal[
    "auto",
    "pair",
    "transcript",
    "ranking",
    "ranks",
    "scores",
    "label",
    "text",
    "messages",
  ] = field("auto", "form of the rows; auto = by their fields")
  classes: tuple[str, ...] = field(
    (), "what a label may be, such as negative,positive; none = liked or not"
  )
  scale: tuple[float, ...] = field(
    (), "lowest and highest score there is, such as 1,5; none = any"
  )
  faulty: Literal["error", "drop"] = field(
    "error",
    "what is done with a row whose completions are empty or the same, or that"
    " has no common prompt; drop = left out and counted",
  )
  fields: tuple[str, ...] = field(
    (), "OURS=THEIRS where a table has another name for a field"
  )

  def about(self) -> str:
    """Changes with what a row is read as. ValueError where settings clash."""
    self._check_fields()
    if self.scale and not (
      len(self.scale) == 2 and self.scale[0] < self.scale[1]
    ):
      raise ValueError(
        f"--data.sources.N.scale={','.join(map(str, self.scale))}: expected the"
        " lowest and the highest score, such as 1,5"
      )
    if self.classes and len(set(self.classes)) < max(2, len(self.classes)):
      raise ValueError(
        f"--data.sources.N.classes={','.join(self.classes)}: expected two names"
        " or more, all different, such as negative,positive"
      )
    names = [f.name for f in dataclasses.fields(PreferenceForm)]
    if not self.classes:
      names.remove("classes")
    return repr([getattr(self, name) for name in names])

  def read(self, row: Row, where: str) -> Preference:
    """One row; ValueError names where it stands and the field."""
    read: Mapping[str, Callable[[Row, str], Preference]] = {
      "pair": self._pair,
      "transcript": self._pair,
      "ranking": lambda r, w: self._several(r, w, "ranking", _ranking),
      "ranks": lambda r, w: self._several(r, w, "ranks", _ranks),
      "scores": lambda r, w: self._several(r, w, "scores", self._scores),
      "label": self._label,
      "text": self._label,
      "messages": self._label,
    }
    try:
      found = read[self._format_of(row, where)](row, where)
      _check(found.completions)
      found = dataclasses.replace(found, **self._more(row, where))
    except _FaultError as e:
      if self.faulty == "drop":
        return faulty(f"{where}: {e}")
      raise ValueError(
        f"{where}: {e} (--data.sources.N.faulty=drop leaves such rows out)"
      ) from e
    return found

  def _format_of(self, row: Row, where: str) -> str:
    if self.format != "auto":
      return self.format
    return self._format_by_fields(row, where, FIELDS, "--data.sources.N.fields")

  def _pair(self, row: Row, where: str) -> Preference:
    asked = self._name("prompt")
    prompt = self._prompt(row, where) if row.get(asked) else ()
    sides = []
    for side in ("chosen", "rejected"):
      name = self._present(row, side, where)
      if not isinstance(row[name], str):
        said = turns(row[name], where, name)
      elif prompt and self.format != "transcript":
        said = (Message("assistant", tables.text(row, name, where)),)
      else:
        before = tables.text(row, asked, where) if prompt else ""
        whole = before + tables.text(row, name, where)
        said = _transcript(whole, f"{where}: field {name!r}")
      if said and said[0].role == "assistant" and self.format != "transcript":
        said = (*prompt, *said)
      sides.append(said)
    prompt, completions = _common(*sides)
    labeller = self._labeller(row, where)
    margin = row.get(self._name("margin"))
    if margin is not None:
      margin = _number(margin, f"{where}: field {self._name('margin')!r}")
    return Preference(prompt, completions, "order", ((1, 0),), labeller, margin)

  def _several(
    self,
    row: Row,
    where: str,
    name: str,
    values: Callable[[Any, int, str], tuple[float, ...]],
  ) -> Preference:
    asked, found = self._prompt(row, where), self._present(row, name, where)
    listed = self._present(row, "completions", where)
    if not isinstance(row[listed], list | tuple) or len(row[listed]) < 2:
      raise ValueError(
        f"{where}: field {listed!r} is no list of two or more but"
        f" {row[listed]!r:.60}"
      )
    completions = tuple(
      tables.whole(c, f"{listed}[{i}]", where)
      for i, c in enumerate(row[listed])
    )
    given, here = row[found], f"{where}: field {found!r}"
    if isinstance(given, list) and given and isinstance(given[0], dict):
      given = {  # as tables without mappings have them
        self._labeller(g, where)[0]: g[self._present(g, name, where)]
        for g in given
      }
    if isinstance(given, dict):
      names = tuple(map(str, given))
      judged = [
        values(given[n], len(completions), f"{here} of {n!r}") for n in names
      ]
    else:
      names = self._labeller(row, where)
      judged = [values(given, len(completions), here)]
    if not judged:
      raise ValueError(f"{here} holds no judgement")
    kind: Kind = "score" if name == "scores" else "order"
    return Preference(asked, completions, kind, tuple(judged), names)

  def _label(self, row: Row, where: str) -> Preference:
    name = self._present(row, "label", where)
    if self.classes:
      label = self._class(row[name])
      known = f"one of {', '.join(self.classes)}"
      if self._numbers_are_classes:
        known += f", or of their numbers from 0 to {len(self.classes) - 1}"
    else:
      label = _LABELS.get(str(row[name]).lower())
      known = "true, false, 1 or 0"
    if label is None:
      raise ValueError(
        f"{where}: field {name!r} is {row[name]!r:.40}, not {known}"
      )
    prompt, completion = self._labelled(row, where)
    return Preference(
      prompt,
      (completion,),
      "class" if self.classes else "like",
      ((label,),),
      self._labeller(row, where),
    )

  def _labelled(self, row: Row, where: str) -> tuple[tuple[Message, ...], str]:
    """The prompt, perhaps none, and what the label is of."""
    format_ = self._format_of(row, where)
    if format_ == "label":
      return self._prompt(row, where), self._text(row, "completion", where)
    if format_ == "text":
      return (), self._text(row, "text", where)
    name = self._present(row, "messages", where)
    said = turns(row[name], where, name)
    if not said or said[-1].role != "assistant":
      raise _FaultError(f"field {name!r} does not end with the assistant")
    return said[:-1], said[-1].content

  @property
  def _numbers_are_classes(self) -> bool:
    """Whether a class may be given by its number: no name looks like one."""
    return not any(name.strip().isdecimal() for name in self.classes)

  def _class(self, label: Any) -> float | None:
    """The number of a class; None where there is none."""
    name = str(label).lower() if isinstance(label, bool) else str(label)
    if name in self.classes:
      return float(self.classes.index(name))
    whole = isinstance(label, int | float) and not isinstance(label, bool)
    if (
      whole and self._numbers_are_classes and label in range(len(self.classes))
    ):
      return float(label)
    return None

  def _more(self, row: Row, where: str) -> dict[str, Any]:
    """What a row may also tell."""
    out: dict[str, Any] = {}
    for name in ("margin", "place"):
      value, here = row.get(self._name(name)), self._name(name)
      if value is not None:
        out[name] = _number(value, f"{where}: field {here!r}")
    if out.get("margin", 0) < 0 or not 0 <= out.get("place", 0) < 1:
      raise ValueError(
        f"{where}: a margin is at least 0 and a place from 0 to below 1, not"
        f" {', '.join(f'{n} {v:g}' for n, v in out.items())}"
      )
    if row.get(self._name("task")):
      out["task"] = self._text(row, "task", where)
    return out

  def _prompt(self, row: Row, where: str) -> tuple[Message, ...]:
    name = self._present(row, "prompt", where)
    if not isinstance(row[name], str):
      found = turns(row[name], where, name)
    else:
      found = (Message("user", tables.text(row, name, where)),)
    if not any(m.content.strip() for m in found):
      raise ValueError(f"{where}: field {name!r} is empty")
    return found

  def _labeller(self, row: Row, where: str) -> tuple[str, ...]:
    name = self._name("labeller")
    if row.get(name) is None:
      return ()
    value = row[name]
    if isinstance(value, int):
      value = str(value)
    return (tables.whole(value, f"field {name!r}", where),)

  def _scores(self, given: Any, count: int, here: str) -> tuple[float, ...]:
    found = _numbers(given, count, here)
    for score in found:
      if self.scale and not self.scale[0] <= score <= self.scale[1]:
        raise ValueError(
          f"{here} holds {score:g}, outside --data.sources.N.scale="
          f"{self.scale[0]:g},{self.scale[1]:g}"
        )
    return found


def _transcript(text: str, here: str) -> tuple[Message, ...]:
  """Turns of a text in which each begins with who speaks."""
  before, *parts = _SPEAKER.split(text)
  if before.strip() or not parts:
    raise ValueError(
      f"{here} is no transcript, which begins with 'Human:', but"
      f" {text!r:.60}; give a prompt, or see --data.sources.N.fields"
    )
  said = zip(parts[::2], parts[1::2], strict=True)
  return tuple(Message(_SPEAKERS[who], what.strip()) for who, what in said)


def _common(
  chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[str, str]]:
  """The turns that both begin with, and the last one of each.

  Turns are compared whole: two answers that begin alike share nothing.
  """
  if not (
    chosen and rejected and chosen[-1].role == rejected[-1].role == "assistant"
  ):
    raise _FaultError("chosen and rejected do not both end with the assistant")
  if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
    same = 0
    for a, b in zip(chosen, rejected, strict=False):
      if a != b:
        break
      same += 1
    raise _FaultError(
      "chosen and rejected differ before their last turn: no common prompt"
      if same
      else "chosen and rejected have no common prompt"
    )
  return chosen[:-1], (chosen[-1].content, rejected[-1].content)


def _check(completions: tuple[str, ...]) -> None:
  names = ["chosen", "rejected"] if len(completions) == 2 else []
  names = names or [f"completion {i}" for i in range(len(completions))]
  seen: dict[str, str] = {}
  for name, completion in zip(names, completions, strict=True):
    if not completion.strip():
      raise _FaultError(f"{name} is empty")
    if completion in seen:
      raise _FaultError(f"{seen[completion]} and {name} are the same")
    seen[completion] = name


def _ranking(given: Any, count: int, here: str) -> tuple[float, ...]:
  """Numbers of completions, best first -> higher is better."""
  if not isinstance(given, list | tuple):
    raise ValueError(f"{here} is no list but {given!r:.60}")
  values: dict[Any, float] = {}
  for place, ids in enumerate(given):
    for i in ids if isinstance(ids, list | tuple) else [ids]:
      if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < count:
        raise ValueError(
          f"{here} names {i!r:.40}; completions count from 0 to {count - 1}"
        )
      if i in values:
        raise ValueError(f"{here} names completion {i} twice")
      values[i] = float(-place)
  missing = [str(i) for i in range(count) if i not in values]
  if missing:
    raise ValueError(f"{here} leaves out completion {', '.join(missing)}")
  return tuple(values[i] for i in range(count))


def _ranks(given: Any, count: int, here: str) -> tuple[float, ...]:
  """Places of completions, lowest is best -> higher is better."""
  return tuple(-v for v in _numbers(given, count, here))


def _numbers(given: Any, count: int, here: str) -> tuple[float, ...]:
  if not isinstance(given, list | tuple) or len(given) != count:
    raise ValueError(
      f"{here} is no list of {count} numbers, one a completion, but"
      f" {given!r:.60}"
    )
  return tuple(_number(v, here) for v in given)


def _number(value: Any, here: str) -> float:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not math.isfinite(value):
    raise ValueError(f"{here} holds {value!r:.40}, which is no finite number")
  return float(value)
