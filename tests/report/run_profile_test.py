"""How well devices are used, and profiles of what is not a run; tests/train_test.py profiles one."""

import jax

from atlas_jax.report import run_profile


def test_a_profile_without_the_step_does_not_end_the_run(tmp_path, capsys):
    with run_profile.Profile(str(tmp_path)) as profile:
        for number in range(run_profile.FIRST_STEP + run_profile.STEPS):
            with profile.step(number):
                jax.numpy.ones(3).block_until_ready()
    assert 'where the time went is not known: the profile holds no operation of train_step' in capsys.readouterr().out


def test_utilisation_is_a_share_of_the_peak_of_all_devices(monkeypatch):
    assert run_profile.utilisation(3e12, 2.0) == {'tflops_per_second': 1.5}
    monkeypatch.setattr(jax, 'devices', lambda: [type('Device', (), {'device_kind': 'TPU v4'})()] * 4)
    monkeypatch.setattr(jax, 'device_count', lambda: 4)
    assert run_profile.utilisation(2 * 4 * 137.5e12, 2.0)['mfu'] == 0.5
