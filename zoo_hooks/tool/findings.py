"""The bugs of a set of releases for other programs: SARIF, and annotations of GitHub's runs."""

from __future__ import annotations

from typing import Any

import zoo_hooks
from zoo_hooks.releases import fixed_in
from zoo_hooks.tool.audit import Answer, Finding
from zoo_hooks.tool.pins import Pin


def sarif(answer: Answer, *, strict: bool) -> dict[str, Any]:
    """The findings in the form of SARIF 2.1.0; those that fail the audit are errors."""
    driver = {
        "name": "zoo-hooks",
        "version": zoo_hooks.__version__,
        "rules": [_rule(finding) for finding in answer.findings],
    }
    results = [_result(answer, finding, strict) for finding in answer.findings]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def github(answer: Answer, *, strict: bool) -> list[str]:
    """A workflow command for each finding; those that fail the audit are errors."""
    lines = []
    for finding in answer.findings:
        level = "error" if strict or finding.trouble else "warning"
        pin = _pin(answer, finding)
        spot = f"file={_escaped(pin.file, ',:')},line={pin.line or 1}," if pin and pin.file else ""
        title = _escaped(f"{finding.patch.id}: {finding.patch.severity}", ",:")
        lines.append(f"::{level} {spot}title={title}::{_escaped(_message(finding))}")
    return lines


def _rule(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.patch.id,
        "shortDescription": {"text": finding.patch.title},
        "helpUri": finding.patch.links[0],
        "properties": {"severity": finding.patch.severity},
    }


def _result(answer: Answer, finding: Finding, strict: bool) -> dict[str, Any]:  # noqa: FBT001
    result: dict[str, Any] = {
        "ruleId": finding.patch.id,
        "level": "error" if strict or finding.trouble else "warning",
        "message": {"text": _message(finding)},
    }
    pin = _pin(answer, finding)
    if pin and pin.file:
        region = {"region": {"startLine": pin.line}} if pin.line else {}
        where = {"artifactLocation": {"uri": pin.file.replace("\\", "/")}, **region}
        result["locations"] = [{"physicalLocation": where}]
    return result


def _message(finding: Finding) -> str:
    hooks = f"zoo-hooks does not repair it: {finding.trouble}" if finding.trouble else "zoo-hooks repairs it"
    ends = " or ".join(fixed_in(finding.patch))
    basis = f" ({finding.judgement.basis})" if finding.judgement.basis else ""
    return f"{finding.patch.title}; {hooks}; fixed in {ends or 'no release yet'}{basis}"


def _pin(answer: Answer, finding: Finding) -> Pin | None:
    """Where the release of the upstream with the bug is pinned."""
    return answer.asked.pins.get(finding.patch.upstream.replace("_", "-"))


def _escaped(text: str, also: str = "") -> str:
    for sign in "%\r\n" + also:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text
