"""Engines: execute requests. Each file is its own registration and has one verb, `run`."""
