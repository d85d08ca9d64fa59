"""Preferences as training data: sources, shares, templates, pairs.

How rows stand in a batch, and which columns they have, is told in
`preference_rows.py`. `rows_together` of them follow each other and must be in
one microbatch; a batch is a whole number of these.
"""

import dataclasses
from typing import Literal

from llm_jax.config import field
from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import preference_tokens, questions
from llm_jax.data.conversations import Conversations, TFDSConversations
from llm_jax.data.liked import Liked
from llm_jax.data.preference import from_json
from llm_jax.data.preference_sources import PreferenceFiles, TFDSPreferences
from llm_jax.data.preferred import Preferred
from llm_jax.data.questions import Questions
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_preferences import StdlibPreferences
from llm_jax.data.stdlib_tasks import StdlibTasks

Judged = StdlibPreferences | PreferenceFiles | TFDSPreferences
Answers = StdlibTasks | Conversations | TFDSConversations  # each one liked
LIKES = ("disliked", "liked")


@dataclasses.dataclass(frozen=True)
class Preferences(Questions):
  """Weighted sources of preferences, as rows that objectives compare."""

  sources: tuple[Judged | Answers, ...] = (StdlibPreferences(),)
  rows: Literal["pairs", "labels", "rankings", "classes", "answers"] = field(
    "pairs",
    "chosen and rejected; or each completion liked or not; or all completions"
    " of a prompt, best first; or each completion with its class; or each that"
    " is liked as chosen, and nothing rejected, for self-play",
  )
  completions: int = field(
    4, "most completions of a prompt, with --data.rows=rankings", low=2
  )
  packing: Literal["best_fit", "one"] = field(
    "one",
    "one completion a row; or several, a pair's always side by side, so that a"
    " batch has more pairs than rows would tell",
  )
  too_long: Literal["error", "cut", "drop"] = field(
    "error",
    "what is done with a completion longer, with its prompt, than a row",
  )
  source: SourceSide = SourceSide()
  poor: float = field(
    0.6,
    "a labeller is named who agrees less often than this with what most of the"
    " others say",
    low=0,
    high=1,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.source.length and self.packing != "one":
      raise ValueError(
        f"--data.packing={self.packing}: completions whose prompts an encoder"
        f" reads (--data.source.length={self.source.length}) are one a row; one"
      )
    if self.rows in ("labels", "answers") and self.packing != "one":
      raise ValueError(
        f"--data.packing={self.packing}: --data.rows={self.rows} are one a row;"
        " one"
      )

  @property
  def rows_together(self) -> int:
    """Rows of a batch that belong together, one after another."""
    alone = 1 if self.rows == "classes" else 2
    return self.completions if self.rows == "rankings" else alone

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of what `rows="classes"` tells apart, by number."""
    found = {getattr(s, "classes", ()) or LIKES for s in self.sources}
    if len(found) > 1:
      given = " and ".join(sorted(",".join(names) for names in found))
      raise ValueError(
        f"--data.sources: have different classes ({given}); all need the same"
        " --data.sources.N.classes"
      )
    return found.pop()

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    as_judged = [
      Liked(s) if isinstance(s, Answers) else s for s in self.sources
    ]
    return Corpus(self, as_judged, progress)


class Corpus(questions.Corpus):
  """Prepared preferences, and what is made of them."""

  def _told(self, line: str) -> tuple[float, str] | None:
    found = from_json(line)
    if found.fault:
      return None
    said = (*(m.content for m in found.prompt), *found.completions)
    return found.placed, "\n".join(said)

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> Preferred:
    """Token ids of every split, or those in the cache."""
    by_source = self._tokenised(preference_tokens.tokenise, tokenizer, progress)
    return Preferred(
      self._settings, by_source, self._documents, tokenizer, self._template
    )
