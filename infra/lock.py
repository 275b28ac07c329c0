"""Write ``requirements.lock`` and ``requirements-dev.lock``: exact versions of what the running environment has.

``python -m infra.lock`` walks from pyproject.toml's dependencies through the installed packages' own requirements, so a
package that nothing needs is not locked, and one that is missing is an error.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def closure(requirements: list[str]) -> dict[str, str]:
    """Return {package: version} of all that ``requirements`` need, as installed here.

    Raises:
        ConfigError: a needed package is not installed.
    """
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigError(f"{name} is needed and not installed; install it and lock again") from error
        found[name] = package.version
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in package.requires or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    return found


def write_locks(root: Path = ROOT) -> None:
    """Write both lock files; the second holds only what the first does not."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    runtime = closure([*project["dependencies"], "setuptools"])
    dev = closure(project["optional-dependencies"]["dev"])
    _write(root / "requirements.lock", runtime, "All that the system needs at run time.")
    extra = {name: version for name, version in dev.items() if name not in runtime}
    _write(root / "requirements-dev.lock", extra, "What tests and linting need besides requirements.lock.")


def _write(path: Path, packages: dict[str, str], title: str) -> None:
    lines = [f"# {title} Written by `make lock`; change pyproject.toml instead."]
    lines += [f"{name}=={version}" for name, version in sorted(packages.items()) if name not in ("pip", "wheel")]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_locks()
