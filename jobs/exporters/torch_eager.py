"""Engines that run the model folder itself: their build is a note that says so, and takes no room."""

from __future__ import annotations

import json
from pathlib import Path

from deshi.serve.serving import MODEL_FOLDER

NOTE_FILE = "build.json"


def export_note(out_folder: Path) -> None:
    """Writes `out_folder`/build.json, which names the model folder beside the builds."""
    out_folder.mkdir(parents=True, exist_ok=True)
    (out_folder / NOTE_FILE).write_text(json.dumps({"model": f"../../{MODEL_FOLDER}"}) + "\n", encoding="utf-8")
