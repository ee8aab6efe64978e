"""Check digits and other rules that the numbers of persons and accounts must satisfy. Pure functions over text.

All take the number without separators, letters in upper case, and answer whether it can exist. Sources: ISO/IEC 7812
(Luhn), ISO 13616 (IBAN), ISO 7064, and the issuing authorities' published rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

_IBAN_TABLE: Final = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24
FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32
LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24
RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
IBAN_LENGTHS: Final = {item[:2]: int(item[2:]) for item in _IBAN_TABLE.split()}
_DNI: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_CF_ODD: Final = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            2,
            4,
            18,
            20,
            11,
            3,
            6,
            8,
            12,
            14,
            16,
            10,
            22,
            25,
            24,
            23,
        ),
        strict=True,
    )
)
_CF_EVEN: Final = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (*range(10), *range(26)), strict=True))
_CF_DIGITS: Final = str.maketrans("LMNPQRSTUV", "0123456789")
_VERHOEFF: Final = (
    *("0123456789", "1234067895", "2340178956", "3401289567", "4012395678"),
    *("5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
)
_PERMUTE: Final = (
    *("0123456789", "1576283094", "5803796142", "8916043527"),
    *("9453126870", "4286573901", "2793806415", "7046913258"),
)


_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")  # the digit sum of twice each digit


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of digit times weight."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B."""
    signs = digits.encode()
    return (sum(signs[-1::-2]) + sum(signs[-2::-2].translate(_DOUBLED)) - ord("0") * len(signs)) % 10 == 0


def born(year: int, month: int, day: int) -> bool:
    """Whether it is a day of the calendar."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _day(digits: str, centuries: Sequence[int] = (1900, 2000), *, order: str = "ymd") -> bool:
    """Whether six digits are a day of birth in one of the centuries."""
    first, second, third = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    year, month, day = (first, second, third) if order == "ymd" else (third, second, first)
    return any(born(century + year, month, day) for century in centuries)


def card(digits: str) -> bool:
    """A payment card: Luhn, and a range and length that a scheme issues."""
    size = len(digits)
    if digits[0] == "4":
        known = size in (13, 16, 19)
    elif not 14 <= size <= 19 or digits[0] not in "2356":
        return False
    else:
        two, three, four, six = int(digits[:2]), int(digits[:3]), int(digits[:4]), int(digits[:6])
        known = (
            ((51 <= two <= 55 or 2221 <= four <= 2720 or 2200 <= four <= 2204) and size == 16)
            or (two in (34, 37) and size == 15)
            or ((four == 6011 or two == 65 or 644 <= three <= 649 or 622126 <= six <= 622925) and size >= 16)
            or ((3528 <= four <= 3589 or two == 62) and size >= 16)
            or ((300 <= three <= 305 or two in (36, 38, 39)) and size in (14, 16))
            or (four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763) and size == 16)
        )
    return known and luhn(digits) and len(set(digits)) > 1


def iban(text: str) -> bool:
    """ISO 13616: length of the country, then mod 97."""
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text.isalnum():
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def us_ssn(digits: str) -> bool:
    """Areas, groups and serials that the SSA assigns, without its advertising numbers."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return False
    return digits not in ("078051120", "219099999", "123456789") and len(set(digits)) > 1


def us_itin(digits: str) -> bool:
    return (
        digits[0] == "9"
        and (50 <= int(digits[3:5]) <= 65 or 70 <= int(digits[3:5]) <= 99)
        and digits[3:5] not in ("89", "93")
    )


def kr_rrn_date(digits: str) -> bool:
    """The day of birth and the digit of century and sex: all there is to check in numbers given since October 2020."""
    century = {"9": 1800, "0": 1800, "1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(digits[6], 2000)
    return born(century + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))


def kr_rrn(digits: str) -> bool:
    """With the check digit of numbers given before October 2020, or that of a foreigner's registration."""
    total = 11 - weighted(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11
    foreign = digits[6] in "5678"
    return kr_rrn_date(digits) and int(digits[12]) == (total + 2 if foreign else total) % 10


def de_tax_id(digits: str) -> bool:
    """ISO 7064 mod 11,10; among the first ten digits exactly one occurs two or three times."""
    counts = sorted((digits[:10].count(digit) for digit in set(digits[:10])), reverse=True)
    if digits[0] == "0" or counts[0] not in (2, 3) or counts[1:2] not in ([1], []):
        return False
    return mod_11_10(digits)


def mod_11_10(digits: str) -> bool:
    """ISO 7064 mod 11,10 over all digits (German tax id, Croatian OIB)."""
    rest = 10
    for digit in digits[:-1]:
        rest = ((rest + int(digit)) % 10 or 10) * 2 % 11
    return (11 - rest) % 10 == int(digits[-1])


def fr_nir(text: str) -> bool:
    """Sex, month, department and the key of two digits."""
    body = text[:13].replace("2A", "19").replace("2B", "18") if text[5:7] in ("2A", "2B") else text[:13]
    if not (body + text[13:]).isdigit() or text[0] not in "123478":
        return False
    month = int(text[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42 or 50 <= month <= 99) and 97 - int(body) % 97 == int(text[13:])


def es_dni(text: str) -> bool:
    """Spanish DNI, or NIE when it starts with X, Y or Z."""
    number = str("XYZ".index(text[0])) + text[1:-1] if text[0] in "XYZ" else text[:-1]
    return number.isdigit() and len(set(number)) > 1 and _DNI[int(number) % 23] == text[-1]


def nl_bsn(digits: str) -> bool:
    return digits != "000000000" and weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def pl_pesel(digits: str) -> bool:
    month = int(digits[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    if not born(century + int(digits[:2]), month % 20, int(digits[4:6])):
        return False
    return weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def it_codice_fiscale(text: str) -> bool:
    """The check letter, month letter and day; letters that stand for digits (omocodia) count as digits."""
    places = (6, 7, 9, 10, 12, 13, 14)
    digits = "".join(text[place] for place in places).translate(_CF_DIGITS)
    if (
        not digits.isdigit()
        or text[8] not in "ABCDEHLMPRST"
        or not (1 <= int(digits[2:4]) <= 31 or 41 <= int(digits[2:4]) <= 71)
    ):
        return False
    total = sum((_CF_EVEN if place % 2 else _CF_ODD)[sign] for place, sign in enumerate(text[:15]))
    return chr(65 + total % 26) == text[15]


def be_national(digits: str) -> bool:
    """Mod 97, with a 2 in front for those born since 2000."""
    rest = int(digits[9:])
    sums = (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)
    month = int(digits[2:4])
    return rest in sums and month % 20 <= 12 and int(digits[4:6]) <= 31


def se_personnummer(digits: str) -> bool:
    """Ten digits; a day over 60 is a coordination number."""
    day = int(digits[4:6])
    return _day(f"{digits[:4]}{day - 60 if day > 60 else day:02}") and luhn(digits)


def fi_hetu(text: str) -> bool:
    """DDMMYY, a sign for the century, three digits and a check sign; written without the century sign here."""
    return _day(text[:6], (1800, 1900, 2000), order="dmy") and (
        "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[6:9]) % 31] == text[9]
    )


def dk_cpr(digits: str) -> bool:
    """Only the day: numbers given since 2007 have no check digit."""
    return _day(digits, order="dmy")


def no_fnr(digits: str) -> bool:
    day = int(digits[:2])
    if not _day(f"{day - 40 if day > 40 else day:02}{digits[2:6]}", order="dmy"):
        return False
    first = weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1))
    return first % 11 == 0 and weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def ch_ahv(digits: str) -> bool:
    """Starts with 756, EAN-13 check digit."""
    return digits.startswith("756") and weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def pt_nif(digits: str) -> bool:
    rest = 11 - weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return digits[0] in "123568" and int(digits[8]) == (0 if rest > 9 else rest)


def gb_nino(text: str) -> bool:
    """Prefixes that are given out; the rest has no check."""
    return (
        text[0] not in "DFIQUV"
        and text[1] not in "DFIQUVO"
        and text[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    ) and text[8] in "ABCD"


def gb_nhs(digits: str) -> bool:
    return len(set(digits)) > 1 and weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def ie_pps(text: str) -> bool:
    second = text[8:9]
    extra = 0 if second in ("", "W") else (ord(second) - 64) * 9
    return "WABCDEFGHIJKLMNOPQRSTUV"[(weighted(text, (8, 7, 6, 5, 4, 3, 2)) + extra) % 23] == text[7]


def at_svnr(digits: str) -> bool:
    return weighted(digits, (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)) % 11 == int(digits[3]) and digits[0] != "0"


def ro_cnp(digits: str) -> bool:
    rest = weighted(digits, (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return digits[0] in "12345678" and _day(digits[1:7]) and int(digits[12]) == (1 if rest == 10 else rest)


def cz_rc(digits: str) -> bool:
    """Czech and Slovak birth number: women's months plus 50."""
    month = int(digits[2:4]) % 50
    return _day(f"{digits[:2]}{month % 20 if month > 20 else month:02}{digits[4:6]}") and int(digits) % 11 == 0


def bg_egn(digits: str) -> bool:
    month = int(digits[2:4])
    if not _day(f"{digits[:2]}{month % 20:02}{digits[4:6]}", (1800, 1900, 2000)):
        return False
    return weighted(digits, (2, 4, 8, 5, 10, 9, 7, 3, 6)) % 11 % 10 == int(digits[9])


def br_cpf(digits: str) -> bool:
    first = weighted(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(digits, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(digits)) > 1 and digits[9:] == f"{first}{second}"


def in_aadhaar(digits: str) -> bool:
    """Verhoeff."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_VERHOEFF[check][int(_PERMUTE[place % 8][int(digit)])])
    return digits[0] not in "01" and check == 0


def ca_sin(digits: str) -> bool:
    return digits[0] not in "08" and luhn(digits)


def cn_resident(text: str) -> bool:
    """ISO 7064 mod 11-2 and the day of birth."""
    total = weighted(text, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2))
    year = int(text[6:10])
    return (
        1850 <= year <= 2100
        and born(year, int(text[10:12]), int(text[12:14]))
        and "10X98765432"[total % 11] == text[17]
    )


def jp_my_number(digits: str) -> bool:
    rest = weighted(digits, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return int(digits[11]) == (0 if rest <= 1 else 11 - rest)
