"""Tests of the list of checkpoint files: it contains each file that transformers asks for, and all uses of it agree."""

import os
import shutil
import sys

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES
from transformers.utils import hub

from icl_lens.errors import InputError
from icl_lens.hub import checkpoints, converted, fetched
from icl_lens.models import loading
from icl_lens.tools import model_identity

from ..families import FAMILIES, tiny

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Files that tell where the model comes from. They are recorded in its provenance, and are checked against the other files.
RECORDS = (fetched.RECORD, converted.RECORD)

OPENED: list[str] | None = None


def note_open(event, arguments):
    if OPENED is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(note_open)  # a hook cannot be removed


def is_listed(name):
    return checkpoints.is_description(name) or name in (*WEIGHTS, *RECORDS)


@pytest.fixture
def files_of_load(monkeypatch):
    """Return a function that loads a folder, and returns the names of the files that were opened or asked for."""

    def load(folder):
        global OPENED
        asked = set()
        ask = hub.cached_files

        def note(*arguments, **named):
            asked.update(named["filenames"] if "filenames" in named else arguments[1])
            return ask(*arguments, **named)

        monkeypatch.setattr(hub, "cached_files", note)
        OPENED = []
        try:
            loading.load(folder)
            opened = {os.path.relpath(path, folder) for path in OPENED if os.path.realpath(path).startswith(f"{folder}/")}
        finally:
            OPENED = None
        assert "config.json" in opened
        assert "chat_template.jinja" in asked
        return asked | opened

    return load


@pytest.mark.parametrize("family", FAMILIES)
def test_each_file_that_loading_asks_for_is_listed(family, tokenizer, tmp_path, files_of_load):
    folder = tmp_path.resolve() / family
    tiny(family, len(tokenizer) + 8).save_pretrained(folder)  # the Qwen2 tokenizer adds a token
    tokenizer.save_pretrained(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ messages }}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    names = files_of_load(folder)
    assert "additional_chat_templates/tool_use.jinja" in names
    assert [name for name in names if not is_listed(name)] == []


def test_each_vocabulary_file_of_a_fast_tokenizer_is_listed():
    classes = set()
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        names = TOKENIZER_MAPPING_NAMES.get(family) or ()
        found = (getattr(transformers, name, None) for name in ((names,) if isinstance(names, str) else names) if name)
        classes |= {each for each in found if isinstance(each, type) and issubclass(each, transformers.PreTrainedTokenizerFast)}
    assert len(classes) > 10
    # Whisper is a speech model; its normalizer.json is for transcripts.
    names = {file for each in classes for file in each.vocab_files_names.values()} - {"normalizer.json"}
    assert [name for name in names if not is_listed(name)] == []


def test_a_changed_template_changes_the_hash_of_the_checkpoint_and_the_identity_of_the_tokenizer(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    hashes, tokenizers = set(), set()
    for template in ("{{ messages }}", "{{ messages }}!"):
        for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(template)
            model = loading.load(folder)
            hashes.add(model.facts["files"])
            tokenizers.add(model_identity.identify(model, folder).tokenizer)
            assert model.facts["files"] == checkpoints.checkpoint_hash(folder)
    assert len(hashes) == len(tokenizers) == 4


def record(folder, **changed):
    files = {path.name: path.read_bytes() for path in checkpoints.checkpoint_files(folder)}
    from hashlib import sha256

    listed = {name: {"size": len(content), "sha256": sha256(content).hexdigest()} for name, content in files.items()}
    (folder / fetched.RECORD).write_text(fetched.Fetched("owner/tiny", "main", "0" * 40, listed | changed).text())


def test_a_fetched_model_must_be_the_fetched_one(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    record(folder)
    assert loading.load(folder).facts["hub"] == "owner/tiny"
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors differs from the file that .*fetched.json lists; delete both"):
        loading.load(folder)
    content[-1] ^= 1
    weights.write_bytes(content)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match=r"chat_template.jinja is not listed in .*fetched.json; remove it"):
        loading.load(folder)
