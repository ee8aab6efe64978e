"""The one stylesheet of the pages people see, allowed by its digest; there is no script."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

# The buttons wait for most of a second after the page is there: a click that was meant for what was in its place
# before (two quick clicks, the first of which opens this page) does not reach them, with no script to see to it.
STYLE: Final = """
:root{color-scheme:light dark;--paper:#f3f4f6;--card:#fff;--ink:#16191f;--soft:#4a5160;--line:#d5d9e0;--accent:#1d4ed8;
--on:#fff;--warn:#fff6e0;--warnline:#b45309;--bad:#a31515;--code:#eef0f4}
@media (prefers-color-scheme:dark){:root{--paper:#0f1216;--card:#191d23;--ink:#eceef2;--soft:#b3bac6;--line:#363c47;
--accent:#9dbcff;--on:#0b1530;--warn:#2d2310;--warnline:#e8a33d;--bad:#ff9d94;--code:#252a32}}
*{box-sizing:border-box}
html{font:100%/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;color:var(--ink);
background:var(--paper)}
body{margin:0;padding:clamp(.5rem,3vw,2.5rem)}
main{max-width:40rem;margin:0 auto;background:var(--card);border:1px solid var(--line);border-radius:.75rem;
padding:clamp(1rem,4vw,2.25rem);overflow-wrap:anywhere}
.brand{margin:0 0 1.25rem;color:var(--soft);font-size:.9rem}
.brand b{color:var(--ink);letter-spacing:.02em}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;text-wrap:balance}
h2{font-size:1.05rem;margin:1.75rem 0 .5rem}
p{margin:.25rem 0 .75rem}
.lead,.note,dt,.says{color:var(--soft)}
.note,.says{font-size:.925rem}
dl{margin:0;border-top:1px solid var(--line)}
dl>div{padding:.6rem 0;border-bottom:1px solid var(--line)}
dt{font-size:.875rem}
dd{margin:0}
.host{font-size:1.15rem;font-weight:650}
.uri{font:.875rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.warnings{background:var(--warn);border-left:.3rem solid var(--warnline);border-radius:.375rem;padding:.75rem 1rem;
margin:1.25rem 0}
.warnings h2{margin:0 0 .25rem}
ul{margin:.25rem 0;padding-left:1.2rem}
.warnings li,.tools li{margin:.3rem 0}
.mark{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:0 .6rem;font-size:.85rem;
font-weight:600;margin-right:.4rem}
.mark.no,.destructive{color:var(--bad)}
.tools{list-style:none;padding:0}
.tools .names,.odd{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.tools .names{font-size:.875rem;color:var(--soft)}
.odd{background:var(--code);color:var(--bad);border-radius:.2rem;padding:0 .2rem;font-size:.85em}
fieldset{border:0;margin:2rem 0 0;padding:0;min-width:0}
legend{font-size:1.05rem;font-weight:700;margin:0;padding:0}
.scope{display:grid;grid-template-columns:1.5rem 1fr;gap:.1rem .5rem;padding:.6rem 0;border-top:1px solid var(--line)}
.scope input{width:1.15rem;height:1.15rem;margin:.2rem 0 0;accent-color:var(--accent)}
.scope .says{grid-column:2;margin:0}
label,.fixed{font-weight:600}
.answer{display:grid;grid-template-columns:1fr 1fr;gap:.75rem;margin-top:1.75rem}
form>.note{margin:.75rem 0 0}
@media (max-width:26rem){.answer{grid-template-columns:1fr}}
button,.go{font:inherit;font-weight:650;min-height:2.9rem;padding:.5rem 1rem;border-radius:.5rem;cursor:pointer;
border:2px solid var(--accent);background:var(--card);color:var(--accent);text-align:center}
button{animation:wait .7s}
button.yes,.go{background:var(--accent);color:var(--on)}
.go{display:inline-block;text-decoration:none}
button:hover,.go:hover{text-decoration:underline}
:focus-visible{outline:3px solid var(--accent);outline-offset:3px}
@keyframes wait{0%,99%{pointer-events:none;opacity:.6}}
@media (forced-colors:active){button,.go,.mark{border-color:ButtonText}}
@media print{html,body,main{background:#fff;color:#000;border:0;padding:0}.answer{display:none}}
"""
ALLOWED: Final = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
