"""Reads reports with Python's own parser and prints what it finds, one JSON object a line.

Arguments: files, one report each. What is inside the returned message is not looked at beyond its type.
"""

import email
import json
import sys


def fields(message):
    return [[name, " ".join(str(value).split())] for name, value in message.items()]


def text(part):
    return part.get_payload(decode=True).decode(part.get_content_charset() or "ascii")


for path in sys.argv[1:]:
    with open(path, "rb") as file:
        report = email.message_from_bytes(file.read())
    human, machine, *returned = report.get_payload()
    groups = machine.get_payload()
    if len(groups) == 1:  # Python takes message/global-delivery-status for a message with a body.
        rest = groups[0].get_payload(decode=True).decode()
        groups += [email.message_from_string(group) for group in rest.split("\r\n\r\n")]
    found = {
        "type": report.get_content_type(),
        "report_type": report.get_param("report-type"),
        "header": fields(report),
        "parts": [part.get_content_type() for part in report.get_payload()],
        "encodings": [part["Content-Transfer-Encoding"] for part in report.get_payload()],
        "human": text(human),
        "groups": [fields(group) for group in groups],
        "defects": [repr(defect) for part in (report, human, machine, *returned) for defect in part.defects],
        "preamble": report.preamble,
        "epilogue": report.epilogue,
    }
    if returned and not returned[0].is_multipart():
        found["returned"] = returned[0].get_payload(decode=True).decode("latin-1")
    elif returned:
        found["returned"] = returned[0].get_payload()[0]["Message-ID"]
    print(json.dumps(found))
