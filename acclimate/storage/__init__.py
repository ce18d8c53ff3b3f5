"""Atomic file writes, and tensor files with checksums."""
