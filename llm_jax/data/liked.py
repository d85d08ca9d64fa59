"""Answers that are liked: conversations as preferences of one completion."""

from collections.abc import Iterator
import dataclasses

from llm_jax.contracts import Progress
from llm_jax.data.conversation import Conversation, from_json
from llm_jax.data.preference import faulty, Preference
from llm_jax.data.prepared import Documents


@dataclasses.dataclass(frozen=True)
class Liked:
  """A source of preferences, made of one of conversations."""

  conversations: Documents

  def identity(self, progress: Progress) -> str:
    """Changes with the conversations."""
    return f"liked-1 {self.conversations.identity(progress)}"

  def documents(self) -> Iterator[str]:
    """Preferences as JSON, in the splits that conversations are in."""
    lines = self.conversations.documents()
    return (liked(from_json(line)).to_json() for line in lines)


def liked(conversation: Conversation) -> Preference:
  """The last answer as a completion that is liked, of all that is before it."""
  asked = conversation.question.messages
  if not asked or not conversation.answer.strip():
    return faulty("an answer is empty" if asked else "an answer to nothing")
  return Preference(
    asked,
    (conversation.answer,),
    "like",
    ((1.0,),),
    place=conversation.place,
    task=conversation.task,
  )
