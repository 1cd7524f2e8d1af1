"""Carries plans out: the store of frozen outputs, the one training loop, solves, checkpoints.

The engine never knows a method's name.
"""
