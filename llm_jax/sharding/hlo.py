"""The text of a compiled program, as far as it is needed to count in it."""

import json
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_BITS = {"pred": 8, "token": 0, "opaque": 0}
# What a call may be followed into, by the attribute that names it.
_CALLED = re.compile(
  r"\b(calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
  """A line of a computation."""

  name: str
  opcode: str
  sizes: list[int]  # bytes of each array that it gives
  operands: list[str]
  attributes: str
  root: bool

  @property
  def channel(self) -> str:
    """The number that the parts of one collective share."""
    found = re.search(r"channel_id=(\d+)", self.attributes)
    return found[1] if found else ""

  @property
  def label(self) -> str:
    """What of the traced program it comes from."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""


class Module(NamedTuple):
  """Computations by name."""

  computations: dict[str, list[Instruction]]
  entry: str

  def times(self) -> dict[str, int]:
    """How often each computation runs in a run of the program."""
    out = {self.entry: 1}
    callers: dict[str, list[tuple[str, int]]] = {}
    for name, instructions in self.computations.items():
      for it in instructions:
        for callee, turns in self._calls(it, name):
          callers.setdefault(callee, []).append((name, turns))

    def of(name: str, path: frozenset[str] = frozenset()) -> int:
      if name not in out and name not in path:
        inner = path | {name}
        of_each = [(of(c, inner), n) for c, n in callers.get(name, [])]
        out[name] = sum(times * turns for times, turns in of_each)
      return out.get(name, 0)

    for name in self.computations:
      of(name)
    return out

  def _calls(self, it: Instruction, name: str) -> list[tuple[str, int]]:
    """(computation, how often) that an instruction runs."""
    if it.opcode.endswith(("-done", "-update")):
      return []
    turns = self.turns(it, name) if it.opcode == "while" else 1
    out = [(found[2], turns) for found in _CALLED.finditer(it.attributes)]
    if found := _BRANCHES.search(it.attributes):
      out += [(n.strip().lstrip("%"), 1) for n in found[1].split(",")]
    return out

  def turns(self, loop: Instruction, name: str) -> int:
    """How often a loop turns; 1 where only running it would tell.

    As the compiler notes it, or else from "counter < constant" with where the
    counter begins and what each turn adds.
    """
    if found := re.search(r'known_trip_count":(\{[^}]*\})', loop.attributes):
      return int(json.loads(found[1])["n"])
    parts = dict(
      re.findall(r"\b(condition|body)=%?([\w.\-]+)", loop.attributes)
    )
    condition = self.computations.get(parts.get("condition", ""), [])
    body = self.computations.get(parts.get("body", ""), [])
    by_name = {it.name: it for it in condition}
    test = next((it for it in condition if it.root), None)
    if test is None or test.opcode != "compare" or len(test.operands) != 2:
      return 1
    counter, limit = (by_name.get(n) for n in test.operands)
    if limit is None or counter is None or limit.opcode != "constant":
      return 1
    at = re.search(r"index=(\d+)", counter.attributes)
    if at is None or "direction=LT" not in test.attributes:
      return 1
    index = int(at[1])
    start = self._constant(name, self._element(name, loop.operands[0], index))
    inner = {it.name: it for it in body}
    step = _step(body, inner, index)
    return max(0, -(-(int(limit.operands[0]) - (start or 0)) // step))

  def _element(self, name: str, operand: str, index: int) -> str:
    by_name = {it.name: it for it in self.computations[name]}
    made = by_name.get(operand)
    if made is None or made.opcode != "tuple":
      return ""
    return made.operands[index]

  def _constant(self, name: str, operand: str) -> int | None:
    by_name = {it.name: it for it in self.computations[name]}
    made = by_name.get(operand)
    while made is not None and made.opcode in ("copy", "bitcast"):
      made = by_name.get(made.operands[0])
    if made is None or made.opcode != "constant":
      return None
    return int(made.operands[0])


def _step(
  body: list[Instruction], inner: dict[str, Instruction], index: int
) -> int:
  """What a turn adds to the counter; 1 where it cannot be seen."""
  root = next((it for it in body if it.root), None)
  if root is None or root.opcode != "tuple":
    return 1
  total, made = 0, inner.get(root.operands[index])
  while made is not None and made.opcode in ("add", "copy"):
    constants = [inner[n] for n in made.operands if n in inner]
    added = [it for it in constants if it.opcode == "constant"]
    rest = [it for it in constants if it.opcode != "constant"]
    total += sum(int(it.operands[0]) for it in added)
    made = rest[0] if rest else None
  return max(total, 1)


def parse(text: str) -> Module:
  """Reads the text of a module."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      current = computations.setdefault(found[2], [])
      entry = found[2] if found[1] else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      it = _instruction(found[2], found[3], bool(found[1]))
      if it is not None:
        current.append(it)
  return Module(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction | None:
  """`type opcode(operands), attributes`; a type may be a tuple of types."""
  end = _closing(rest) if rest.startswith("(") else rest.find(" ") - 1
  kind, rest = rest[: end + 1], rest[end + 1 :].strip()
  opcode, bracket, rest = rest.partition("(")
  if not bracket:
    return None
  close = _closing("(" + rest) - 1
  operands = re.sub(r"/\*.*?\*/", "", rest[:close])
  names = [o.split()[-1].lstrip("%") for o in _split(operands) if o.strip()]
  return Instruction(name, opcode, _sizes(kind), names, rest[close + 1 :], root)


def _closing(text: str) -> int:
  """Where the bracket closes with which a text begins."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return i
  return len(text)


def _split(text: str) -> list[str]:
  """By commas outside of brackets."""
  out, depth, begin = [], 0, 0
  for i, letter in enumerate(text):
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and not depth:
      out.append(text[begin:i])
      begin = i + 1
  return [*out, text[begin:]]


def _sizes(kind: str) -> list[int]:
  """Bytes of each array of a type."""
  out = []
  for dtype, dims in _ARRAY.findall(kind):
    bits = _BITS.get(dtype)
    if bits is None:
      bits = int(re.search(r"\d+", dtype)[0])  # type: ignore[index]
    count = 1
    for n in filter(None, dims.split(",")):
      count *= int(n)
    out.append(count * bits // 8)
  return out
