"""Chat templates: messages -> ids, and which of them are trained.

A template is Jinja. Where it means a special id it writes `tokens.user` (or
system, assistant, end), `bos_token` or `eos_token`; what the assistant says,
the token that ends it included, stands between {% generation %} and
{% endgeneration %}. While rendering, special ids and borders are single
characters that occur in no message; the text between them is encoded piece by
piece. So spans are exact, a prompt has the ids that it had in training, and
text that looks like a special token stays text.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import Any, NamedTuple

from llm_jax import storage
from llm_jax.contracts import Tokenizer
from llm_jax.data import foreign, sandbox, tables
from llm_jax.data.conversation import Message

ROLE_TOKENS = ("system", "user", "assistant", "end")
CHAT = """\
{% for m in messages %}
{{ tokens[m.role] }}
{%- if m.role == "assistant" %}
{% generation %}{{ m.content }}{{ tokens.end }}{% endgeneration %}
{% else %}
{{- m.content }}{{ tokens.end }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ tokens.assistant }}
{%- endif %}"""
PLAIN = """\
{% for m in messages %}
{% if m.role == "assistant" %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}
{{ m.content }}
{%- endif %}
{% endfor %}"""
NAMED = {"chat": CHAT, "plain": PLAIN}

_NAMES = (*ROLE_TOKENS, "bos", "eos", "begin", "close")
_PROBE = tuple(
  Message(role, f"{role}-{i}") for i in (1, 2) for role in ("user", "assistant")
)


class Piece(NamedTuple):
  """Text, or the name of a special id."""

  text: str
  special: str
  trained: bool


class Encoded(NamedTuple):
  """Ids of a conversation, and which are the assistant's."""

  ids: list[int]
  trained: list[bool]


class Template:
  """A template that has been tried: it keeps what the module promises.

  Args:
    given: "chat", "plain", the path of a .jinja file, or "hf:FOLDER", whose
      own it is.
    flag: that named it, for errors.

  Raises:
    ValueError: no such file, broken syntax, or a promise that it breaks.
  """

  def __init__(self, given: str = "chat", flag: str = "--data.template"):
    self._flag = f"{flag}={given}"
    self._foreign: foreign.Foreign | None = None
    if given.startswith(foreign.PREFIX):
      self._foreign = foreign.read(given, self._flag)
      self.source = self._foreign.source
    else:
      self.source = NAMED.get(given) or self._read(given)
    self._watched = True  # while it is tried
    self._template = self._compile(self.source)
    self._drops_system = False
    self._try()
    self._drops_system = self._without_system()
    self._watched = False

  def pieces(
    self, messages: Sequence[Message], add_generation_prompt: bool = False
  ) -> list[Piece]:
    """The conversation as text and special ids, in order."""
    if self._drops_system:
      for m in messages:
        if m.role == "system" and m.content.strip():
          said = f"leaves out what the system says ({m.content!r:.40})"
          raise ValueError(f"{self._flag}: {said}")
    joined = "".join(m.content for m in messages) + self.source
    marks = dict(zip(_NAMES, _absent(joined), strict=False))
    if len(marks) < len(_NAMES):
      raise ValueError("a conversation holds every private character")
    if self._foreign is not None:
      return self._theirs(messages, add_generation_prompt, marks)
    try:
      rendered = sandbox.render(
        self._template,
        self._watched,
        messages=[m._asdict() for m in messages],
        add_generation_prompt=add_generation_prompt,
        tokens={name: marks[name] for name in ROLE_TOKENS},
        bos_token=marks["bos"],
        eos_token=marks["eos"],
        raise_exception=self._refuse,
        **{f"_{name}": marks[name] for name in ("begin", "close")},
      )
    except Exception as e:  # a template may do anything
      raise ValueError(f"{self._flag}: {_line(e)}") from e
    return self._cut(rendered, {mark: name for name, mark in marks.items()})

  def _theirs(
    self, messages: Sequence[Message], prompt: bool, marks: Mapping[str, str]
  ) -> list[Piece]:
    """The pieces of a template that writes special tokens as text."""
    theirs = self._foreign
    assert theirs is not None
    # Characters that stand for nothing yet.
    gap, begin, close = (marks[name] for name in ("user", "begin", "close"))

    def render(messages: Sequence[Message], prompt: bool) -> str:
      return sandbox.render(
        self._template,
        self._watched,
        messages=[
          {"role": m.role, "content": theirs.broken(m.content, gap)}
          for m in messages
        ],
        add_generation_prompt=prompt,
        bos_token=theirs.bos,
        eos_token=theirs.eos,
        raise_exception=self._refuse,
        _begin=begin if theirs.marks_answers else "",
        _close=close if theirs.marks_answers else "",
      )

    pattern = theirs.pattern()
    try:
      text = render(messages, prompt)
      spans: list[foreign.Span] = []
      if not theirs.marks_answers:
        spans = foreign.spans(render, messages, text, pattern)
    except Exception as e:  # a template may do anything
      raise ValueError(f"{self._flag}: {_line(e)}") from e
    for start, end in reversed(spans):
      text = text[:start] + begin + text[start:end] + close + text[end:]
    kept = [name for name in marks if name in ("begin", "close")]
    out = []
    for piece in self._cut(text, {marks[name]: name for name in kept}):
      at = 0
      for found in [*pattern.finditer(piece.text), None]:
        stop = found.start() if found else len(piece.text)
        plain = piece.text[at:stop].replace(gap, "")
        if plain:
          out.append(Piece(plain, "", piece.trained))
        if found:
          out.append(Piece("", found[0], piece.trained))
          at = found.end()
    return out

  def learned(self, messages: Sequence[Message]) -> list[Piece]:
    """The pieces of a conversation to train on; ValueError quotes its start."""
    try:
      out = self.pieces(messages)
      if not any(p.trained for p in out):
        raise ValueError(f"{self._flag}: nothing of it is to be learned")
    except ValueError as e:
      begins = f"in the conversation that begins {messages[0].content!r:.40}"
      raise ValueError(f"{e} ({begins})") from e
    return out

  def _cut(self, rendered: str, marks: Mapping[str, str]) -> list[Piece]:
    out, start, trained = [], 0, False
    ends = [i for i, c in enumerate(rendered) if c in marks]
    for end in [*ends, len(rendered)]:
      if end > start:
        out.append(Piece(rendered[start:end], "", trained))
      start = end + 1
      name = marks[rendered[end]] if end < len(rendered) else ""
      if name in ("begin", "close"):
        if trained == (name == "begin"):
          raise ValueError(f"{self._flag}: {{% generation %}} within another")
        trained = not trained
      elif name:
        out.append(Piece("", name, trained))
    return out

  def _try(self) -> None:
    """Renders a conversation of two turns, and looks at it."""
    whole = self.pieces(_PROBE)
    text = "".join(p.text for p in whole)
    for m in _PROBE:
      if m.content not in text:
        raise ValueError(f"{self._flag}: leaves out what the {m.role} says")
      if m.role == "user" and any(
        p.trained and m.content in p.text for p in whole
      ):
        raise ValueError(
          f"{self._flag}: what the user says is between {{% generation %}} and"
          " {% endgeneration %}"
        )
    for turn in (1, 3):
      begin = next(
        (i for i, p in enumerate(whole) if _PROBE[turn].content in p.text), 0
      )
      if not whole[begin].trained:
        raise ValueError(
          f"{self._flag}: what the assistant says is not between"
          " {% generation %} and {% endgeneration %}"
        )
      while begin and whole[begin - 1].trained:
        begin -= 1
      end = next(
        (i for i in range(begin, len(whole)) if not whole[i].trained),
        len(whole),
      )
      if not whole[end - 1].special:
        raise ValueError(
          f"{self._flag}: no special token, such as tokens.end or eos_token,"
          " ends what the assistant says before {% endgeneration %}"
        )
      if self.pieces(_PROBE[:turn], True) != whole[:begin]:
        raise ValueError(
          f"{self._flag}: with add_generation_prompt the prompt is not what"
          " stands before {% generation %} in training"
        )

  def _without_system(self) -> bool:
    """Whether what the system says is lost without a word."""
    try:
      whole = self.pieces((Message("system", "system-1"), *_PROBE[:2]))
    except ValueError:  # it says so
      return False
    return not any("system-1" in p.text for p in whole)

  def _read(self, given: str) -> str:
    path = storage.path(given)
    if path.suffix != ".jinja":
      raise ValueError(
        f"{self._flag}: one of {', '.join(NAMED)}, or the path of a .jinja file"
      )
    try:
      source = tables.decode(path.read_bytes(), str(path))
      return source.removeprefix("\ufeff")  # some editors' mark
    except OSError as e:
      raise ValueError(
        f"{self._flag}: cannot be read ({storage.reason(e)})"
      ) from e

  def _compile(self, source: str) -> Any:
    try:
      return sandbox.environment().from_string(source)
    except Exception as e:  # of many kinds
      line = getattr(e, "lineno", None)
      raise ValueError(
        f"{self._flag}: {f'line {line}: ' if line else ''}{_line(e)}"
      ) from e

  def _refuse(self, message: str) -> None:
    raise ValueError(message)


def encode(
  conversations: Sequence[Sequence[Piece]], tokenizer: Tokenizer
) -> list[Encoded]:
  """Pieces of several conversations -> their ids."""
  texts = [p.text for pieces in conversations for p in pieces if p.text]
  found = iter(tokenizer.encode_batch(texts))
  special = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
  special |= tokenizer.role_ids
  out = []
  for pieces in conversations:
    if begins(pieces, tokenizer):
      pieces = pieces[1:]  # every row does
    ids: list[int] = []
    trained: list[bool] = []
    for p in pieces:
      if p.special and p.special not in special:
        raise ValueError(
          f"--data.template: the tokenizer has no id for {p.special!r};"
          " --data.template=hf:FOLDER is the one that came with a model"
        )
      new = [special[p.special]] if p.special else next(found)
      ids += new
      trained += [p.trained] * len(new)
    out.append(Encoded(ids, trained))
  return out


def begins(pieces: Sequence[Piece], tokenizer: Tokenizer) -> bool:
  """Whether a conversation writes the id that stands before every text."""
  first = pieces[0].special if pieces else ""
  special = {"bos": tokenizer.bos_id, **tokenizer.role_ids}
  return first != "eos" and special.get(first) == tokenizer.start_id


def render(
  messages: Sequence[Message],
  tokenizer: Tokenizer,
  add_generation_prompt: bool = False,
  template: Template | None = None,
) -> Encoded:
  """Ids of one conversation; to be answered, with `add_generation_prompt`."""
  template = template or Template()
  pieces = template.pieces(messages, add_generation_prompt)
  return encode([pieces], tokenizer)[0]


def _absent(text: str) -> Iterator[str]:
  """Characters that are no text to anyone and are not in `text`.

  Noncharacters of Unicode first, then those for private use.
  """
  ranges = (0xFDD0, 0xFDF0), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE)
  codes = itertools.chain.from_iterable(range(*r) for r in ranges)
  return (c for c in map(chr, codes) if c not in text)


def _line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]
