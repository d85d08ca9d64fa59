"""One form for every preference: a prompt, completions, and who judged how."""

import collections
from collections.abc import Sequence
import dataclasses
import itertools
import json
from typing import Any, Literal, NamedTuple

import numpy as np

from llm_jax.data.conversation import Conversation, Message

Kind = Literal["order", "score", "like", "class"]


class Pairs(NamedTuple):
  """Which completion is preferred to which."""

  pairs: list[tuple[int, int]]  # (chosen, rejected)
  margins: list[float]  # how much better, where that is known; else 0
  num_ties: int


@dataclasses.dataclass(frozen=True)
class Preference:
  """Completions of one prompt, judged.

  A judgement is a number for each completion, higher = better. Of kind
  "order" (chosen and rejected, rankings) nothing but their order means
  anything; of "score", their differences do; of "like" they are 1 or 0; of
  "class" they are numbers of classes, and none is better.

  Attributes:
    prompt: messages that every completion answers.
    completions: at least two, all different; of kind "like" also one, of
      "class" only one.
    kind: what the numbers mean.
    values: a judgement for each labeller.
    labellers: their names, each once; none = one judgement, whose is unknown.
    margin: how much better the first completion is than the second, where
      there are two and it is known.
    place: in [0, 1), decides the split; None = by a hash of what is asked, as
      of a conversation, so that training on answers and on preferences holds
      out the same questions.
    task: what kind of example it is, where its source tells.
    fault: why this cannot be used, and is to be counted only; empty = it can.
  """

  prompt: tuple[Message, ...]
  completions: tuple[str, ...]
  kind: Kind
  values: tuple[tuple[float, ...], ...]
  labellers: tuple[str, ...] = ()
  margin: float | None = None
  place: float | None = None
  task: str = ""
  fault: str = ""

  @property
  def placed(self) -> float:
    """The number that decides the split."""
    return self.conversation(0).placed

  def conversation(self, completion: int) -> Conversation:
    """The prompt with one of the completions as its answer."""
    answer = Message("assistant", self.completions[completion])
    return Conversation((*self.prompt, answer), self.place, self.task)

  def verdicts(self) -> np.ndarray:
    """[labellers, K choose 2]: 1 = first of two is better, -1 = second.

    Completions pair up as in `itertools.combinations`; 0 = a tie.
    """
    values = np.array(self.values, float)
    twos = list(itertools.combinations(range(len(self.completions)), 2))
    first, second = np.array(twos, int).reshape(-1, 2).T
    return np.sign(values[:, first] - values[:, second]).astype(int)

  def pairs(self) -> Pairs:
    """All K choose 2 pairs, by majority of the labellers; no ties."""
    votes = np.sign(self.verdicts().sum(0)).tolist()
    twos = itertools.combinations(range(len(self.completions)), 2)
    mean = np.mean(self.values, 0)
    pairs, margins = [], []
    for (i, j), vote in zip(twos, votes, strict=True):
      if vote:
        w, l = (i, j) if vote > 0 else (j, i)
        margin = mean[w] - mean[l] if self.kind == "score" else 0.0
        if self.margin is not None:
          margin = self.margin * vote
        pairs.append((w, l))
        margins.append(max(0.0, float(margin)))
    return Pairs(pairs, margins, votes.count(0))

  def points(self) -> list[int]:
    """Of each completion, the pairs it wins less those it loses."""
    points = [0] * len(self.completions)
    for w, l in self.pairs().pairs:
      points[w] += 1
      points[l] -= 1
    return points

  def ranks(self) -> list[int]:
    """0 for the best completion; those as good have the same rank."""
    points = self.points()
    return [sum(q > p for q in points) for p in points]

  def likes(self) -> list[bool | None]:
    """Whether each is liked: by most labellers, or against the others.

    Where completions were only compared, one is liked that wins more pairs
    than it loses. None = neither.
    """
    signs: Sequence[float] = self.points()
    if self.kind == "like":
      signs = (np.mean(self.values, 0) - 0.5).tolist()
    return [None if s == 0 else s > 0 for s in signs]

  def classes(self) -> list[int | None]:
    """The class of each, by most labellers; None = as many say another.

    Of what is no class, 1 = liked and 0 = disliked, as `likes` has it.
    """
    if self.kind != "class":
      return [None if like is None else int(like) for like in self.likes()]
    most: list[int | None] = []
    for said in zip(*self.values, strict=True):
      (first, count), *others = collections.Counter(said).most_common(2)
      tied = bool(others) and others[0][1] == count
      most.append(None if tied else int(first))
    return most

  def rows(self) -> list[dict[str, Any]]:
    """As rows of a table that a source of preferences reads."""
    more = {
      name: value
      for name in ("margin", "place", "task")
      if (value := getattr(self, name)) not in (None, "")
    }
    names = self.labellers or (None,)
    alone = "completion" if self.prompt else "text"
    if self.prompt:
      more["prompt"] = [m._asdict() for m in self.prompt]
    if self.kind in ("like", "class"):
      as_label = bool if self.kind == "like" else int
      return [
        {**more, alone: c, "label": as_label(v)}
        | ({} if name is None else {"labeller": name})
        for name, values in zip(names, self.values, strict=True)
        for c, v in zip(self.completions, values, strict=True)
      ]
    sides, (only, *others) = ("chosen", "rejected"), self.values
    if self.kind == "order" and len(only) == 2 and not others:
      if only[0] > only[1] and not self.labellers:
        return [more | dict(zip(sides, self.completions, strict=True))]
    sign, field = (1, "scores") if self.kind == "score" else (-1, "ranks")
    judged = [[sign * v for v in values] for values in self.values]
    said = (
      dict(zip(names, judged, strict=True)) if self.labellers else judged[0]
    )
    return [{**more, "completions": list(self.completions), field: said}]

  def to_json(self) -> str:
    """One line, the same for the same preference."""
    return json.dumps(
      [getattr(self, f.name) for f in dataclasses.fields(self)],
      ensure_ascii=False,
      separators=(",", ":"),
    )


def from_json(line: str) -> Preference:
  """The inverse of `Preference.to_json`."""
  prompt, completions, kind, values, labellers, *rest = json.loads(line)
  return Preference(
    tuple(Message(*m) for m in prompt),
    tuple(completions),
    kind,
    tuple(map(tuple, values)),
    tuple(labellers),
    *rest,
  )


def faulty(fault: str) -> Preference:
  """One to be counted only."""
  return Preference((), (), "order", (), fault=fault)
