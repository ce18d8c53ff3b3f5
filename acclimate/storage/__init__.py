"""Files that are either whole or absent, and tensors that are refused if changed."""
