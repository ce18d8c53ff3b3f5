"""Adaptation as a service: many streams of images, each adapted to apart from the others."""
