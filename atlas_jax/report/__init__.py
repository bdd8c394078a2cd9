"""Metric logs, profiles, and self-contained HTML reports."""
