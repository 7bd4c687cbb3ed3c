"""Engines execute specs: `local` on this machine, each run in a process of its own."""
