"""`testbed clean`: remove results and, if asked, the cache. Nothing else is ever left behind."""

import json
import shutil
from pathlib import Path

import click

from testbed.session import MARK, cache_folder


def run_folders(runs: Path) -> list[Path]:
    """Folders below `runs` that a session made, by their mark and never by their name."""
    if not runs.is_dir():
        return []
    return sorted(
        folder for folder in runs.iterdir() if (folder / MARK).is_file() and not folder.is_symlink()
    )


def cached_files() -> list[Path]:
    """KV kept between runs, parts of killed runs included."""
    folder = cache_folder()
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


@click.command("clean")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Folder of results.",
)  # fmt: skip
@click.option("--cache", is_flag=True, help="Also remove the KV kept between runs.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="What went, as JSON.")
def command(runs: Path, cache: bool, dry_run: bool, as_json: bool) -> None:
    """Remove run folders, and with --cache the KV cache."""
    doomed = run_folders(runs)
    files = cached_files()
    size_bytes = sum(path.stat().st_size for path in files)
    if not dry_run:
        for folder in doomed:
            shutil.rmtree(folder)
        for path in files if cache else ():
            path.unlink(missing_ok=True)
    said = {
        "runs": [str(folder) for folder in doomed],
        "cache_files": len(files),
        "cache_bytes": size_bytes,
        "cache_removed": cache and not dry_run,
        "removed": not dry_run,
    }
    if as_json:
        click.echo(json.dumps(said))
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {len(doomed)} run folders")
    kept = verb if cache else "kept (--cache removes them)"
    click.echo(f"{kept} {len(files)} cached openings, {size_bytes / 1e6:.1f} MB")
