"""Numbers that states and banks give to persons: their shapes, the rule each must satisfy, the words around them.

A shape is the number with every digit written 9 and every letter written A. `formatted` shapes have separators that say
something by themselves; `bare` ones could be any number, so most count only beside one of the `words`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from limen.detection import personal_checks as check
from limen.detection.sensitive_pattern import Gate


@dataclass(frozen=True, slots=True)
class Identifier:
    """`formatted_alone` and `bare_alone`: confidence without any word around; 0 where a word is needed."""

    kind: str
    formatted: tuple[str, ...]
    bare: tuple[str, ...]
    valid: Callable[[str], bool]
    words: str
    formatted_alone: float = 0.0
    bare_alone: float = 0.0
    weaker: Callable[[str], bool] | None = None  # a lesser rule, at 0.7 of the confidence


IDENTIFIERS: Final = (
    Identifier(
        "card",
        (
            *(
                "9999 9999 9999 9999",
                "9999-9999-9999-9999",
                "9999.9999.9999.9999",
                "9999 999999 99999",
                "9999-999999-99999",
            ),
            *("9999 999999 9999", "9999-999999-9999", "9999 9999 9999 9999 999"),
        ),
        ("9" * 13, "9" * 14, "9" * 15, "9" * 16, "9" * 17, "9" * 18, "9" * 19),
        check.card,
        r"card|visa|master|amex|discover|diners|jcb|maestro|credit|debit|payment|\bpan\b|\bcc\b|cvv|cvc"
        r"|expir"
        r"|karte|carte|tarjeta|carta|카드|カード|卡",
        0.95,
        0.75,
    ),
    Identifier(
        "us_ssn", ("999-99-9999", "999 99 9999"), ("9" * 9,), check.us_ssn, r"ssn|social|ss ?#|tax ?payer", 0.85
    ),
    Identifier("us_itin", ("999-99-9999",), ("9" * 9,), check.us_itin, r"itin|tax ?payer|tax id", 0.8),
    Identifier(
        "kr_rrn",
        ("999999-9999999", "999999 - 9999999"),
        ("9" * 13,),
        check.kr_rrn,
        r"주민|rrn|resident|외국인|등록번호",
        0.95,
        0.0,
        check.kr_rrn_date,
    ),
    Identifier("de_tax_id", ("99 999 999 999",), ("9" * 11,), check.de_tax_id, r"steuer|tax|idnr|\btin\b", 0.8),
    Identifier(
        "fr_nir",
        ("9 99 99 99 999 999 99", "9 99 99 9A 999 999 99", "9999999999999 99"),
        ("9" * 15, "9999999A9999999"[:5] + "9A" + "9" * 8),
        check.fr_nir,
        r"s[ée]cu|nir\b|insee|social|ssn",
        0.95,
        0.0,
    ),
    Identifier(
        "es_dni",
        ("99999999-A", "A-9999999-A", "A9999999-A"),
        ("99999999A", "A9999999A"),
        check.es_dni,
        r"dni|nie\b|nif|identidad|id",
        0.85,
        0.7,
    ),
    Identifier("nl_bsn", ("9999.99.999", "9999 99 999"), ("9" * 9,), check.nl_bsn, r"bsn|burgerservice|sofi", 0.6),
    Identifier("pl_pesel", (), ("9" * 11,), check.pl_pesel, r"pesel"),
    Identifier(
        "it_codice_fiscale", (), ("AAAAAA99A99A999A",), check.it_codice_fiscale, r"codice|fiscale|\bcf\b", 0.97, 0.97
    ),
    Identifier(
        "be_national", ("99.99.99-999.99",), ("9" * 11,), check.be_national, r"rijksregister|national|nrn|niss", 0.95
    ),
    Identifier(
        "se_personnummer",
        ("999999-9999", "999999+9999"),
        ("9" * 10,),
        check.se_personnummer,
        r"personnummer|person|pnr",
        0.75,
    ),
    Identifier(
        "fi_hetu",
        ("999999-999A", "999999-9999", "999999+999A", "999999A999A", "999999A9999"),
        (),
        lambda text: check.fi_hetu(text if len(text) == 10 else text[:6] + text[7:]),
        r"hetu|henkil",
        0.8,
    ),
    Identifier("dk_cpr", ("999999-9999",), ("9" * 10,), check.dk_cpr, r"cpr|personnummer"),
    Identifier("no_fnr", ("999999 99999",), ("9" * 11,), check.no_fnr, r"f[øo]dsel|personnummer|fnr", 0.85),
    Identifier("ch_ahv", ("999.9999.9999.99",), ("9" * 13,), check.ch_ahv, r"ahv|avs|avv|sozial|social", 0.97, 0.6),
    Identifier("pt_nif", ("999 999 999",), ("9" * 9,), check.pt_nif, r"nif|contribuinte|fiscal"),
    Identifier(
        "gb_nino",
        ("AA 99 99 99 A", "AA-99-99-99-A"),
        ("AA999999A",),
        check.gb_nino,
        r"national insurance|nino|ni (?:number|no)|insurance",
        0.9,
        0.7,
    ),
    Identifier("gb_nhs", ("999 999 9999", "999-999-9999"), ("9" * 10,), check.gb_nhs, r"nhs|health|patient"),
    Identifier("ie_pps", (), ("9999999A", "9999999AA"), check.ie_pps, r"pps"),
    Identifier("at_svnr", ("9999 999999",), ("9" * 10,), check.at_svnr, r"sozialversicherung|svnr|sv-?n"),
    Identifier("ro_cnp", (), ("9" * 13,), check.ro_cnp, r"cnp|numeric personal"),
    Identifier("cz_rc", ("999999/9999",), ("9" * 10,), check.cz_rc, r"rodn|birth", 0.85),
    Identifier("bg_egn", (), ("9" * 10,), check.bg_egn, r"egn|егн"),
    Identifier("hr_oib", (), ("9" * 11,), check.mod_11_10, r"oib"),
    Identifier("br_cpf", ("999.999.999-99",), ("9" * 11,), check.br_cpf, r"cpf", 0.95),
    Identifier("in_aadhaar", ("9999 9999 9999", "9999-9999-9999"), ("9" * 12,), check.in_aadhaar, r"aadha+r|uid", 0.0),
    Identifier("ca_sin", ("999 999 999", "999-999-999"), ("9" * 9,), check.ca_sin, r"\bsin\b|social insurance|\bnas\b"),
    Identifier("cn_resident", (), ("9" * 18, "9" * 17 + "A"), check.cn_resident, r"身份证|resident", 0.95, 0.95),
    Identifier(
        "jp_my_number",
        ("9999 9999 9999", "9999-9999-9999"),
        ("9" * 12,),
        check.jp_my_number,
        r"my ?number|マイナンバー|個人番号",
    ),
)

# One pass over the words around a number: the index of each identifier whose words occur, and ORDINARY if words occur
# that speak against a person's number.
ORDINARY: Final = len(IDENTIFIERS)
NOT_PERSONAL: Final = (
    r"(?i)order|invoice|tracking|ticket|\bref\b|reference|\bsku\b|isbn|\bissn\b|\bean\b|\bupc\b|version|build|serial"
    r"|timestamp|epoch|hash|commit|digest|\buuid\b|\bguid\b|checksum|revision|\bpid\b|offset|\bport\b|bytes|\bsize\b"
    r"|\bcount\b|\btotal\b|주문|송장|注文|订单"
)
WORDS: Final = Gate((*(f"(?i:{item.words})" for item in IDENTIFIERS), NOT_PERSONAL))
NUMBER: Final = {item.kind: number for number, item in enumerate(IDENTIFIERS)}
Readings = tuple[tuple[Identifier, bool], ...]  # what a shape may be, and whether it is the formatted one


def _shapes(alone: bool) -> dict[str, Readings]:
    """By shape. `alone`: only what counts without any word beside it."""
    found: dict[str, list[tuple[Identifier, bool]]] = {}
    for item in IDENTIFIERS:
        for shapes, formatted in ((item.formatted, True), (item.bare, False)):
            if not alone or (item.formatted_alone if formatted else item.bare_alone):
                for shape in shapes:
                    found.setdefault(shape, []).append((item, formatted))
    return {shape: tuple(readings) for shape, readings in found.items()}


def places(alone: bool) -> dict[bytes, tuple[tuple[int, Readings], ...]]:
    """For each shape: how much of it, from all down to its first group, may be read as what. The groups of a few kinds
    only are joined by dots and slashes, and none of those is a part of another."""
    known = _shapes(alone)
    found: dict[bytes, tuple[tuple[int, Readings], ...]] = {}
    for shape in _shapes(alone=False):
        ends = [end for end in range(len(shape), 0, -1) if end == len(shape) or shape[end] in " -"]
        found[shape.encode()] = tuple((end, known[shape[:end]]) for end in ends if shape[:end] in known)
    return found


def expression() -> bytes:
    """For `re`: at each place where one begins, the longest shape, at the borders of words. Of the text it consumes the
    first group only, which may have belonged to something else than what follows."""
    return rb"\b(?=(" + _tree([shape.encode() for shape in _shapes(alone=False)]) + rb")\b)[9A]+"


def _tree(shapes: Sequence[bytes]) -> bytes:
    """One way at each sign, so that no place is read twice for two shapes that begin alike."""
    below: dict[bytes, list[bytes]] = {}
    for shape in shapes:
        if shape:
            below.setdefault(shape[:1], []).append(shape[1:])
    if not below:
        return b""
    ways = [re.escape(sign) + _tree(rest) for sign, rest in below.items()] + [b""] * (b"" in shapes)
    return ways[0] if len(ways) == 1 else rb"(?:" + b"|".join(ways) + rb")"
