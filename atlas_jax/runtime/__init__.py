"""The machine and the processes of a run: hosts, watchdog, preemption, allocator, memory, progress
bars and notes.
"""
