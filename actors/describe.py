"""Messages between actors in a few words, for traces: what they ask for, never what they carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from actors.broker import Request
from actors.kvm import Control, FromHost, TearDown
from protocol.effects import Issue
from protocol.plan import operations as op


def describe(message: object) -> str:
    """A message in a few words: what it asks for, never what it carries."""
    match message:
        case FromHost(effect=effect):
            return describe(effect)
        case Issue(operation="run", arguments=(inner,)):
            return describe(inner)
        case Issue(operation=operation):
            return operation
        case Request(frame={"t": str(kind)}):
            return kind
        case Control():
            return "control"
        case TearDown():
            return "tear down"
        case op.Operation() | op.Event():
            return " ".join((message.name, *_said(message)))
    return type(message).__name__


def _said(message: op.Operation | op.Event) -> Iterator[str]:
    """The fields of an operation that say what it is, amounts and numbers."""
    for field in fields(message):
        value = getattr(message, field.name)
        if isinstance(value, op.Pages):
            yield f"{field.name}={len(value)}"
        elif value is not False:
            yield field.name if value is True else f"{field.name}={value}"
