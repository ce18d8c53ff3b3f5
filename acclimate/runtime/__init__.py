"""The process itself: device, precision, memory, ranks, progress."""
