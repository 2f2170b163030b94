"""Contract suites for authors of runtimes, spaces and strategies."""
