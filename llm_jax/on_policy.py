"""Learning from what the policy itself draws: prompts, scores, minibatches.

An update draws completions, has them scored, credits their tokens, and serves
them as minibatches, several times over. Everything that decides what comes
next is in the source's state, which a checkpoint holds: a run goes on in the
middle of an update as if it had never stopped.

Dimension key: B completions of an update; P prompt places; T positions.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple
import zlib

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import axes, config, fitting, keys, redrawing
from llm_jax.contracts import Batch, Hook, Question, Verdict
from llm_jax.generation import widths
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.drawn_pairs import DrawnPairs
from llm_jax.objectives.policy import Policy
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.moments import Moments
from llm_jax.prompt_order import Prompt, Prompts
from llm_jax.reporting.progress import say
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training.hooks import DivergedError

# Of completions as they were drawn; reported with each step that reads them.
_TOLD = tuple(
  f"{name}_B"
  for name in (
    *("judged", "score", "non_score_reward", "rlhf_reward", "kl", "beta"),
    *("length", "ended", "mismatch", "flat", "drawings"),
  )
)
# Settings of a judge that say what is done where it fails: of no other score.
_MENDED = ("failed",)


class Functions(NamedTuple):
  """What is compiled: of roles, and of batches on the mesh."""

  draw: Callable[[Any, Batch, jax.Array], Batch]  # of prompt_BP, length_B
  score: Callable[[Any, Batch], Batch]


class Reward(NamedTuple):
  """Ids -> text; prompts and completions -> a number for each of the latter."""

  text: Callable[[Sequence[int]], str]
  score: Callable[[Sequence[Question]], Sequence[Verdict]]


class OnPolicy(Hook):
  """A source of minibatches, see `contracts.Source`, that hears of steps.

  Args:
    settings: what is drawn; a batch is whole minibatches, and whole groups.
    shaping: of scores.
    objective: credits tokens, or makes pairs of completions.
    prompts: what is answered, all short enough.
    functions: of the model.
    reward: of a completion's text.
    ids: (begin of a document, pad).
    seed: of the order of prompts, of what is drawn, of minibatches.
    batch_size: rows of a minibatch.
    group: completions of a prompt.
    mesh: where minibatches are put.
    identity: of the prompts; a run goes on with the same ones only.
    judge: what decides a score, as JSON has it; likewise.
    judge_may_change: a run goes on with another one, too.
    microbatches: that a step cuts a minibatch into.
  """

  def __init__(
    self,
    settings: Rollouts,
    shaping: Shaping,
    objective: Policy | DrawnPairs,
    prompts: Sequence[Prompt],
    functions: Functions,
    reward: Reward,
    ids: tuple[int, int],
    seed: int,
    batch_size: int,
    group: int,
    mesh: Mesh,
    identity: str = "",
    judge: dict[str, Any] | None = None,
    judge_may_change: bool = False,
    microbatches: int = 1,
  ):
    self._settings, self._shaping = settings, shaping
    self._prompts = Prompts(prompts, group, ids, seed, settings.widths)
    self._functions, self._reward, self._seed = functions, reward, seed
    self._size, self._group, self._mesh = batch_size, group, mesh
    self._together = objective.rows_together
    self._cuts = fitting.Cuts.of(mesh, microbatches, self._together)
    self._packing = settings.packing if fitting.can(mesh) else 0
    self._learned = settings.batch
    if isinstance(objective, DrawnPairs):
      self._learned = settings.batch // group * self._together
    self._identity, self._judge = identity, judge or {}
    self._judge_may_change = judge_may_change
    self._most = self._prompts.width + settings.max_new_tokens - 1  # T at most
    self._credit = jax.jit(objective.credit)
    self._key = jax.random.key(seed)
    self._updates = self._served = 0  # updates begun, minibatches of the last
    self._asked_for = 0  # prompts so far, over all passes
    self._lacked = False  # whether it was said that too few groups differ
    self._beta = shaping.beta
    self._moments = Moments()  # of what the judge said
    self._away = 0  # updates in a row that are too far from the reference
    self._rows: dict[str, np.ndarray] = {}

  @property
  def per_update(self) -> int:
    """Minibatches of an update."""
    return self._settings.epochs * (self._learned // self._size)

  def next(self, state: Any) -> Batch:
    """The next minibatch; draws first where an update begins."""
    if not self._rows or self._served == self.per_update:
      self._rows = self._drawn(state.roles)
      self._updates, self._served = self._updates + 1, 0
    at, self._served = self._served, self._served + 1
    epoch, place = divmod(at, self._learned // self._size)
    tag = zlib.crc32(b"minibatches")
    r = np.random.default_rng((self._seed, tag, self._updates, epoch))
    order = _permuted(r, self._learned, self._together)
    here = order[place * self._size : (place + 1) * self._size]
    rows = self._laid_out(here)
    rows |= {
      f"told_{name}_B": np.full(len(here), x, np.float32)
      for name, x in self._where(epoch).items()
    }
    return mesh_lib.place_whole(rows, self._mesh)

  def _laid_out(self, here: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows, packed or as wide as they need, whichever is less work."""
    counts = self._packing
    if counts:
      size_B = (self._rows["segment_BT"][here] > 0).sum(1)
      here = here[fitting.dealt(size_B, self._cuts)]
    rows = narrow = {name: x[here] for name, x in self._rows.items()}
    if self._settings.widths > 1:
      narrow = widths.cut(rows, self._most, self._settings.widths)
    if counts:
      width = narrow["segment_BT"].shape[1]
      place_BT = fitting.placed(rows, counts, self._cuts, width)
      if place_BT is not None:
        return rows | {"place_BT": place_BT}
    return narrow

  def _where(self, epoch: int) -> dict[str, float]:
    """Which update this is, what it has drawn, and how often that was read."""
    drawn = self._asked_for * self._group
    return {"update": self._updates, "drawn": drawn, "epoch": epoch}

  @property
  def waits(self) -> bool:
    return self._settings.target_kl is not None

  def read(self, step: int, numbers: dict[str, float]) -> None:
    """Ends an update of which a step was too far from what was drawn."""
    limit = self._settings.target_kl
    if limit is not None and numbers["kl_old"] > limit:
      self._served = self.per_update

  def get_state(self) -> dict[str, Any]:
    """All of it; arrays only in the middle of an update."""
    over = self._served == self.per_update
    return {
      "text": self._identity,
      "judge": self._judge,
      "updates": self._updates,
      "served": self._served,
      "asked": self._asked_for,
      "beta": self._beta,
      "moments": list(self._moments),
      "away": self._away,
      "rows": {} if over else self._rows,
    }

  def set_state(self, saved: dict[str, Any]) -> None:
    if saved["text"] != self._identity:
      raise ValueError(
        "--data: the prompts are not those that this run began with, so it"
        " cannot go on; bring them back, or start another with --init_from"
      )
    self._check_judge(saved.get("judge", self._judge))
    self._updates, self._served = saved["updates"], saved["served"]
    per_drawing = self._settings.batch // self._group
    self._asked_for = saved.get("asked", self._updates * per_drawing)
    self._beta = saved["beta"]
    self._moments = Moments(*saved.get("moments", ()))
    self._away = saved.get("away", 0)
    self._rows = saved["rows"] or {}

  def _check_judge(self, there: dict[str, Any]) -> None:
    """ValueError where the judge is another one, and may not be."""
    changed = {
      name: values
      for name, values in config.differences(there, self._judge).items()
      if name.rpartition(".")[2] not in _MENDED
    }
    if not changed:
      return
    listed = "; ".join(
      f"{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items()
    )
    said = f"--judge: not the one that this run began with ({listed})"
    if not self._judge_may_change:
      raise ValueError(
        f"{said}; bring it back, or go on with this one by --judge_may_change"
      )
    say(said)

  def draw(
    self,
    roles: Any,
    asked: Sequence[Prompt],
    key: jax.Array,
    moments: Moments | None = None,
  ) -> dict[str, np.ndarray]:
    """Completions of prompts with their scores, on the host.

    Args:
      roles: by whom they are drawn, and looked at.
      asked: `rollouts.batch` of them, a prompt as often as it is completed.
      key: of this drawing.
      moments: of what the judge said before, that scores are scaled by; None =
        they are not scaled.
    """
    prompts = mesh_lib.place_whole(self._prompts.aligned(asked), self._mesh)
    batch = self._functions.draw(roles, prompts, key)
    packed = {**batch, **self._places(batch)}
    batch = {**batch, **self._functions.score(roles, packed)}
    host = jax.device_get(_everywhere(batch))
    mask_BT, old_BT = host["mask_BT"], host["old_logp_BT"]
    wide = old_BT.dtype
    judged_B, parts = self._scores(asked, host)
    limit = self._settings.max_new_tokens
    lost_B = self._shaping.too_long(mask_BT.sum(1), limit)
    scale = Moments()
    if moments is not None:
      scale = self._shaping.seen(moments, judged_B)
    earned_B = self._shaping.scores(judged_B, host["ended_B"], scale)
    unlike_BT = old_BT - host["sampled_logp_BT"]
    if not self._settings.sampler.filters:  # which only add to what they keep
      unlike_BT = np.abs(unlike_BT)
    of_rows = {
      **{f"part_{name}_B": x_B.astype(wide) for name, x_B in parts.items()},
      "judged_B": judged_B.astype(wide),
      "earned_B": earned_B.astype(wide),
      "score_B": (earned_B - lost_B).astype(wide),
      "beta_B": np.full(len(judged_B), self._beta, wide),
      "length_B": mask_BT.sum(1).astype(wide),
      "ended_B": host["ended_B"].astype(wide),
      "mismatch_B": np.where(mask_BT, unlike_BT, 0).max(1),
    }
    if "ref_logp_BT" in host:
      moved_BT = np.where(mask_BT, old_BT - host["ref_logp_BT"], 0)
      of_rows["kl_B"] = moved_BT.sum(1)
    return {**host, **of_rows}

  def _places(self, batch: Batch) -> Batch:
    """Where drawn rows are scored, unless each by itself."""
    counts, cuts = self._packing, fitting.Cuts.of(self._mesh)
    if not counts:
      return {}
    rows = jax.device_get(_everywhere({"segment_BT": batch["segment_BT"]}))
    width = rows["segment_BT"].shape[1]
    place_BT = fitting.placed(rows, counts, cuts, width)
    if place_BT is None:
      return {}
    return mesh_lib.place_whole({"place_BT": place_BT}, self._mesh)

  def _drawn(self, roles: Any) -> dict[str, np.ndarray]:
    rows, asked_for, moments = self._to_learn_from(roles)
    away = self._away + 1 if self._is_away(rows) else 0
    if away >= self._shaping.patience:
      raise DivergedError(self._advice(rows, away))
    credited = jax.device_get(dict(self._credit(rows)))
    self._away, self._moments = away, moments
    if "kl_B" in rows:
      moved, count = float(rows["kl_B"].mean()), len(rows["kl_B"])
      self._beta = self._shaping.next_beta(self._beta, moved, count)
    self._asked_for = asked_for
    told = {
      f"told_{name}": x
      for name, x in credited.items()
      if name in _TOLD or name.startswith("part_")
    }
    rows = credited | told
    if self._settings.widths == 1:
      return rows
    return widths.to_the_left(rows, self._most)

  def _is_away(self, rows: Mapping[str, np.ndarray]) -> bool:
    """Whether the policy is too far from the reference."""
    most = self._shaping.most_kl
    return most is not None and "kl_B" in rows and _per_token(rows) > most

  def _advice(self, rows: Mapping[str, np.ndarray], away: int) -> str:
    return (
      f"update {self._updates + 1}: the policy is {_per_token(rows):.3g} nats a"
      f" token from the reference, and was more than"
      f" --shaping.most_kl={self._shaping.most_kl} in {away} updates in a row;"
      " nothing is lost. A lower --optimizer.peak, a higher --shaping.beta (or"
      " --objective.kl) or a --rollouts.target_kl may help in a new run; with a"
      " higher --shaping.most_kl this one goes on"
    )

  def _to_learn_from(
    self, roles: Any
  ) -> tuple[dict[str, np.ndarray], int, Moments]:
    """Completions, where the next update's prompts begin, scores' moments."""
    most, group, moments = self._settings.drawings, self._group, self._moments
    key = keys.stream(self._key, "rollouts", self._updates)
    per_drawing = self._settings.batch // group

    def draw(number: int) -> dict[str, np.ndarray]:
      nonlocal moments
      begin = self._asked_for + number * per_drawing
      asked = self._prompts.asked(begin, per_drawing)
      again = jax.random.fold_in(key, number) if number else key
      found = self.draw(roles, asked, again, moments)
      moments = self._shaping.seen(moments, found["judged_B"])
      return found

    rows, drawings, flat = redrawing.gathered(draw, most, group)
    told = {"drawings": float(drawings)} if most > 1 else {}
    if group > 1:
      told["flat"] = flat
    rows |= {
      f"{name}_B": np.full_like(rows["score_B"], x) for name, x in told.items()
    }
    differ = int(redrawing.differing(rows["earned_B"], group).sum())
    if most > 1 and differ < per_drawing and not self._lacked:
      self._lacked = True
      say(
        f"--rollouts.drawings={most}: of {drawings * per_drawing} prompts only"
        f" {differ} have completions that do not all score the same,"
        f" {per_drawing} are wanted; others fill the batch and teach nothing"
        " (said once; the metric drawings tells of each update)"
      )
    return rows, self._asked_for + drawings * per_drawing, moments

  def _scores(
    self, asked: Sequence[Prompt], drawn: Mapping[str, np.ndarray]
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A number for each completion, [B], and the parts of a sum by name."""
    rows = zip(drawn["target_BT"], drawn["mask_BT"], strict=True)
    texts = [self._reward.text(ids[mask].tolist()) for ids, mask in rows]
    K = self._group
    questions = [
      Question(p.messages, tuple(texts[i : i + K]), p.reference)
      for i, p in zip(range(0, len(texts), K), asked[::K], strict=True)
    ]
    found = self._reward.score(questions)
    flat = [x for verdict in found for x in verdict.scores]
    if [len(v.scores) for v in found] != [K] * len(questions):
      raise ValueError(
        f"--judge: {len(flat)} scores for {len(texts)} completions"
      )
    for x in flat:
      if not isinstance(x, int | float) or not math.isfinite(x):
        raise ValueError(f"--judge: a score is {x!r:.40}, no finite number")
    parts: dict[str, list[float]] = {}
    for verdict in found:
      for name, scores in verdict.parts:
        parts.setdefault(name, []).extend(scores)
    return np.array(flat, np.float64), {
      name: np.array(x) for name, x in parts.items()
    }


def _permuted(r: np.random.Generator, rows: int, together: int) -> np.ndarray:
  """An order of rows in which those that belong together stay so."""
  unit_U1 = r.permutation(rows // together)[:, None]
  return (unit_U1 * together + np.arange(together)).reshape(-1)


def _per_token(rows: Mapping[str, np.ndarray]) -> float:
  """KL of a token, nats."""
  return float(rows["kl_B"].sum() / max(rows["length_B"].sum(), 1))


@jax.jit
def _everywhere(batch: Batch) -> Batch:
  """Whole on every device, so that each of several processes reads it."""
  return {n: axes.constrain(x, "_" * x.ndim) for n, x in batch.items()}
