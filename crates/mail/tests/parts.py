"""Compares messages part by part with Python's own parser.

Arguments: pairs of files, before and after a conversion. Prints one line for every pair whose parts decode to
different octets or have different types, and nothing else.
"""

import email
import sys


def parts(path):
    with open(path, "rb") as file:
        message = email.message_from_bytes(file.read())
    found = []
    for part in message.walk():
        if part.is_multipart():
            continue
        # Python does not know an encoding that has white space behind it.
        if "Content-Transfer-Encoding" in part:
            part.replace_header("Content-Transfer-Encoding", part["Content-Transfer-Encoding"].strip())
        found.append((part.get_content_type(), part.get_filename(), part.get_payload(decode=True)))
    return found


for before, after in zip(sys.argv[1::2], sys.argv[2::2]):
    was, became = parts(before), parts(after)
    if was != became:
        print(f"{before}: {was!r:.2000} became {became!r:.2000}")
