"""Classes by name and by number."""

from collections.abc import Iterable
import dataclasses


@dataclasses.dataclass(frozen=True)
class ClassNames:
  """Names of classes, by number from 0.

  Args:
    names: of all classes.
    by_number: a label may also be the number of a class, where no name looks
      like one.
  """

  names: tuple[str, ...]
  by_number: bool = False

  @classmethod
  def found(cls, labels: Iterable[str | int]) -> "ClassNames":
    """Those that labels name, in order: of numbers, or of the alphabet."""
    names = sorted(set(map(str, labels)))
    if all(name.isdecimal() for name in names):
      names.sort(key=int)
    return cls(tuple(names))

  def number(self, label: str | int) -> int | None:
    """Of the class of a label; None where it is none."""
    name = str(label)
    if name in self.names:
      return self.names.index(name)
    named = any(n.strip().isdecimal() for n in self.names)
    if not self.by_number or named or not name.isdecimal():
      return None
    return int(name) if int(name) < len(self.names) else None

  @property
  def said(self) -> str:
    """The names, for a person."""
    most = 12
    more = f" and {len(self.names) - most} more" * (len(self.names) > most)
    return ", ".join(self.names[:most]) + more
