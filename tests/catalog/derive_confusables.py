"""Writes `limen/catalog/confusables.txt` from an ICU library. Run by hand for a new Unicode version, never by a test.

    python derive_confusables.py DIRECTORY > confusables.txt

DIRECTORY holds libicudata, libicuuc and libicui18n of one version, as wheels of icu4py carry them. Only characters
that are their own NFD are asked for: UTS #39 section 4 decomposes first, so no other character is ever looked up.
"""

import ctypes
import re
import sys
import unicodedata
from pathlib import Path

IGNORABLE = 5  # UCHAR_DEFAULT_IGNORABLE_CODE_POINT of unicode/uchar.h
LICENSE = """\
# Derived from confusables.txt of Unicode Technical Standard #39, Unicode Security Mechanisms.
# Copyright (c) 2016-{year} Unicode, Inc. Distributed under the Unicode License v3 (SPDX: Unicode-3.0),
# https://www.unicode.org/license.txt; this notice is part of that licence and stays with the data.
#
# PROTOTYPE < CHARACTERS that look like it, all as hexadecimal code points; an inclusive range is A-B.
# The line without a prototype lists what is not visible at all (Default_Ignorable_Code_Point).
"""


def load(folder):
    libraries = {}
    for name in ("libicudata", "libicuuc", "libicui18n"):
        (path,) = [path for path in folder.glob(f"{name}*.so*") if not path.is_symlink()]
        libraries[name] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        version = re.search(r"\.so\.(\d+)", path.name)[1]
    return libraries["libicuuc"], libraries["libicui18n"], version


def main(folder, year):
    common, i18n, version = load(folder)
    error = ctypes.c_int(0)
    opened = getattr(i18n, f"uspoof_open_{version}")
    opened.restype = ctypes.c_void_p
    checker = ctypes.c_void_p(opened(ctypes.byref(error)))
    of = getattr(i18n, f"uspoof_getSkeletonUTF8_{version}")
    has = getattr(common, f"u_hasBinaryProperty_{version}")
    unicode_version = (ctypes.c_uint8 * 4)()
    getattr(common, f"u_getUnicodeVersion_{version}")(unicode_version)
    room = ctypes.create_string_buffer(1024)
    groups, ignored = {}, []
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        if has(code, IGNORABLE):
            ignored.append(code)
            continue
        if unicodedata.normalize("NFD", chr(code)) != chr(code):
            continue
        raw = chr(code).encode()
        length = of(checker, 0, raw, len(raw), room, len(room), ctypes.byref(error))
        if error.value > 0:
            raise SystemExit(f"U+{code:04X}: ICU error {error.value}")
        prototype = room.raw[:length].decode()
        if prototype != chr(code):
            groups.setdefault(prototype, []).append(code)
    print(LICENSE.format(year=year) + f"# Unicode {unicode_version[0]}.{unicode_version[1]}, from ICU {version}.")
    print("<", ranges(ignored))
    for prototype, codes in sorted(groups.items()):
        print(" ".join(f"{ord(one):04X}" for one in prototype), "<", ranges(codes))


def ranges(codes):
    """Sorted code points as hexadecimal, runs of three and more as A-B."""
    runs = []
    for code in codes:
        if runs and code == runs[-1][-1] + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return " ".join(
        f"{run[0]:04X}-{run[-1]:04X}" if len(run) > 2 else " ".join(f"{code:04X}" for code in run) for run in runs
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), year=2025)
