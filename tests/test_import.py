"""Whatever of the library is used first, it can be imported."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import sys
import thalweg
first = {module: name for name, module in reversed(thalweg._WHERE.items())}
for module, name in first.items():
    for loaded in [m for m in sys.modules if m.split(".")[0] == "thalweg"]:
        del sys.modules[loaded]
    import thalweg
    getattr(thalweg, name)
thalweg.list_techniques()
print(len(first))
"""


def test_every_public_module_can_be_the_first() -> None:
    """Names are looked up when asked for, so each may be the first to load the rest."""
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=os.environ, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 30
