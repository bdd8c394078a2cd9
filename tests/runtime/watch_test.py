"""Dead and hanging processes, judged by each process's last message."""

from atlas_jax.runtime import watch


def _judge(sayings, hang_seconds=100, dead_seconds=10, processes=1):
    """The first reason to end, over (now, {process: (count, position)})."""
    watching = watch.Watch(hang_seconds, dead_seconds, processes=processes)
    for now, said in sayings:
        told = {process: f'{count} {position} host{process}' for process, (count, position) in said.items()}
        if verdict := watching.judge(told, now):
            return now, verdict
    return None


def test_all_go_on():
    assert _judge([(5 * i, {0: (i, i), 1: (i, i), 2: (i, i // 2)}) for i in range(40)]) is None


def test_a_silent_process_is_named_with_its_host():
    now, verdict = _judge([(5 * i, {0: (i, 3), 1: (min(i, 2), 3)}) for i in range(40)])
    assert now == 25 and verdict.startswith('process 1 (host1) is dead')


def test_those_furthest_behind_hang():
    now, verdict = _judge([(5 * i, {0: (i, min(i, 5)), 1: (i, min(i, 4)), 2: (i, min(i, 4))}) for i in range(80)])
    assert verdict.startswith('process 1 (host1), 2 (host2) hangs: at 4') and now == 125


def test_a_process_that_has_not_spoken_yet_is_not_judged():
    assert _judge([(5 * i, {0: (i, i)}) for i in range(40)], processes=2) is None


def test_a_process_that_never_comes_is_what_holds_up_the_others():
    now, verdict = _judge([(5 * i, {0: (i, min(i, 3))}) for i in range(80)], processes=2)
    assert verdict == 'process 1 has not been heard from at all' and now == 120


def test_one_process_needs_no_watch():
    with watch.Watch(0.01, 0.01, end=lambda reason: 1 / 0) as watching:
        watching.beat(1)
