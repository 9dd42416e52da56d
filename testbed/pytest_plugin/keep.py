"""What a failed test leaves for whoever looks into it: logs, captures, results."""

import shutil
from pathlib import Path

WORTH_KEEPING = ("*.log", "*.pcap", "*.pcapng", "*.json", "*.yaml", "*.jsonl")


def keep(folder: Path, target: Path) -> list[Path]:
    """Copy what is worth keeping; what a former failure left in the target goes."""
    shutil.rmtree(target, ignore_errors=True)
    kept = []
    for path in sorted({found for pattern in WORTH_KEEPING for found in folder.rglob(pattern)}):
        if path.suffix == ".log" and not path.stat().st_size:
            continue  # of a program that said nothing
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
        kept.append(copy)
    return kept
