"""The page that each tiny model recites, in its family's own notation."""

DEEPSEEK_OCR = """\
<|ref|>title<|/ref|><|det|>[[90, 60, 610, 110]]<|/det|>
# Invoice 2041

<|ref|>text<|/ref|><|det|>[[90, 140, 905, 190]]<|/det|>
Issued on 3 May in Orléans, payable within 30 days.

<|ref|>image<|/ref|><|det|>[[640, 210, 910, 420]]<|/det|>

<|ref|>table<|/ref|><|det|>[[90, 450, 905, 700]]<|/det|>
<table><tr><td>item</td><td>price</td></tr><tr><td>paper</td><td>12.50</td></tr>\
<tr><td>ink, black</td><td>31.00</td></tr></table>"""

_LIGHTON = """\
# Invoice 2041

Issued on 3 May in Orléans, payable within 30 days.

![image](image_1.png){box}

| item | price |
| --- | --- |
| paper | 12.50 |
| ink, black | 31.00 |

The total is $12.50 + 31.00 = 43.50$ EUR."""
LIGHTON_OCR = _LIGHTON.format(box="")
LIGHTON_OCR_BBOX = _LIGHTON.format(box=" 120,300,480,700")

GLM_OCR = """\
# Invoice 2041: a screen, 27"

Issued on 3 May in Orléans, payable within 30 days.

<table><tr><th>item</th><th>price</th></tr><tr><td>paper</td><td>12.50</td></tr>\
<tr><td>ink, black</td><td>31.00</td></tr></table>

$$
\\sum_{i=1}^{2} p_i = 43.50
$$"""

TEXT = '{"invoice_number": "2041", "total": 43.5}'
"""What an annotator answers when it is asked for JSON."""
