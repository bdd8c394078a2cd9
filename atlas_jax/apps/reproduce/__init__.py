"""Makes a row of the paper's tables: prepares data, trains, evaluates, and compares our figures
with the paper's.
"""
