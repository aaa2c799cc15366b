"""What writes a file when it is unpickled."""

from pathlib import Path


class Malicious:
    """Opening the path for writing is its restoration."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")
