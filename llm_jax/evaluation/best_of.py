"""What the best of n answers is worth, by a judge and by others.

Dimension key: P prompts; N answers drawn to each.
"""

from collections.abc import Mapping
import math

import numpy as np


def kl(n: int) -> float:
  """KL of the best of n from what it is chosen of: log n - (n - 1) / n nats.

  Exact where no two answers have the same score, and never too small
  (Gao et al. 2022, arXiv:2210.10760, section 2.2; Beirami et al. 2024,
  arXiv:2401.01879).
  """
  return math.log(n) - (n - 1) / n


def expected(score_PN: np.ndarray, value_PN: np.ndarray, n: int) -> np.ndarray:
  """Mean value of the answer with the best score of n, for each prompt, [P].

  The mean over all subsets of n of the N answers, which has no bias (Nakano et
  al. 2021, arXiv:2112.09332, appendix): the i-th smallest score is the
  largest of C(i - 1, n - 1) of C(N, n) subsets. Of answers with the same score
  any may be the best one.

  Args:
    score_PN: by which the best is chosen.
    value_PN: what is asked about; the same array for the score itself.
    n: from 1 to N.
  """
  N = score_PN.shape[1]
  if not 1 <= n <= N:
    raise ValueError(f"the best of {n} of {N} answers: expected 1 to {N}")
  share_N = np.array(
    [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)], np.float64
  )
  out = []
  for score_N, value_N in zip(score_PN, value_PN, strict=True):
    order = np.argsort(score_N, kind="stable")
    _, tie_N = np.unique(score_N[order], return_inverse=True)
    total = lambda x_N, ties=tie_N: np.bincount(ties, x_N)
    mean = total(value_N[order].astype(np.float64)) / total(np.ones(N))
    out.append((total(share_N) * mean).sum())
  return np.asarray(out)


def curve(
  score_PN: np.ndarray, others: Mapping[str, np.ndarray]
) -> list[dict[str, float]]:
  """A row for n = 1, 2, 4, ... and N.

  Args:
    score_PN: by the judge who chooses.
    others: name -> values [P, N] by others of the same answers.

  Returns:
    n, kl        see `kl`
    score        mean over prompts
    score_error  its standard error; left out of a single prompt
    NAME, NAME_error  likewise, of each of the others

  Raises:
    ValueError: there is no prompt, or a score is not finite.
  """
  P, N = score_PN.shape
  if not P:
    raise ValueError("there is no question to evaluate on")
  named = {"score": score_PN, **others}
  for name, value_PN in named.items():
    if not np.isfinite(value_PN).all():
      raise ValueError(f"{name}: not all answers have a finite number")
  rows = []
  for n in sorted({1 << k for k in range(N.bit_length())} | {N}):
    row = {"n": float(n), "kl": kl(n)}
    for name, value_PN in named.items():
      found_P = expected(score_PN, value_PN, n)
      row[name] = float(found_P.mean())
      if P > 1:
        row[f"{name}_error"] = float(found_P.std(ddof=1) / math.sqrt(P))
    rows.append(row)
  return rows
