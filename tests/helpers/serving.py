"""Settings of a small service."""

from acclimate.serve.settings import ServeSettings

SETTINGS = ServeSettings(batch=8, wait_ms=2, in_memory=4, request_images=32)
