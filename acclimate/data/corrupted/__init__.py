"""Corrupted data sets, written by `acclimate corrupt` and read by `acclimate.data.load`.

Their layouts are those of the published benchmarks. Small images: ``<corruption>.npy``, which
stacks all severities, and ``labels.npy``. Large images:
``<corruption>/<severity>/<class>/<image>``. ``manifest.json`` records the source images, the
constants, and the checksum of each array or folder.
"""
