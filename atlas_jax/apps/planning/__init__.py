"""Planning a step for a TPU slice on a machine without one: the real program, compiled ahead of
time from shapes alone.
"""
