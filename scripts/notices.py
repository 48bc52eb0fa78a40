"""The licences of every Python package of an environment, with their texts: for the image's THIRD-PARTY-NOTICES."""

from importlib.metadata import distributions

for found in sorted(distributions(), key=lambda one: one.name.lower()):
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or "see below"
    print(f"{'=' * 100}\n{found.name} {found.version}: {licence.splitlines()[0]}")
    for path in found.files or ():
        if ".dist-info" in str(path) and any(word in path.name.upper() for word in ("LICEN", "NOTICE", "COPYING")):
            print(f"{'-' * 100}\n{path.read_text(encoding='utf-8')}")
