"""Runs beside each other, from what their folders hold."""

import json

import pytest

from llm_jax import beside as verb
from llm_jax import config
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Experiment
from llm_jax.objectives.dpo import DPO, IPO
from llm_jax.objectives.kto import KTO
from llm_jax.reporting import beside, files
from llm_jax.reporting.beside import Run

EVIL = "<script>alert(1)</script>"


def settings(**changes):
  return config.to_json(Experiment(**changes))


def evaluated(kl, accuracy, **more):
  own = {"accuracy": accuracy, "kl": kl, "kl_error": 0.1, "pairs": 100.0}
  return {
    "checkpoint_step": 40,
    "split": "validation",
    "results": {"model": own | more},
    "datasets": {"data": own | more},
  }


def run(folder, found, **changes):
  files.write_json(
    folder / "experiment.json", {"name": "x", "settings": settings(**changes)}
  )
  files.write_json(folder / "evaluation.json", found)
  return folder


@pytest.fixture
def sweep(tmp_path):
  """Three of one number, whose order is not that of their folders."""
  betas = {"a": 0.3, "b": 0.05, "c": 0.1}
  return [
    run(
      tmp_path / name,
      evaluated(1 / beta, 0.6 + 0.1 * beta, score=beta),
      objective=DPO(beta=beta),
      workdir=name,
    )
    for name, beta in betas.items()
  ]


def compare(folders, into):
  code = verb.compare([str(f) for f in folders], into)
  assert code == 0
  found = json.loads((into / "comparison.json").read_text())
  return found["runs"], (into / "index.html").read_text()


def test_a_sweep_is_named_and_joined_by_what_is_swept(sweep, tmp_path, capsys):
  runs, page = compare(sweep, tmp_path / "out")
  assert [r["name"] for r in runs] == ["beta 0.05", "beta 0.1", "beta 0.3"]
  assert [r["settings"] for r in runs] == [
    {"objective.beta": b} for b in (0.05, 0.1, 0.3)
  ]  # mutant: where a run lies is a setting, too
  assert runs[0]["datasets"]["data"]["kl"] == 20
  said = capsys.readouterr().out
  assert said.index("beta 0.05") < said.index("beta 0.3") and "60.5%" in said
  for part in (
    "3 runs beside each other",
    "Accuracy against KL",
    "Score against KL",
    "20.00 \u00b1 0.10",
    "objective.beta",
  ):
    assert part in page, part
  assert page.count("<svg") == 2  # nobody drew the best of n
  for beta in ("0.05", "0.1", "0.3"):  # beside its point
    assert page.count(f">beta {beta}</text>") == 2


def test_lines_join_runs_that_differ_in_one_number_alone():
  each = [
    settings(objective=kind(beta=beta), seed=seed)
    for kind in (DPO, IPO)
    for beta in (0.3, 0.1)
    for seed in (0, 1)
  ]
  differing = verb.differing(each)
  runs = [Run(__file__, str(i), s, {}) for i, s in enumerate(each)]
  found = beside.name(runs, differing)
  betas = found.differing["objective.beta"]
  assert betas == sorted(betas)
  lines = [[found.runs[i].settings for i in line] for line in found.lines]
  assert len(lines) == 4  # mutant: all in one line
  for one, two in lines:
    assert one["objective"]["class"] == two["objective"]["class"]
    assert one["seed"] == two["seed"]
    assert (one["objective"]["beta"], two["objective"]["beta"]) == (0.1, 0.3)


def test_settings_of_another_class_are_not_told_one_by_one():
  each = [
    settings(objective=DPO(beta=0.2), steps=9),
    settings(objective=KTO(beta=0.3), steps=7, workdir="elsewhere"),
  ]
  assert verb.differing(each) == {
    "objective": ["DPO", "KTO"],
    "objective.beta": [0.2, 0.3],
    "steps": [9, 7],
  }
  assert verb.differing([each[0]] * 2) == {}


def test_runs_of_many_differences_are_named_by_folder(tmp_path):
  folders = [
    run(tmp_path / "one", evaluated(1.0, 0.6), seed=1, steps=5, batch_size=8),
    run(tmp_path / "two", evaluated(2.0, 0.7)),
  ]
  runs, page = compare(folders, tmp_path / "out")
  # Mutant: as they lie along some number, where nothing is swept.
  assert [r["name"] for r in runs] == ["one", "two"]
  more = run(tmp_path / "more" / "two", evaluated(3.0, 0.8), seed=1, steps=6)
  runs, _ = compare([*folders, more], tmp_path / "out")
  assert [r["name"] for r in runs] == ["one", "two", "more/two"]
  assert "differ in data" not in page
  data = Experiment().data.__class__(length=8)
  folders[1] = run(tmp_path / "two", evaluated(2.0, 0.7), data=data)
  _, page = compare(folders, tmp_path / "out")
  assert "differ in data.length" in page


def test_data_of_two_classes_are_not_one(tmp_path):
  text = {"bits_per_byte": 1.5, "token_accuracy": 0.25}
  one, two = (evaluated(k, 0.6) for k in (1.0, 2.0))
  one["datasets"]["text"] = two["datasets"]["text"] = text
  base = {**one, "datasets": {"data": text}}
  folders = [
    run(tmp_path / "base", base),
    run(tmp_path / "one", one, data=Preferences(), seed=1),
    run(tmp_path / "two", two, data=Preferences(), seed=2),
  ]
  runs, page = compare(folders, tmp_path / "out")
  assert {tuple(r["datasets"]) for r in runs} == {
    ("data (Text)",),
    ("data (Preferences)", "text"),
  }  # mutant: what is called the same is the same
  assert "Accuracy against KL, data (Preferences)" in page
  assert "data (Text)" not in page  # nobody else has it


def test_answers_to_the_same_question_stand_together(tmp_path):
  folders = []
  for i in range(2):
    found = evaluated(1.0 + i, 0.6)
    answers = [
      {"prompt": "same?", "text": f"{EVIL} {i}", "score": 0.5},
      {"prompt": f"only {i}?", "text": "alone"},
    ]
    curve = [
      {"n": n, "kl": 0.2 * n, "score": n + i, "score_error": 0.1}
      for n in (1, 2)
    ]
    best = {"judges": {"score": f"RewardModel {EVIL}"}, "curve": curve}
    found["said"] = {"data": {"answers": answers, "best_of": best}}
    folders.append(run(tmp_path / str(i), found, seed=i))
  (tmp_path / "0" / "report.html").write_text("there")
  _, page = compare(folders, tmp_path / "out" / "deep")
  assert page.count("same?") == 1 and "only" not in page
  assert page.count("score 0.50") == 2 and "seed 0" in page
  assert EVIL not in page and page.count("&lt;script&gt;") >= 3
  assert 'href="../../0/report.html"' in page and page.count("<a href=") == 1
  assert page.count("Best of n by RewardModel") >= 1


def asked(kl, score, checksum=1, best=()):
  """Evaluated on questions that every run is asked."""
  own = {"score": score, "score_error": 0.2, "rouge_score": 0.1}
  own |= {"kl": kl, "kl_error": 0.3 if kl else 0.0}
  curve = [
    {"n": n, "kl": 0.3 * n, "score": score + n, "rouge_score": 0.1 * n}
    for n in (1, *best)
  ]
  judges = {"score": "RewardModel (rm)", "rouge_score": "Rouge"}
  told = {
    "asked": {"questions": 5, "checksum": checksum},
    "best_of": {"judges": judges, "curve": curve},
  }
  return {
    "checkpoint_step": 1,
    "split": "validation",
    "datasets": {"asked": own},
    "said": {"asked": told},
  }


def test_the_best_of_n_of_the_reference_stands_among_the_runs(tmp_path, capsys):
  folders = [
    run(tmp_path / "tuned", asked(0.0, 0.5, best=(2, 4)), steps=2),
    run(tmp_path / "drawn", asked(3.0, 1.5), seed=1, batch_size=4),
  ]
  _, page = compare(folders, tmp_path / "out")
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ["asked", "score", "ROUGE-L", "KL"]
  assert [line.split("  ")[0] for line in lines[1:]] == [
    "tuned",
    "tuned, best of 4",
    "drawn",
  ]
  assert lines[2].split()[-3:] == ["4.500", "0.400", "1.200"]
  assert lines[3].split()[-3:] == ["3.00", "\u00b1", "0.30"]
  assert "Score against KL, asked" in page and "ROUGE-L against KL" in page
  # In the pictures of all, by the last n; no pictures of their own.
  assert page.count(">best of 4</text>") == page.count("<svg") == 2
  assert ">best of 2</text>" not in page and "Best of n by" not in page
  assert "RewardModel (rm)" in page and "not asked the same" not in page


def test_the_best_of_n_of_another_has_no_place_by_kl(tmp_path, capsys):
  folders = [
    run(tmp_path / "tuned", asked(0.0, 0.5, 1), steps=2),
    run(tmp_path / "drawn", asked(3.0, 1.5, 2, (2, 4)), seed=1, batch_size=4),
  ]
  _, page = compare(folders, tmp_path / "out")
  best = capsys.readouterr().out.splitlines()[3]
  # Mutant: KL from the run itself, as if it were from the reference.
  assert best.split()[-2:] == ["5.500", "0.400"]
  assert ">best of 4</text>" not in page
  assert page.count("Best of n by") >= 1
  assert "asked: the runs were not asked the same questions" in page


def test_what_cannot_be_compared_is_told(sweep, tmp_path):
  out = tmp_path / "out"

  def told(*folders):
    with pytest.raises(ValueError) as e:
      verb.compare([str(f) for f in folders], out)
    return str(e.value)

  assert "expected two run folders or more" in told(sweep[0])
  again = sweep[0].parent / "x" / ".." / sweep[0].name
  for same in (sweep[0], f"{sweep[0]}/", again):
    assert f"{same} is named twice" in told(sweep[0], same)
  assert "a name is empty" in told(*sweep, "")
  file = tmp_path / "file"
  file.touch()
  assert "file is no folder" in told(sweep[0], file)
  with pytest.raises(ValueError, match="--into=.*file: is no folder"):
    verb.compare([str(f) for f in sweep], file)
  assert told(sweep[0], tmp_path / "none").endswith("none holds no run")
  (sweep[1] / "evaluation.json").unlink()
  assert "was not evaluated yet: python -m experiments.x evaluate" in told(
    *sweep
  )
  (sweep[1] / "evaluation.json").write_text("{")
  assert "not JSON" in told(*sweep)
  assert not out.exists()
