"""Judges from JSON: values and files."""

from __future__ import annotations

import json
from pathlib import Path

from ...base.files import require_file
from .answer import AnswerJudge
from .keyword import KeywordJudge
from .language import LanguageJudge

JsonJudge = KeywordJudge | AnswerJudge | LanguageJudge

_FIELDS = {  # of each kind, the one that it needs first
    "keyword": ("patterns", "name", "regex", "first_chars", "ignore_case", "quoted"),
    "answer": ("answers", "name"),
    "language": ("language", "name", "min_share"),
}


def from_dict(values: object, name: str = "judge") -> JsonJudge:
    """Build a judge from JSON values: {"kind": "keyword" or "answer" or "language", ...}.

    Raises ValueError for another kind, a missing field or a field of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(
            f"judges.from_dict: expected a JSON object, got {type(values).__name__}; "
            'write {"kind": "keyword", "name": ..., "patterns": [...]}'
        )
    kind = values.get("kind", "keyword")
    fields = {k: v for k, v in values.items() if k != "kind"}
    fields.setdefault("name", name)
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(
            "judges.from_dict: expected kind 'keyword', 'answer' or 'language', got "
            f"{kind!r}; correct the kind"
        )
    needed = _FIELDS[kind][0]
    unknown = sorted(set(fields) - set(_FIELDS[kind]))
    if unknown or needed not in fields:
        wrong = f"unknown {unknown}" if unknown else f"no {needed!r}"
        raise ValueError(
            f"judges.from_dict: expected the fields {sorted(_FIELDS[kind])}, got {wrong}; "
            "correct the fields"
        )
    if kind == "language":
        return LanguageJudge(**fields)
    if kind == "answer":
        return AnswerJudge(**fields)
    if not isinstance(fields["patterns"], list):
        raise ValueError(
            "judges.from_dict: expected patterns as a list of strings, got "
            f"{type(fields['patterns']).__name__}; put them in [ ]"
        )
    return KeywordJudge(**fields)


def load(path: str | Path) -> JsonJudge:
    """Read a judge that `save` wrote (a JSON file).

    Raises FileNotFoundError for a missing file, ValueError for one that is not UTF-8 or JSON, or
    wrong fields.
    """
    path = Path(path)
    require_file(path, "judges.load")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"judges.load: expected JSON in UTF-8, got {str(path)!r} ({error}); mend the file"
        ) from None
    return from_dict(values, name=path.stem)
