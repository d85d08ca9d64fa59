"""Verbs, and the flags that are no settings of an experiment."""

from typing import Any

from absl import flags

VERBS = {
  "train": "runs, or resumes what --workdir holds",
  "plan": "parameters, flops, bytes a device, expected time",
  "evaluate": "measures a checkpoint; a table and evaluation.json",
  "compare": "evaluated --runs beside each other; a page at --into",
  "generate": "text from --prompt, --prompts_file or the terminal",
  "label": "completions of prompts, judged: preferences at --into",
  "merge": "adapters into their base; an ordinary run folder at --into",
  "export": "a folder at --to that transformers loads; adapters merged",
  "show": "resolved settings, and each parameter's shape and placement",
}
# Flags that are no settings of an experiment, and the verbs that read them.
READ_BY = {
  "prompt": ("generate",),
  "prompts_file": ("generate", "label"),
  "adapter": ("export", "generate"),
  "into": ("compare", "label", "merge"),
  "runs": ("compare",),
  "best": ("label",),
  "format": ("export",),
  "to": ("export",),
  "shard_size": ("export",),
  "weights_dtype": ("export",),
  "licence": ("export",),
  "checkpoint_step": ("evaluate", "export", "generate", "label", "merge"),
  "against": ("evaluate",),
  "kl_from": ("evaluate",),
  "only": ("evaluate",),
  "judge": ("evaluate", "label"),
  "topology": ("plan",),
  "slices": ("plan",),
  "search": ("plan",),
  "compile": ("plan",),
  "check": tuple(VERBS),
  "distributed": tuple(VERBS),
  "coordinator": tuple(VERBS),
  "num_processes": tuple(VERBS),
  "process_id": tuple(VERBS),
  "join_timeout": tuple(VERBS),
}
# Of one process alone; all others are the same in all processes of a job.
OF_ONE = ("coordinator", "num_processes", "process_id", "join_timeout")

_TEXT, _MANY = flags.DEFINE_string, flags.DEFINE_multi_string
_LIST, _WHOLE, _REAL, _BOOL = (
  flags.DEFINE_list,
  flags.DEFINE_integer,
  flags.DEFINE_float,
  flags.DEFINE_bool,
)
# Name -> (kind, default, help).
_FLAGS: dict[str, tuple[Any, Any, str]] = {
  "prompt": (_MANY, [], "continue this text; repeatable"),
  "prompts_file": (_TEXT, None, "a prompt a line"),
  "adapter": (
    _MANY,
    [],
    "answer with this run's adapters, or with peft:FOLDER, those that the peft"
    " library wrote; runs/a+runs/b stacks two, none is the base; repeatable:"
    " each prompt is answered with each. Of an export, peft: the adapters"
    " alone, in that library's format",
  ),
  "into": (_TEXT, None, "folder of a run or page, or .jsonl"),
  "runs": (_LIST, [], "folders of evaluated runs, between commas"),
  "best": (_BOOL, False, "the best completions, to train on"),
  "format": (_TEXT, "hf", "of an export; hf is the only one"),
  "to": (_TEXT, None, "folder to export to"),
  "shard_size": (_REAL, 2.0, "of a file of weights, 10^9 bytes at most"),
  "weights_dtype": (
    _TEXT,
    "float32",
    "of exported weights: float32, bfloat16, float16 or float64",
  ),
  "licence": (_TEXT, "unknown", "of exported weights, for their card"),
  "checkpoint_step": (_WHOLE, None, "which one; none = the last"),
  "against": (_TEXT, None, "run folder to compare with"),
  "kl_from": (
    _TEXT,
    None,
    "run folder that the KL of answers is measured from; none = what the policy"
    " began with",
  ),
  "only": (
    _LIST,
    [],
    "names of the evaluations to measure, between commas; `data` is the run's"
    " own; none = all",
  ),
  "judge": (
    _TEXT,
    None,
    "run folder of a reward model, or FILE.py:NAME of a function, that judges"
    " in place of the judge of the experiment",
  ),
  "topology": (
    _TEXT,
    None,
    "machines that are not here, such as v5e-16, v5p-128, v6e-256, h100-64",
  ),
  "slices": (_WHOLE, 1, "how many of --topology, joined by the slow network"),
  "search": (_BOOL, False, "also find settings that may be better there"),
  "compile": (
    _BOOL,
    True,
    "compile the step for --topology; --nocompile = by analysis alone",
  ),
  "check": (
    _TEXT,
    None,
    "say what is wrong with the flags for so many devices, or SLICESxDEVICES,"
    " and stop; 0 = not known",
  ),
  "distributed": (
    _BOOL,
    False,
    "several processes, found by JAX: on TPU pods, Slurm, Open MPI, Kubernetes",
  ),
  "coordinator": (_TEXT, None, "several processes: host:port"),
  "num_processes": (_WHOLE, None, "several processes: how many"),
  "process_id": (_WHOLE, None, "several processes: this one"),
  "join_timeout": (
    _WHOLE,
    300,
    "several processes: seconds to wait until all are there",
  ),
}


def define(given: flags.FlagValues) -> None:
  """Adds all of them."""
  for name, (make, default, text) in _FLAGS.items():
    make(name, default, text, flag_values=given)
