"""create.sh against a cloud that makes one wait, refuses, deletes and takes away."""

from tests.tpu_scripts.fakes import POD, answers

ABSENT = '!NOT_FOUND'


def test_waits_until_the_slice_is_there(cloud):
    cloud.plan(request=answers(ABSENT, ABSENT, 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'ACTIVE', 'ACTIVE'),
               state=answers(ABSENT, 'CREATING', 'READY'))
    result = cloud.run('create.sh', *POD, '--type', 'v4-128', '--spot', '--project', 'mine')
    assert result.returncode == 0 and 'ready' in result.stdout, result.stderr
    asked = [call for call in cloud.calls if 'queued-resources create' in call]
    assert len(asked) == 1
    assert all(piece in asked[0] for piece in ('--accelerator-type v4-128', '--spot', '--project mine', '--node-id pod'))


def test_slices_and_reservations(cloud):
    for arguments, asked in (
            (('--slices', '4', '--reserved'), 'gcloud compute tpus queued-resources create pod --zone us-central2-b '
             '--accelerator-type v4-8 --runtime-version tpu-ubuntu2204-base --node-count 4 --node-prefix pod --reserved'),
            (('--reservation', 'r', '--project', 'mine'), 'gcloud alpha compute tpus queued-resources create pod --zone us-central2-b '
             '--project mine --accelerator-type v4-8 --runtime-version tpu-ubuntu2204-base --node-id pod '
             '--reservation projects/mine/locations/us-central2-b/reservations/r')):
        shown = cloud.run('create.sh', *POD, '--type', 'v4-8', *arguments, '--dry-run')
        assert shown.stdout.splitlines()[0].strip() == asked


def test_does_not_ask_twice_and_replaces_what_was_taken_away(cloud):
    cloud.plan(request=answers('PROVISIONING', 'ACTIVE'), state=answers('READY'))
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0
    assert cloud.verbs == []
    cloud.plan(request=answers('SUSPENDING', 'SUSPENDED', 'SUSPENDED', 'DELETING', ABSENT, ABSENT, 'ACTIVE'),
               state=answers(ABSENT, 'READY'))
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0
    assert cloud.verbs == ['delete', 'create']


def test_a_request_that_has_lost_its_slice_is_replaced(cloud):
    cloud.plan(request=answers('ACTIVE', 'ACTIVE', ABSENT, ABSENT, 'ACTIVE'), state=answers('PREEMPTED', ABSENT, 'READY'))
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0
    assert cloud.verbs == ['delete', 'create']


def test_waits_while_the_old_one_is_being_deleted(cloud):
    cloud.plan(request=answers('DELETING', 'DELETING', ABSENT, ABSENT, ABSENT, 'ACTIVE'), state=answers('DELETING', ABSENT, 'READY'))
    result = cloud.run('create.sh', *POD, '--type', 'v4-8')
    assert result.returncode == 0, result.stderr
    assert cloud.verbs == ['create'] and 'DELETING' in result.stderr
    states = [call for call in cloud.calls if 'describe' in call or 'create' in call]
    # Two looks at a request that is being deleted and one at a slice that is, before the new request.
    assert next(index for index, call in enumerate(states) if 'queued-resources create' in call) >= 4


def test_says_when_it_is_refused_or_waits_too_long(cloud):
    cloud.plan(request=answers(ABSENT), state=answers(ABSENT), also={'queued-resources create': answers('!Quota exceeded')})
    result = cloud.run('create.sh', *POD, '--type', 'v4-8')
    assert result.returncode == 1 and 'Quota exceeded' in result.stderr and 'refused' in result.stderr
    cloud.plan(request=answers('WAITING_FOR_RESOURCES'))
    result = cloud.run('create.sh', *POD, '--type', 'v4-8', '--wait_minutes', '3')
    assert result.returncode == 1 and 'still WAITING_FOR_RESOURCES after 3 min' in result.stderr


def test_a_call_that_hangs_and_asks_all_the_same(cloud):
    cloud.plan(request=answers(ABSENT, ABSENT, 'ACCEPTED', 'ACTIVE'), state=answers(ABSENT, 'READY'),
               also={'queued-resources create': answers('!deadline exceeded')})
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0


def test_no_endless_loop(cloud):
    for request, state, said in ((['!backend error'], ['READY'], 'does not answer'), (['ACTIVE'], ['STOPPED'], 'is stopped'),
                                 ([ABSENT, ABSENT, 'FAILED'], [ABSENT], 'has failed')):
        cloud.plan(request=answers(*request), state=answers(*state))
        result = cloud.run('create.sh', *POD, '--type', 'v4-8')
        assert result.returncode == 1 and said in result.stderr, result.stderr
    assert len(cloud.naps) < 40
    # Taken away as soon as it is there, again and again.
    turn = [ABSENT, ABSENT, 'ACTIVE', 'ACTIVE']
    cloud.plan(request=answers(*turn * 6), state=answers(*[ABSENT, 'PREEMPTED'] * 6))
    result = cloud.run('create.sh', *POD, '--type', 'v4-8')
    assert result.returncode == 1 and 'asked 5 times' in result.stderr
