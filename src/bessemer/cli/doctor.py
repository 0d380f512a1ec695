"""bessemer doctor"""

from __future__ import annotations

from bessemer.cli.options import Json, print_json, print_table
from bessemer.errors import EXIT_CODES


def doctor(json: Json = False) -> int:
    """Check Python, memory, disk, torch, GPU and cache, and say what to do."""
    from bessemer.launch.doctor import examine

    findings = examine()
    if json:
        print_json([vars(f) for f in findings])
    else:
        rows = [["ok" if f.ok else "PROBLEM", f.what, f.found, f.fix] for f in findings]
        print_table("Doctor", ["", "what", "found", "what to do"], rows)
    return EXIT_CODES["ok"] if all(f.ok for f in findings) else EXIT_CODES["user"]
