"""The control plane over HTTP, at /api/v1: docs/api.md describes it."""
