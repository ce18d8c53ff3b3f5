"""What a guard goes by, all without labels: signals, a calibration, verdicts, estimates, changes."""
