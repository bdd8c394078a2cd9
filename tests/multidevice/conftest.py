"""These tests need 8 fake devices, so a process of their own: tests/multidevice_test.py starts it."""

import os

FLAG = '--xla_force_host_platform_device_count=8'
collect_ignore_glob = [] if FLAG in os.environ.get('XLA_FLAGS', '') else ['*_test.py']
