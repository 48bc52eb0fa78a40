"""Which nodes are dead: never by one observer alone, never more than half at once, and not for good."""

from porter_ha.core.liveness import MISSES, REJOIN_S, Liveness


def liveness(*names):
    made = Liveness()
    made.set_nodes(names or ["a", "b", "c", "d"])
    made.answered(set(made.nodes), 0.0)
    return made


def miss(made, *names, times=MISSES):
    for _ in range(times):
        made.missed(names)


def test_four_misses_here_and_at_one_more():
    made = liveness()
    miss(made, "a", times=MISSES - 1)
    assert made.judge({"x": frozenset({"a"})}, 1.0) == frozenset()
    miss(made, "a", times=1)
    assert made.silent() == {"a"}
    assert made.judge({"x": frozenset()}, 1.0) == frozenset()
    assert made.judge({"x": frozenset(), "y": frozenset({"a"})}, 1.0) == {"a"}


def test_an_observer_that_hears_nobody_decides_nothing_unless_it_is_the_only_one():
    made = liveness()
    miss(made, "a")
    assert made.judge({"x": None}, 1.0) == frozenset()
    assert made.judge({}, 1.0) == {"a"}


def test_an_answer_between_starts_the_count_anew():
    made = liveness()
    miss(made, "a", times=3)
    made.answered({"a"}, 1.0)
    miss(made, "a", times=3)
    assert made.silent() == frozenset()


def test_more_than_half_silent_at_once_is_our_own_fault_even_if_one_is_noticed_first():
    made = liveness()
    miss(made, "b", "c", times=MISSES - 1)
    miss(made, "a")
    assert made.silent() == {"a"}
    assert made.judge({"x": frozenset({"a"})}, 1.0) == frozenset()
    miss(made, "b", "c", times=1)
    assert made.judge({"x": frozenset({"a", "b", "c"})}, 1.0) == frozenset()
    assert made.holding
    made.answered({"b"}, 2.0)
    made.answered({"c"}, 2.0)
    assert made.judge({"x": frozenset({"a"})}, 2.0) == {"a"}


def test_a_node_comes_back_after_a_while_of_answers_and_later_each_time():
    made = liveness()
    now = 0.0
    for patience in (REJOIN_S, 2 * REJOIN_S, 4 * REJOIN_S):
        miss(made, "a")
        assert made.judge({"x": frozenset({"a"})}, now) == {"a"}
        made.answered({"a"}, now)
        assert made.judge({"x": frozenset()}, now + patience - 0.1) == {"a"}
        now += patience
        assert made.judge({"x": frozenset()}, now) == frozenset()


def test_a_node_that_never_answered_is_not_judged():
    made = Liveness()
    made.set_nodes(["a"])
    miss(made, "a", times=20)
    assert made.silent() == {"a"}, "others may have heard it"
    assert made.judge({}, 9.0) == frozenset()


def test_a_node_that_the_api_took_away_is_forgotten():
    made = liveness()
    miss(made, "a")
    made.judge({}, 1.0)
    made.set_nodes(["b", "c", "d"])
    assert made.judge({}, 1.0) == frozenset()
