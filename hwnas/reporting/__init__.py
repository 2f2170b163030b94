"""Reporting: one offline HTML page per run, and tables for the terminal."""
