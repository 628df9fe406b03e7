"""Identity of the model and tokenizer that a file was made with, given by the hashes of their files, and a check of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from icl_lens.artifacts.hashes import files_hash
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_files, is_tokenizer_file
from icl_lens.models.language_model import LanguageModel


class ModelIdentity(BaseModel):
    """Identity of a model and its tokenizer.

    Attributes:
        name: The name of the model in messages.
        family: The family of the model.
        layers: The number of layers.
        model: SHA-256 of the weights and the configuration.
        tokenizer: SHA-256 of the files of the tokenizer and its chat templates.
        hub: The name of the model on the Hub, if it was downloaded.
        commit: The commit on the Hub, if the model was downloaded.
        adapter: SHA-256 of the files of the adapter that was merged into the weights, if any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    family: str
    layers: int
    model: str
    tokenizer: str
    hub: str | None = None
    commit: str | None = None
    adapter: str | None = None


def identify(model: LanguageModel, folder: Path | str) -> ModelIdentity:
    """Return the identity of a loaded model.

    Args:
        model: The model.
        folder: The folder of its checkpoint.
    """
    folder = Path(folder)
    files = checkpoint_files(folder)
    network = [path for path in files if not is_tokenizer_file(path.relative_to(folder).as_posix())]
    facts = model.facts
    return ModelIdentity(
        name=model.name,
        family=facts["family"],
        layers=model.layers,
        model=files_hash(network),
        tokenizer=files_hash([path for path in files if path not in network]),
        hub=facts.get("hub"),
        commit=facts.get("commit"),
        adapter=facts.get("adapter", {}).get("files"),
    )


def require_same_model(path: Path | str, made_by: ModelIdentity, current: ModelIdentity, advice: tuple[str, str]) -> None:
    """Check that a file was made with the given model and tokenizer.

    Args:
        path: The file.
        made_by: The model and tokenizer that the file was made with.
        current: The model and tokenizer that the file is used with.
        advice: The advice in the error message, first for a different model, then for a different tokenizer.

    Raises:
        InputError: The file was made with another model, adapter or tokenizer.
    """
    if current.model != made_by.model:
        raise InputError(
            f"{path} was made with another model, {made_by.name} ({made_by.family}, {made_by.layers} layers); its files differ "
            f"from those of {current.name}; {advice[0]}"
        )
    if current.adapter != made_by.adapter:
        if made_by.adapter is None:
            raise InputError(f"{path} was made without an adapter; remove --adapter")
        raise InputError(
            f"{path} was made with an adapter that --adapter does not name; set --adapter to the folder of that adapter"
        )
    if current.tokenizer != made_by.tokenizer:
        raise InputError(f"{path} was made with another tokenizer; its files differ from those of {current.name}; {advice[1]}")
