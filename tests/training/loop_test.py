"""The loop: what is read when, who acts when, where it stops and resumes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Hook
from llm_jax.ops.metrics import Mean
from llm_jax.training import loop
from tests.training import quadratic


class Counter:
  """A state that counts its steps, and writes down what happens."""

  def __init__(self):
    self.log = []

  def step(self, state, batch):
    self.log.append(("step", state.step + 1))
    metrics = {"loss": Mean.sum(jnp.float32(10 * (state.step + 1)))}
    return State(state.step + 1), metrics

  def next(self, state):
    self.log.append(("next", state.step + 1))


class State:
  def __init__(self, step=0):
    self.step = step


class Watch(Hook):
  """A hook due at the steps given."""

  def __init__(self, log, due=(), name=""):
    self.log, self.wanted, self.name = log, due, name
    self.losses = {}

  def read(self, step, numbers):
    self.log.append((f"read{self.name}", step))
    assert step not in self.losses
    self.losses[step] = numbers["loss"]

  def due(self, step):
    return step in self.wanted

  def act(self, step, state):
    assert state.step == step
    self.log.append((f"act{self.name}", step))


def run(due=(), until=3, train=loop.train, **kwargs):
  counter = Counter()
  watch = Watch(counter.log, due)
  state = train(State(), counter.step, counter, [watch], until, **kwargs)
  return state, counter.log, watch


def eager(state, step, source, hooks, until):
  """The mutant: reads each step's numbers before the next is dispatched."""
  while state.step < until:
    state, metrics = step(state, source.next(state))
    for hook in hooks:
      hook.read(state.step, {k: m.compute() for k, m in metrics.items()})
  return state


def test_numbers_are_read_one_step_late_under_their_own_step():
  order = [
    *[("next", 1), ("step", 1)],
    *[("next", 2), ("step", 2), ("read", 1)],
    *[("next", 3), ("step", 3), ("read", 2)],
    ("read", 3),
  ]
  state, log, watch = run()
  assert log == order and state.step == 3
  assert watch.losses == {1: 10, 2: 20, 3: 30}
  assert run(train=eager)[1] != order


def test_a_state_is_acted_on_after_its_own_numbers_are_read():
  _, log, watch = run(due=(2, 3), until=4)
  assert log == [
    *[("next", 1), ("step", 1)],
    *[("next", 2), ("step", 2), ("read", 1), ("read", 2), ("act", 2)],
    *[("next", 3), ("step", 3), ("read", 3), ("act", 3)],
    *[("next", 4), ("step", 4), ("read", 4)],
  ]
  assert watch.losses == {i: 10 * i for i in range(1, 5)}


def test_hooks_read_then_act_in_their_order():
  counter = Counter()
  hooks = [
    Watch(counter.log, (1,), " a"),
    Watch(counter.log, (), " b"),
    Watch(counter.log, (1,), " c"),
  ]
  loop.train(State(), counter.step, counter, iter(hooks), 1)
  said = [event for event, _ in counter.log[2:]]
  assert said == ["read a", "read b", "read c", "act a", "act c"]


def test_a_hook_that_stops_leaves_later_hooks_unacted():
  counter = Counter()
  save = Watch(counter.log, (1, 2, 3))

  class Stops(Watch):
    def read(self, step, numbers):
      if step == 2:
        raise FloatingPointError

  with pytest.raises(FloatingPointError):
    loop.train(State(), counter.step, counter, [Stops(counter.log), save], 9)
  assert [s for e, s in counter.log if e == "act"] == [1]


class Waits(Watch):
  """A hook whose source must not run ahead of it."""

  @property
  def waits(self):
    return True


def test_a_hook_may_have_batches_wait_for_what_it_reads():
  counter = Counter()
  hooks = [Watch(counter.log, (), " a"), Waits(counter.log, (), " b")]
  loop.train(State(), counter.step, counter, hooks, 2)
  assert counter.log == [
    *[("next", 1), ("step", 1), ("read a", 1), ("read b", 1)],
    *[("next", 2), ("step", 2), ("read a", 2), ("read b", 2)],
  ]
  # The mutant is the loop that nobody asks to wait, above.
  assert run(until=2)[1].index(("next", 2)) < run(until=2)[1].index(("read", 1))


class Rescues(Watch):
  """A hook that keeps what a failing source leaves."""

  def rescue(self, step, state, error):
    assert state.step == step
    self.log.append((f"rescue {error}", step))


@pytest.mark.parametrize("bad", [None, 2])
def test_of_a_source_that_fails_the_state_is_rescued(bad):
  """Once its numbers are read, and only if these are good."""
  counter = Counter()

  class Fails:
    def next(self, state):
      if state.step == 2:
        raise ValueError("nobody judges")
      return counter.next(state)

  class Stops(Watch):
    def read(self, step, numbers):
      if step == bad:
        raise FloatingPointError

  rescues = Rescues(counter.log)
  with pytest.raises(FloatingPointError if bad else ValueError):
    loop.train(State(), counter.step, Fails(), [Stops([]), rescues], 9)
  rescued = [("read", 2), ("rescue nobody judges", 2)]
  assert counter.log[-1] == (("read", 1) if bad else rescued[1])
  assert (counter.log[-2:] == rescued) != bool(bad)


def test_stop_is_asked_before_each_step_and_finishes_the_last():
  asked = []
  stop = lambda done: asked.append(done) or done == 2
  state, log, watch = run(until=9, stop=stop)
  assert asked == [0, 1, 2] and state.step == 2
  assert watch.losses == {1: 10, 2: 20}
  assert ("next", 3) not in log  # no batch is taken and lost


def test_a_source_that_ends_ends_the_run():
  counter = Counter()
  watch = Watch(counter.log)
  create, step = quadratic.make()
  state = loop.train(create(), step, quadratic.Rows(end=3), [watch], 9)
  assert int(state.step) == 3 and list(watch.losses) == [1, 2, 3]


def test_nothing_is_left_to_do():
  state, log, _ = run(due=(0,), until=0)
  assert state.step == 0 and log == []


class Keep(Watch):
  """Keeps a host copy of the state, and the source's position, at a step."""

  def __init__(self, at, source):
    super().__init__([], (at,))
    self.source = source

  def act(self, step, state):
    bits = lambda x: jax.random.key_data(x) if x.dtype == state.key.dtype else x
    self.kept = jax.tree.map(lambda x: np.array(bits(x)), state)
    self.position = self.source.get_state()


def trained(until, from_=None, position=None):
  """(losses, kept at step 3, last state) of the noisy quadratic."""
  create, step = quadratic.make(noise=0.5, average=0.9)
  source = quadratic.Rows()
  if position is not None:
    source.set_state(position)
  state = create()
  if from_ is not None:
    like = lambda x, new: (
      jax.random.wrap_key_data(new)
      if x.dtype == state.key.dtype
      else jnp.asarray(new)
    )
    state = jax.tree.map(like, state, from_)
  keep = Keep(3, source)
  state = loop.train(state, step, source, [keep], until)
  return keep.losses, keep, (state.trainable, state.opt_state, state.average)


def test_resumed_is_uninterrupted_to_the_last_bit():
  losses, keep, want = trained(7)
  assert keep.position == {"done": 3}  # not one batch ahead
  again, _, got = trained(7, keep.kept, keep.position)
  assert again == {i: losses[i] for i in range(4, 8)}
  chex.assert_trees_all_equal(got, want)


def test_a_resume_that_forgets_something_is_caught():
  _, keep, want = trained(7)
  create, _ = quadratic.make(noise=0.5, average=0.9)
  fresh = jax.tree.map(np.asarray, create().opt_state)
  for mutant in (
    (keep.kept, {"done": 0}),
    (dataclasses.replace(keep.kept, opt_state=fresh), keep.position),
    (
      dataclasses.replace(keep.kept, key=np.array([0, 8], np.uint32)),
      keep.position,
    ),
    (
      dataclasses.replace(keep.kept, average=keep.kept.trainable),
      keep.position,
    ),
  ):
    with pytest.raises(AssertionError):
      chex.assert_trees_all_equal(trained(7, *mutant)[2], want)
