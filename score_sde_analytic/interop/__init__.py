"""Where people already work: other packages' networks, samplers, schedulers and files, each in a module of its own.

A module is imported on demand; what it needs of the other package is said where it is absent.
"""

__all__: list[str] = []
