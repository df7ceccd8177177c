"""Distillation of a small monoT5 from soft labels: phase 1 and phase 2 are the same function with other inputs."""
