"""What a guard goes by: signals, a calibration, verdicts, estimates, changes; all without labels."""
