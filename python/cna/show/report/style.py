"""The page's style sheet, for light, dark, narrow and printed pages."""

from __future__ import annotations

STYLE = """
:root{--bg:#fff;--ink:#1d1f21;--soft:#5b6166;--line:#d9dcdf;--card:#f6f7f8;--accent:#0072b2;
--yes:#a84300;--no:#00664a}
@media (prefers-color-scheme:dark){:root{--bg:#16181a;--ink:#e6e7e8;--soft:#a6acb2;--line:#3a3f44;
--card:#1f2225;--accent:#6db8e8;--yes:#f0a36b;--no:#63cfa8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1.1rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:.4rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .7rem;padding-bottom:.25rem;
border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .5rem}
.facts,.note,.small,figcaption{color:var(--soft)}.note,figcaption{font-size:.875rem}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.8rem;
margin:1.3rem 0 .5rem}
.tile{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem}
.name{font-size:.9rem}.big{font-size:1.9rem;font-weight:650;line-height:1.25}
.small{font-size:.85rem}
.bars{max-width:36rem}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .75rem .32rem 0;border-bottom:1px solid var(--line);text-align:right;
vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom;white-space:normal}
td:last-child,th:last-child{padding-right:.3rem}
th:first-child,td:first-child{text-align:left;padding-left:.4rem}
tr.plain td{background:var(--card)}
.names th,.names td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.names td:first-child{min-width:8rem}.names code{overflow-wrap:normal}
.range{color:var(--soft);font-size:.85em}
figure{margin:1.2rem 0 1.8rem}
.frame{background:#fff;border:1px solid var(--line);border-radius:.4rem;padding:.4rem;
overflow-x:auto;max-width:46rem}
.wide .frame{max-width:none}
figure img{display:block;width:100%;height:auto}
figcaption{margin-top:.4rem}
article{border:1px solid var(--line);border-radius:.5rem;margin:.8rem 0;overflow:hidden}
.prompt{background:var(--card);padding:.55rem .9rem;font-weight:600;overflow-wrap:anywhere;
border-bottom:1px solid var(--line);white-space:pre-wrap}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr))}
.answer{padding:.6rem .9rem}
.who{font-size:.82rem;color:var(--soft);margin-bottom:.25rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.94rem;max-height:22rem;overflow-y:auto}
.badge{display:table;margin-top:.15rem;border:1px solid currentColor;border-radius:1em;
padding:0 .55em;font-size:.9em;white-space:nowrap}
.badge.yes{color:var(--yes)}.badge.no{color:var(--no)}
summary{cursor:pointer;padding:.25rem 0;font-weight:600}
@media screen and (max-width:40rem){.wide img{width:44rem}
main{padding:1rem .8rem 3rem}h1{font-size:1.45rem}
.answers{grid-template-columns:1fr}.answer+.answer{border-top:1px solid var(--line)}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb;--card:#f3f3f3;--yes:#833400;
--no:#00513b}
body{font-size:10.5pt}main{max-width:none;padding:0}.scroll{overflow:visible}table{font-size:8pt}
th,td{padding-right:.5rem}.text{max-height:none;overflow:visible}
figure,article,.tile,tr{break-inside:avoid}h2,h3{break-after:avoid}}
""".replace("\n", "")
