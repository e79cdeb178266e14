"""Contracts, hooks, the host, built-in components and the conformance kit."""
