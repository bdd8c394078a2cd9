"""Evaluates models and searchers, and turns results into figures and pages."""
