"""Searchers of an index: in the graph (in_graph.py) and on the host (on_host.py)."""
