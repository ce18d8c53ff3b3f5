"""Corrupted sets that `acclimate corrupt` writes and `acclimate.data.load` reads.

They lie in the layouts in which the benchmark is published. Small images: ``<corruption>.npy``, the
severities one behind another, and ``labels.npy``. Large ones:
``<corruption>/<severity>/<class>/<image>``. Beside them ``manifest.json`` says what was made of
what, by which constants, and the checksum of each array or folder.
"""
