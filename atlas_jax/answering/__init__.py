"""Questions in, answers out: the public API, batches for the steps, and the confidence of answers.
"""
