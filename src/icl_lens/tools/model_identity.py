"""Which model and tokenizer a file was made with, told by the hashes of their files, and whether a model is the same."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from icl_lens.artifacts.hashes import files_hash
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models.language_model import LanguageModel


class ModelIdentity(BaseModel):
    """What identifies a model and its tokenizer.

    Attributes:
        name: The model's name, for sentences.
        family: Its family.
        layers: How many it has.
        model: SHA-256 of its weights and configuration.
        tokenizer: SHA-256 of its tokenizer's files.
        hub: Its name on the hub, if it was fetched.
        commit: And its commit there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    family: str
    layers: int
    model: str
    tokenizer: str
    hub: str | None = None
    commit: str | None = None


def identify(model: LanguageModel, folder: Path | str) -> ModelIdentity:
    """The identity of a loaded model.

    Args:
        model: The model.
        folder: Its checkpoint's.
    """
    files = checkpoint_files(folder)
    network = [path for path in files if path.name.startswith(("config", "model.safetensors.", "pytorch_model"))]
    network += [path for path in files if path.suffix in (".safetensors", ".bin") and path not in network]
    facts = model.facts
    return ModelIdentity(
        name=model.name,
        family=facts["family"],
        layers=model.layers,
        model=files_hash(network),
        tokenizer=files_hash([path for path in files if path not in network]),
        hub=facts.get("hub"),
        commit=facts.get("commit"),
    )


def require_same(path: Path | str, made_by: ModelIdentity, here: ModelIdentity, instead: tuple[str, str]) -> None:
    """Checks that a file was made with a model and its tokenizer.

    Args:
        path: The file.
        made_by: What it was made with.
        here: What it is used with.
        instead: What to do where the model is another one, and where the tokenizer is.

    Raises:
        InputError: It was not.
    """
    if here.model != made_by.model:
        raise InputError(
            f"{path} was made with another model, {made_by.name} ({made_by.family}, {made_by.layers} "
            f"layers), whose files are not those of {here.name}; {instead[0]}"
        )
    if here.tokenizer != made_by.tokenizer:
        raise InputError(f"{path} was made with another tokenizer than that of {here.name}; {instead[1]}")
