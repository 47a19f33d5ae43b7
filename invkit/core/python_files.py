"""Python files of a reader's own, loaded by their path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(path: str | Path) -> ModuleType:
    """The module in a file, run anew; what lies beside the file can be imported by it.

    Args:
        path: A file that ends in ``.py``.

    Returns:
        The module, known to Python under a name of its own: dataclasses look theirs up.

    Raises:
        FileNotFoundError: Where there is no such file. What the file itself raises is passed on.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.py"
    >>> _ = path.write_text("seven = 7")
    >>> load_file(path).seven
    7
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    source = importlib.util.spec_from_file_location(name, path)
    assert source is not None  # by its suffix it is a Python file
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        source.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
