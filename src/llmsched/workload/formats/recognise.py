"""Which format a file is of, from the names of its columns; and what to ask for where none fits.

Tables of no known format are read where their columns have names that everybody uses. Otherwise
the error proposes the `--columns` that would read them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from llmsched.workload.formats.clocks import split_name
from llmsched.workload.formats.encodings.cells import shown
from llmsched.workload.formats.encodings.files import Place, TraceFile
from llmsched.workload.formats.layout import Layout
from llmsched.workload.trace import TraceError

TABLE = "table"  # the name of the format that goes by common names, or by `--columns`
_ROLES = {  # what `--columns` calls each role
    "arrival": "time",
    "prompt": "prompt",
    "output": "output",
    "model": "model",
    "log_type": "log_type",
    "session": "session",
}
_COMMON = {  # without case and punctuation; a time may have a unit at the end
    "time": """arrival arrivals arrivaltime arrivaltimestamp arrivedat timestamp time ts datetime
        created createdat createdtime starttime startedat starttimestamp timestampstartunix
        requesttime requesttimestamp requestedat senttime sentat sendtime receivedat""",
    "prompt": """prompttokens inputtokens prompttoken inputtoken prompttoks inputtoks promptlength
        inputlength promptlen inputlen promptsize numprompttokens numinputtokens nprompttokens
        ninputtokens prompttokencount inputtokencount prompttokenscount inputtokenscount
        contexttokens prefilltokens numprefilltokens requesttokens tokensin
        usageprompttokens usageinputtokens""",
    "output": """outputtokens completiontokens generatedtokens responsetokens decodetokens
        outputtoken outputtoks completiontoks outputlength outputlen completionlength
        responselength numoutputtokens numcompletiontokens numgeneratedtokens numdecodetokens
        noutputtokens ncompletiontokens outputtokencount completiontokencount generatedtokencount
        outputtokenscount completiontokenscount tokensout usagecompletiontokens
        usageoutputtokens""",
    "model": "model modelname modelid",
}
_ALIASES = {role: frozenset(names.split()) for role, names in _COMMON.items()}
_LIKELY = {  # parts of names, for a proposal
    "time": r"arriv|creat|time|stamp|date|start|sent|recv|received",
    "prompt": r"prompt|input|context|prefill|question|(^|_)in(_|$)",
    "output": r"output|complet|generat|respon|decode|answer|reply|(^|_)out(_|$)",
}


def table_layout(names: Sequence[str], file: TraceFile, header: Place) -> Layout:
    """The layout of a table whose columns have common names.

    Raises
    ------
    TraceError
        If a role has no column, or more than one; with the `--columns` to try.
    """
    found = {role: [name for name in names if _is(role, name)] for role in _ALIASES}
    if all(len(found[role]) == 1 for role in ("time", "prompt", "output")):
        columns = {role: (found[role][0],) for role in _ALIASES if len(found[role]) == 1}
        return Layout(name=TABLE, columns=columns)
    raise _propose(names, found, file, header)


def chosen_layout(columns: str, names: Collection[str], file: TraceFile, header: Place) -> Layout:
    """The layout that `--columns` describes.

    Raises
    ------
    TraceError
        If it names a column that the file does not have.
    """
    chosen = parse_columns(columns)
    for role, name in chosen.items():
        if name not in names:
            given = shown(", ".join(names))
            message = f"--columns {role}={name} must name a column of the file, got {given}"
            raise file.error(message, **header)
    roles = {_ROLES[role]: (name,) for role, name in chosen.items()}
    required = tuple(role for role in ("time", "prompt", "output") if role in roles)
    return Layout(name=TABLE, columns=roles, required=required, optional=("session",))


def parse_columns(columns: str) -> dict[str, str]:
    """`arrival=created_at,prompt=n_prompt,output=n_completion` as a dictionary.

    Raises
    ------
    TraceError
        If a part is not ROLE=NAME, a role is unknown or there twice, or prompt or output is
        missing.
    """
    chosen: dict[str, str] = {}
    for part in columns.split(","):
        role, equals, name = (text.strip() for text in part.partition("="))
        if not (equals and name) or role not in _ROLES or role in chosen:
            raise TraceError(
                f"columns must be ROLE=NAME with roles {', '.join(_ROLES)}, each once, got {part!r}"
            )
        chosen[role] = name
    for role in ("prompt", "output"):
        if role not in chosen:
            raise TraceError(f"columns must name a column for {role}, got {columns!r}")
    return chosen


def _is(role: str, name: str) -> bool:
    stem, unit = split_name(name)
    whole = re.sub(r"[\W_]+", "", name).lower()
    return whole in _ALIASES[role] or (role == "time" and bool(unit) and stem in _ALIASES[role])


def _propose(
    names: Sequence[str], found: dict[str, list[str]], file: TraceFile, header: Place
) -> TraceError:
    """What is missing or there twice, and the option that would say it."""
    parts, unclear = [], []
    for spoken in ("arrival", "prompt", "output"):
        role = _ROLES[spoken]
        likely = found[role] or [n for n in names if re.search(_LIKELY[role], n.lower())]
        if len(found[role]) != 1:
            unclear.append(f"{len(found[role])} columns for {spoken}")
        parts.append(f"{spoken}={likely[0] if likely else 'NAME'}")
    given = shown(", ".join(names))
    return file.error(
        f"must have one column each for arrival, prompt and output under a known name, got "
        f"{' and '.join(unclear)} in {given}; say it with --columns {','.join(parts)}",
        **header,
    )
