"""The demos' fetch scripts as modules, and an encoder folder small enough for a test."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """examples/<name>/fetch.py, loaded anew."""

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_fetch", EXAMPLES / name / "fetch.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A model folder with the files that the package has."""
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel

    folder = tmp_path / "encoder"
    config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    BertModel(config).save_pretrained(folder)
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    for name in ("special_tokens_map.json", "tokenizer_config.json", "modules.json"):
        (folder / name).write_text("{}")
    (folder / "vocab.txt").write_text("[UNK]")
    return folder
