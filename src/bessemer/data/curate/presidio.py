"""Names of people, places and the like, found by Microsoft Presidio with a spaCy model.

Only this file knows Presidio (extra `presidio`). Nothing is ever downloaded: Presidio would fetch a model that is not
there, and its recogniser of e-mail addresses fetches a list of domains; both are kept from doing so.
"""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bessemer.data.curate.pii import KINDS, Find
from bessemer.data.open import need
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, digest_files, sha256_text
from bessemer.recipe.data_recipe import Presidio

WHERE = "steps.pii.presidio"
PIECE = 100_000  # characters looked at together; spaCy refuses more than a million


class Names:
    """Finds what the recipe names. It may travel to other processes: each loads the model for itself, once."""

    def __init__(self, settings: Presidio) -> None:
        self.model = str(_folder(settings.model))
        self.settings = settings
        self.actions: dict[str, str] = {entity.lower(): action for entity, action in settings.entities.items()}

    def find(self, text: str) -> list[Find]:
        """The surest first; they may overlap."""
        engine, language = _engine(self.model, self.settings.language)
        wanted = [entity for entity, action in self.settings.entities.items() if action != "keep"]
        found: list[tuple[float, Find]] = []
        for start, piece in _pieces(text) if wanted else ():
            for r in engine.analyze(piece, language, wanted, score_threshold=self.settings.score):
                found.append((-r.score, Find(start + r.start, start + r.end, r.entity_type.lower())))
        return [find for _, find in sorted(found)]


def ingredients(settings: Presidio) -> dict[str, str]:
    """What the finds follow from beside the recipe. Raises BessemerError when model or entities cannot be used."""
    need("presidio_analyzer", WHERE, "names of people and places", "presidio")
    folder = _folder(settings.model)
    engine, language = _engine(str(folder), settings.language)
    # What our own kinds are called is theirs alone: a count must say who found it.
    known = sorted(e for e in engine.get_supported_entities(language) if e.lower() not in KINDS)
    for entity in settings.entities.keys() - set(known):
        close = difflib.get_close_matches(entity.upper(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"they find {', '.join(known)}"
        raise BessemerError(
            f"{settings.model!r} and Presidio's own rules for {language!r} find no {entity}",
            where=f"{WHERE}.entities",
            fix="steps.pii.email finds these" if entity == "EMAIL_ADDRESS" else hint,
        )
    files = {name: digest for name, digest in digest_files(folder).items() if not name.endswith(".pyc")}
    libraries = {name: version(name) for name in ("presidio-analyzer", "spacy")}
    return libraries | {"spaCy model": sha256_text(canonical_json(files))}


def _folder(model: str) -> Path:
    import spacy  # pyright: ignore[reportMissingImports]

    if Path(model).is_dir():
        return Path(model).resolve()
    if spacy.util.is_package(model):
        return Path(spacy.util.get_package_path(model))
    installed = ", ".join(spacy.util.get_installed_models()) or "none"
    raise BessemerError(
        f"no spaCy model {model!r}: neither an installed one (installed: {installed}) nor a folder",
        where=f"{WHERE}.model",
        fix=f"python -m spacy download {Path(model).name}, or give the folder of a model; Bessemer downloads none",
    )


@functools.cache
def _engine(model: str, language: str | None) -> tuple[Any, str]:
    """Presidio's analyser around the model in a folder, and the language of the texts."""
    import spacy  # pyright: ignore[reportMissingImports]
    from presidio_analyzer import AnalyzerEngine  # pyright: ignore[reportMissingImports]
    from presidio_analyzer.nlp_engine import (  # pyright: ignore[reportMissingImports]
        NerModelConfiguration,
        SpacyNlpEngine,
    )

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    try:
        nlp = spacy.load(_data_of(Path(model)))
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BessemerError(
            f"no usable spaCy model ({reason})", where=f"{WHERE}.model", fix=f"it is {model}; save or install it anew"
        ) from None
    if nlp.lang not in {language or nlp.lang, "xx"} or (nlp.lang == "xx" and not language):
        raise BessemerError(
            f"the model is for {nlp.lang!r} (xx: any language), the texts are in {language or 'no stated language'!r}",
            where=f"{WHERE}.language",
            fix="leave it out for the model's own language, or name another model",
        )
    named = {label for pipe in nlp.pipe_names for label in _labels(nlp, pipe)}
    if not named:
        raise BessemerError(f"the model names nothing; its parts are {nlp.pipe_names}", where=f"{WHERE}.model")
    usual = NerModelConfiguration().model_to_presidio_entity_mapping or {}
    names = NerModelConfiguration(model_to_presidio_entity_mapping={label: usual.get(label, label) for label in named})
    spoken: str = language or nlp.lang or ""
    around = SpacyNlpEngine([{"lang_code": spoken, "model_name": model}], names)
    around.nlp = {spoken: nlp}  # loaded, so that it loads, and downloads, nothing itself
    engine = AnalyzerEngine(nlp_engine=around, supported_languages=[spoken])
    engine.registry.remove_recognizer("EmailRecognizer")
    return engine, spoken


def _labels(nlp: Any, pipe: str) -> tuple[str, ...]:
    """What a part of a model marks as an entity; a tagger's labels are none."""
    return nlp.pipe_labels.get(pipe, ()) if "doc.ents" in nlp.get_pipe_meta(pipe).assigns else ()


def _data_of(folder: Path) -> Path:
    """An installed model is a package around the folder that holds it."""
    return folder if (folder / "config.cfg").exists() else next(folder.glob("*/config.cfg"), folder / "x").parent


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """(place, piece): cut between lines, or between words; a name over a cut is not found."""
    some = f".{{1,{PIECE}}}"
    for match in re.finditer(rf"(?s){some}(?=\n|\Z)|{some}(?=\s)|{some}", text):
        yield match.start(), match[0]
