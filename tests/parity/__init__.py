"""Replays recorded reference vectors through our model: ``python -m tests.parity FOLDER``.

Any folder in the format of the vectors' README will do: sizes, seeds and images are read from it.
"""
