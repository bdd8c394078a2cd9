"""keep_running.sh against preemptions, failures, silence, and two workers that do not end together."""

from tests.tpu_scripts.fakes import POD, TRAIN, answers

GONE = answers('!NOT_FOUND')
KEEP = ('keep_running.sh', *POD, '--type', 'v4-8')
COPY = ('--from', 'gs://my-bucket/t5', '--to', 't5')


def _keep(cloud, *arguments, **environment):
    return cloud.run(*KEEP, *arguments, *TRAIN, **environment)


def test_survives_preemption_and_silence_and_deletes_the_pod(cloud):
    ready = ['READY'] * 4
    cloud.plan(request=answers('ACTIVE', 'SUSPENDED', 'SUSPENDED', '!NOT_FOUND', '!NOT_FOUND', 'ACTIVE', '!NOT_FOUND'),
               # before it starts, in create.sh; then the looks: running, no answer, taken away; the new one; 75 and launched again; done
               state=answers('!NOT_FOUND', 'READY', 'READY', '!backend error', 'PREEMPTED', '!NOT_FOUND', *ready),
               run=answers('run: RUNNING', 'run: 75', 'run: 0'))
    result = _keep(cloud, '--spot', '--logs', 'gs://my-bucket/logs', *COPY)
    assert result.returncode == 0 and 'after 2 restarts' in result.stdout, result
    assert cloud.verbs == ['set_up', 'copy', 'launch', 'delete', 'create', 'set_up', 'copy', 'launch', 'end', 'launch', 'delete']
    launched = [call for call in cloud.calls if 'run_host.sh start' in call]
    assert all('gs://my-bucket/run' in call and '--logs gs://my-bucket/logs --' in call for call in launched)
    assert 'gone' in result.stdout


def test_failures_start_again(cloud):
    runs = ['run: NONE', *(f'run: {code}' for code in ('1', '134', '137', 'LOST')), 'run: RUNNING', 'run: 0']
    cloud.plan(request=answers('ACTIVE'), state=answers('READY'), run=answers(*runs))
    result = _keep(cloud, '--keep', '--failures', '4')
    assert result.returncode == 0 and 'after 4 restarts' in result.stdout
    assert cloud.verbs == ['set_up', 'launch'] + ['end', 'launch'] * 4 + ['fetch'] and 'the pod stays, and costs' in result.stderr


def test_failures_have_a_budget(cloud):
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers('run: NONE', 'run: 1'))
    result = _keep(cloud, '--failures', '2')
    assert result.returncode == 1 and 'given up after 3 failures, the last with 1' in result.stderr
    assert cloud.verbs == ['set_up', 'launch'] + ['end', 'launch'] * 2 + ['fetch', 'delete']


def test_a_mistake_in_the_command_ends_it_and_deletes_the_pod(cloud):
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers('run: NONE', 'run: 2\nrun: 75'))
    result = _keep(cloud)
    assert result.returncode == 1 and 'exit code 2' in result.stderr
    # The log is fetched first: it would go with the pod.
    assert cloud.verbs == ['set_up', 'launch', 'fetch', 'delete'] and 'scp --recurse pod:atlas_jax/logs pod-logs' in ' '.join(cloud.calls)


def test_restarts_end_and_the_pauses_between_them_grow(cloud):
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers('run: NONE', 'run: 75'))
    result = _keep(cloud, '--restarts', '8', POLL_S='7')
    assert result.returncode == 1 and 'given up after 8 restarts' in result.stderr and cloud.verbs[-1] == 'delete'
    assert [nap for nap in cloud.naps if nap != 7] == [30, 60, 120, 240, 480, 960, 1800, 1800]


def test_a_pause_is_short_again_after_a_long_run(cloud):
    looks = ['run: NONE', 'run: 75', 'run: 75', *['run: RUNNING'] * 3, 'run: 75', 'run: 0']
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers(*looks))
    assert _keep(cloud, POLL_S='601').returncode == 0
    assert [nap for nap in cloud.naps if nap != 601] == [30, 60, 30]


def test_no_endless_loop_where_nobody_answers(cloud):
    # gcloud is silent; then the pod is there and its workers are silent: it is replaced.
    cloud.plan(request=answers('ACTIVE', '!backend error'), state=answers('READY', 'READY', '!backend error'), run=answers('run: NONE'))
    result = _keep(cloud, '--silence_minutes', '5')
    assert result.returncode == 1 and 'no answer from gcloud for 5 min' in result.stderr
    assert cloud.verbs[-3:] == ['delete'] * 3 and 'MAY STILL COST' in result.stderr and len(cloud.naps) < 12
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND', 'ACTIVE', '!NOT_FOUND'), state=answers('READY'),
               run=answers('run: NONE', *['!255'] * 6, 'run: 0'))
    before = len(cloud.verbs)
    result = _keep(cloud, '--silence_minutes', '5')
    assert result.returncode == 0 and cloud.verbs[before:] == ['set_up', 'launch', 'delete', 'set_up', 'launch', 'fetch', 'delete'], result


def test_what_cannot_start_costs_nothing(cloud):
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers('run: NONE'),
               also={'storage rsync': answers('!403')})
    result = _keep(cloud, *COPY)
    assert result.returncode == 1 and 'could not start' in result.stderr and cloud.verbs[-1] == 'delete'


def test_a_pod_on_which_nothing_starts_is_a_failure_at_once(cloud):
    # Nothing would be seen there but silence, for hours.
    cloud.plan(request=answers('ACTIVE', 'ACTIVE', '!NOT_FOUND'), state=answers('READY'), run=answers('run: NONE', 'run: 75'),
               also={'run_host.sh end': answers('!reset'), 'set_up_host.sh': answers('', '!no space left')})
    result = _keep(cloud, '--failures', '1', TRIES='1')
    assert result.returncode == 1 and 'given up after 2 failures, the last with UNSTARTED' in result.stderr
    assert cloud.verbs == ['set_up', 'launch', 'end', 'set_up', 'fetch', 'delete']


def test_given_again_it_watches_the_run_that_goes_on_and_no_other(cloud):
    checkout, = cloud.workers(1)
    cloud.plan(request=answers('!NOT_FOUND'), state=answers('READY'))
    command = ('sh', '-c', 'until [ -e go ]; do sleep 0.05; done', 'a b')
    assert cloud.run('launch.sh', *POD, '--', *command).returncode == 0
    result = cloud.run(*KEEP, '--', *command[:3])
    assert result.returncode == 2 and 'another command is running' in result.stderr and cloud.verbs == ['launch']
    cloud.program('nap', f'touch {checkout}/go; sleep 0.2')
    result = cloud.run(*KEEP, '--', *command)
    assert result.returncode == 0 and 'watching the run' in result.stderr and cloud.verbs == ['launch', 'fetch', 'delete']


def test_an_interrupt_ends_the_watching_alone(cloud):
    cloud.plan(request=answers('ACTIVE'), state=answers('READY'), run=answers('run: NONE', 'run: RUNNING'))
    cloud.program('nap', 'kill -TERM $PPID; sleep 0.1')
    result = _keep(cloud)
    assert result.returncode == 130 and 'costs until tear_down.sh' in result.stderr and cloud.verbs == ['set_up', 'launch']


def test_workers_that_still_end_are_waited_for_and_then_killed(cloud):
    """Worker 0 ends with 75 at once, worker 1 never. A second launch is good on both."""
    checkouts = cloud.workers(2)
    for checkout, slow in zip(checkouts, ('', 'trap "" TERM; while true; do sleep 0.05; done'), strict=True):
        (checkout / 'train').write_text(
            f'#!/usr/bin/env bash\necho turn >> turns\n[ "$(wc -l < turns)" -gt 1 ] && exit 0\n{slow}\nexit 75\n')
        (checkout / 'train').chmod(0o755)
    cloud.plan(request=answers('ACTIVE', '!NOT_FOUND'), state=answers('READY'), also={'set_up_host.sh': [{}]})
    # Were worker 0 launched again at once, it would find a worker that takes no part, and worker 1 would not be launched.
    result = cloud.run(*KEEP, '--', './train', POLL_S='1', END_WAIT_S='2', END_AFTER_S='1', NAP='sleep', FIRST_PAUSE_S='0')
    assert result.returncode == 0 and 'after 1 restarts' in result.stdout, result
    assert all((checkout / 'turns').read_text().count('turn') == 2 for checkout in checkouts)
    assert cloud.verbs == ['set_up', 'launch', 'end', 'launch', 'fetch', 'delete']
    # One log a launch.
    assert len(list((cloud.folder / 'pod-logs' / 'logs').iterdir())) == 2
