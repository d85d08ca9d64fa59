"""The merges of byte pair encoding (arXiv:1508.07909), told by its pieces."""

from collections.abc import Collection, Sequence


def merges(
  pieces: Sequence[tuple[str, float]], merged: Collection[int]
) -> list[tuple[str, str]]:
  """Pairs of pieces that become one, the first to be merged first.

  Args:
    pieces: each with its score; the higher, the sooner it is made.
    merged: ids of those that are made by merging.
  """
  ids = {piece: i for i, (piece, _) in enumerate(pieces)}
  found = []
  for i in merged:
    piece, score = pieces[i]
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in ids and right in ids:
        found.append((-score, ids[left], ids[right], left, right))
  return [(left, right) for *_, left, right in sorted(found)]
